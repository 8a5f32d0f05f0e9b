"""Which address the DHCP server gives to whom: pool, reservations, conflicts, bindings from before."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from dhcp_bed import config
from dhcp_talk import SMALL, Talk, ip, mac

from vnet.errors import UsageError
from vnet.services.dhcp.binding import Binding, BindingState
from vnet.units import HOUR, MINUTE, SECOND
from vnet.wire import dhcpv4


@pytest.fixture
def talk():
    return Talk()


# Which address


def test_the_lowest_address_that_nobody_had(talk):
    assert [talk.bind(n) for n in (1, 2, 3)] == [ip(10), ip(11), ip(12)]


def test_the_gateway_and_the_ends_of_the_subnet_are_never_given_out():
    talk = Talk(config("10.0.0.0/29", "10.0.0.0", "10.0.0.3", "10.0.0.6", "10.0.0.2"))
    assert [talk.bind(n) for n in (1, 2)] == [ip(1), ip(3)] and talk.discover(3) is None
    assert talk.server.pool_size == 2


def test_a_client_keeps_its_address_after_a_release_and_after_the_lease(talk):
    assert talk.bind(1) == ip(10)
    talk.release(1, ip(10))
    assert talk.bind(2) == ip(11), "the address of an old client is the last to go"
    assert talk.bind(1) == ip(10)
    talk.wait(37 * HOUR)
    assert talk.bind(3) == ip(12) and talk.bind(2) == ip(11) and talk.bind(1) == ip(10)


def test_when_the_pool_is_used_up_the_longest_free_address_goes(talk):
    for client in (1, 2, 3):
        talk.bind(client)
    talk.release(2, ip(11))
    talk.wait(SECOND)
    talk.release(1, ip(10))
    assert talk.bind(4) == ip(11) and talk.bind(5) == ip(10)
    assert talk.discover(2) is None


def test_exhaustion_is_counted_and_reported_once(talk):
    for client in (1, 2, 3):
        talk.bind(client)
    assert talk.discover(4) is None and talk.discover(5) is None
    assert talk.count("no-address-left") == 2
    assert [event for event in talk.events if event[0] == "dhcp-exhausted"] == [
        ("dhcp-exhausted", {"mac": "02:00:00:00:00:04", "pool": 3})
    ]
    talk.release(2, ip(11))
    assert talk.bind(4) == ip(11)
    talk.discover(5)
    assert [kind for kind, _ in talk.events].count("dhcp-exhausted") == 2


def test_the_address_that_is_asked_for_if_it_is_free(talk):
    assert talk.discover(1, want=ip(12)).yiaddr == ip(12)
    assert talk.discover(2, want=ip(12)).yiaddr == ip(10)
    assert talk.discover(3, want=ip(200)).yiaddr == ip(11)
    assert Talk().discover(1, want=b"\1").yiaddr == ip(10)


def test_offers_are_kept_for_a_while(talk):
    assert talk.discover(1).yiaddr == ip(10) and talk.discover(2).yiaddr == ip(11)
    assert talk.discover(1).yiaddr == ip(10), "the same offer again"
    talk.wait(MINUTE + 1)
    assert talk.discover(3).yiaddr == ip(10) and talk.saved == []


def test_the_oldest_offer_gives_way():
    talk = Talk(replace(SMALL, max_offers=2))
    assert [talk.discover(n).yiaddr for n in (1, 2)] == [ip(10), ip(11)]
    assert talk.discover(3).yiaddr == ip(12)
    assert talk.state(ip(10)) is None and len(talk.server.table.offers) == 2


def test_an_offer_that_was_withdrawn_may_still_be_taken_up(talk):
    talk.discover(1)
    talk.wait(2 * MINUTE)
    assert talk.request(1, want=ip(10), server=ip(2)).message_type == dhcpv4.ACK


def test_identifier_before_hardware_address(talk):
    assert talk.bind(1, id=b"\0one") == ip(10) and talk.bind(1, id=b"\0two") == ip(11)
    assert talk.bind(2, id=b"\0one") == ip(10), "the same client with a new card"


def test_the_usual_identifier_is_the_hardware_address(talk):
    assert talk.bind(1) == talk.bind(1, id=b"\x01" + mac(1))
    assert talk.bind(2, id=b"x") == talk.bind(2), "one octet identifies nobody (RFC 2132, 9.14: at least 2)"


# Reservations


RESERVED = replace(SMALL, reservations={mac(1): IPv4Address("10.0.0.11"), mac(2): IPv4Address("10.0.0.200")})


def test_reservations_inside_and_outside_the_pool():
    talk = Talk(RESERVED)
    assert talk.bind(9) == ip(10) and talk.bind(8) == ip(12) and talk.discover(7) is None
    assert talk.bind(1) == ip(11) and talk.bind(2) == ip(200) and talk.server.pool_size == 2


def test_a_reservation_holds_for_every_identifier_of_the_card():
    talk = Talk(RESERVED)
    assert talk.bind(1, id=b"\0pxe") == ip(11) and talk.bind(1, id=b"\0linux") == ip(11)
    assert len(talk.server.table) == 1


def test_a_client_that_gets_a_reservation_later_moves_at_its_next_renewal():
    talk = Talk(RESERVED, [Binding(ip(12), b"\1" + mac(1), mac(1), BindingState.BOUND, HOUR, 0)])
    assert talk.renew(1, ip(12)).message_type == dhcpv4.NAK
    assert talk.bind(1) == ip(11) and talk.state(ip(12)) is None
    assert [binding.state for binding in talk.saved] == [BindingState.BOUND]


def test_a_reserved_address_that_somebody_still_has_is_not_taken_away():
    talk = Talk(RESERVED, [Binding(ip(11), b"\1" + mac(9), mac(9), BindingState.BOUND, HOUR, 0)])
    assert talk.bind(1) == ip(10)
    assert talk.renew(9, ip(11)).message_type == dhcpv4.NAK, "it may not be renewed"
    talk.wait(2 * HOUR)
    assert talk.bind(1) == ip(11)


def test_nobody_else_gets_a_reserved_address():
    talk = Talk(RESERVED)
    assert talk.discover(9, want=ip(200)).yiaddr == ip(10)
    assert talk.request(9, want=ip(200), server=ip(2)).message_type == dhcpv4.NAK
    assert talk.request(9, want=ip(11)).message_type == dhcpv4.NAK
    assert talk.bind(1) == ip(11)
    talk.release(1, ip(11))
    assert talk.bind(9) == ip(10) and talk.bind(8) == ip(12) and talk.discover(7) is None


# Conflicts


def test_an_address_is_probed_when_it_is_offered_for_the_first_time(talk):
    talk.discover(1)
    assert talk.probes == [ip(10)]
    talk.discover(1)
    assert talk.probes == []
    talk.bind(1)
    talk.release(1, ip(10))
    talk.discover(1)
    assert talk.probes == []
    quiet = Talk(replace(SMALL, probe=False))
    quiet.discover(1)
    assert quiet.probes == []


def test_an_address_that_somebody_uses_is_taken_out(talk):
    talk.discover(1)
    (saved,) = talk.server.observe(0, ip(10), mac(99))
    assert saved.binding.state is BindingState.DECLINED
    assert talk.events == [("dhcp-conflict", {"address": "10.0.0.10", "mac": "02:00:00:00:00:63", "state": "offered"})]
    assert talk.request(1, want=ip(10), server=ip(2)).message_type == dhcpv4.NAK
    assert talk.bind(1) == ip(11)


def test_an_address_that_was_never_offered_is_taken_out_too(talk):
    talk.server.observe(0, ip(10), mac(99))
    assert talk.bind(1) == ip(11) and talk.count("conflict") == 1


def test_a_conflict_over_a_bound_address_is_reported_but_not_in_a_storm(talk):
    talk.bind(1)
    talk.events.clear()
    for _ in range(5):
        assert talk.server.observe(talk.now, ip(10), mac(99)) == []
    assert talk.state(ip(10)) is BindingState.BOUND and talk.count("conflict") == 5
    assert [kind for kind, _ in talk.events] == ["dhcp-conflict"]
    talk.server.observe(2 * HOUR, ip(10), mac(99))
    assert len(talk.events) == 2


def test_the_client_itself_and_strangers_to_the_pool_are_no_conflict(talk):
    talk.bind(1)
    assert talk.server.observe(0, ip(10), mac(1)) == [] and talk.server.observe(0, ip(200), mac(5)) == []
    reserved = Talk(RESERVED)
    assert reserved.server.observe(0, ip(11), mac(1)) == []
    assert talk.count("conflict") == 0


# Configuration and bindings from before


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"server": IPv4Address("10.0.0.11")}, "inside the pool"),
        ({"server": IPv4Address("10.0.1.2")}, "outside the subnet"),
        ({"range_end": IPv4Address("10.0.1.1")}, "outside the subnet"),
        ({"range_start": IPv4Address("10.0.0.13")}, "behind its end"),
        ({"renew": 28 * HOUR}, "must rise"),
        ({"rebind": 36 * HOUR}, "must rise"),
        ({"renew": 0}, "must rise"),
        ({"reservations": {mac(1): IPv4Address("10.0.1.1")}}, "no free address"),
        ({"reservations": {mac(1): IPv4Address("10.0.0.2")}}, "no free address"),
        ({"reservations": {mac(1): IPv4Address("10.0.0.9"), mac(2): IPv4Address("10.0.0.9")}}, "reserved twice"),
    ],
)
def test_a_page_that_cannot_be_true_is_refused(change, text):
    with pytest.raises(UsageError, match=text):
        replace(SMALL, **change)


def test_bindings_from_before_are_kept():
    def old(last, client, state, expires_at):
        return Binding(ip(last), b"\1" + mac(client) if client else b"", mac(client), state, expires_at, -HOUR)

    talk = Talk(
        bindings=[
            old(10, 1, BindingState.BOUND, HOUR),
            old(11, 2, BindingState.BOUND, -1),
            old(12, 0, BindingState.DECLINED, -1),
            old(99, 4, BindingState.BOUND, HOUR),
        ]
    )
    assert talk.state(ip(10)) is BindingState.BOUND and talk.state(ip(11)) is BindingState.EXPIRED
    assert talk.state(ip(12)) is None and talk.state(ip(99)) is None, "quarantine over; not of this pool any more"
    assert talk.bind(2) == ip(11) and talk.bind(5) == ip(12) and talk.renew(1, ip(10)).message_type == dhcpv4.ACK
    talk.wait(40 * HOUR)
    talk.server.expire(talk.now)
    assert {each.state for each in talk.server.table} == {BindingState.EXPIRED}
    assert talk.server.next_deadline() is None


def test_contradicting_bindings_do_not_confuse():
    twice = [Binding(ip(last), b"\1" + mac(1), mac(1), BindingState.BOUND, HOUR, 0) for last in (10, 11)]
    talk = Talk(bindings=twice + twice)
    assert [each.address for each in talk.server.table] == [ip(10)]


def test_flush_forgets_everything(talk):
    talk.bind(1)
    talk.discover(2)
    assert [effect.binding.state for effect in talk.server.flush()] == [BindingState.FREE] * 2
    assert len(talk.server.table) == 0 and talk.renew(1, ip(10)).message_type == dhcpv4.NAK
    assert talk.bind(3) == ip(10)


def test_nothing_grows_with_what_clients_do(talk):
    """Offers that come and go at line rate leave no trace behind (DISCOVER, then the choice of another server)."""
    for n in range(2000):
        talk.discover(n % 250, want=ip(10 + n % 3))
        talk.request(n % 250, want=ip(77), server=ip(77))
        talk.wait(1000)
    table = talk.server.table
    assert len(table) == 0 and len(table.offers) == 0 and len(table.free_again) == 0
    assert len(table.expiries._heap) < 100 and len(talk.server._pool._returned_heap) <= 3
