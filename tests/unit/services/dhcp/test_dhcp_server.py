"""The DHCP server as a machine: each message of RFC 2131, 4.3, and each way an address comes and goes."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from dhcp_bed import SAMPLE_A, SAMPLE_B, SAMPLE_C, config, request

from vnet.errors import UsageError
from vnet.ports import REPORT_BURST
from vnet.services.dhcp.binding import Binding, BindingState
from vnet.services.dhcp.policy import MAX_TAILS
from vnet.services.dhcp.replies import Reply
from vnet.services.dhcp.server import MAX_HOSTNAME, DhcpServer, Probe, Save
from vnet.units import HOUR, MINUTE, SECOND
from vnet.wire import dhcpv4
from vnet.wire import dhcpv4_options as opt

SMALL = config("10.0.0.0/24", "10.0.0.10", "10.0.0.12", "10.0.0.2", "10.0.0.1", dns=["10.0.0.3"], domain="lab.example")


def ip(last: int) -> bytes:
    return bytes((10, 0, 0, last))


def mac(number: int) -> bytes:
    return b"\x02\0\0\0\0" + bytes((number,))


class Talk:
    """A server, and the shortest way to talk to it."""

    def __init__(self, settings=SMALL, bindings=(), now=0):
        self.events = []
        self.now = now
        self.server = DhcpServer(settings, now, bindings, lambda kind, **fields: self.events.append((kind, fields)))

    def send(self, kind, client, **fields):
        options = fields.pop("options", {})
        for name, code in (("want", opt.REQUESTED_ADDRESS), ("server", opt.SERVER_ID), ("id", opt.CLIENT_ID)):
            if name in fields:
                options[code] = fields.pop(name)
        self.effects = self.server.receive(self.now, request(kind, mac(client), options=options, **fields))
        self.reply = next((effect for effect in self.effects if isinstance(effect, Reply)), None)
        self.saved = [effect.binding for effect in self.effects if isinstance(effect, Save)]
        self.probes = [effect.address for effect in self.effects if isinstance(effect, Probe)]
        return dhcpv4.decode(self.reply.payload) if self.reply else None

    def discover(self, client, **fields):
        return self.send(dhcpv4.DISCOVER, client, **fields)

    def request(self, client, **fields):
        return self.send(dhcpv4.REQUEST, client, **fields)

    def bind(self, client, **fields):
        """Do the four-way exchange and return the address."""
        offer = self.discover(client, **fields)
        ack = self.request(client, want=offer.yiaddr, server=offer.options[opt.SERVER_ID], **fields)
        assert ack.message_type == dhcpv4.ACK and ack.yiaddr == offer.yiaddr
        return ack.yiaddr

    def renew(self, client, address):
        return self.request(client, ciaddr=address)

    def release(self, client, address):
        return self.send(dhcpv4.RELEASE, client, ciaddr=address, server=ip(2))

    def wait(self, duration):
        self.now += duration

    def state(self, address):
        binding = self.server.table.of_address(address)
        return binding and binding.state

    def count(self, name):
        return self.server.counters[name]


@pytest.fixture
def talk():
    return Talk()


# What is offered


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SAMPLE_A, {1: "ffffff00", 3: "0a646401", 44: "c0a80e0a", 54: "0a64640a"}),
        (
            SAMPLE_B,
            {1: "ffffff00", 3: "0a146401", 6: "0a146419c0a8101a", 44: "0a146419c0a80f28", 54: "0a146402"},
        ),
        (SAMPLE_C, {1: "ffffff00", 54: "c0a89601"}),
    ],
)
def test_a_client_gets_exactly_what_the_page_says(settings, expected):
    talk = Talk(settings)
    times = {51: (129600).to_bytes(4, "big"), 58: (64800).to_bytes(4, "big"), 59: (97200).to_bytes(4, "big")}
    for wanted in ({}, {opt.PARAMETER_REQUEST_LIST: bytes((44, 6, 3, 1, 15, 66, 67, 60))}):
        offer = talk.discover(1, options=dict(wanted))
        values = {code: bytes.fromhex(value) for code, value in expected.items()}
        assert dict(offer.options) == {53: b"\x02", **values, **times}
        assert offer.yiaddr == settings.range_start.packed and offer.siaddr == bytes(4)


def test_only_what_the_client_asks_for_but_always_what_it_must_have(talk):
    offer = talk.discover(1, options={opt.PARAMETER_REQUEST_LIST: bytes((15, 3, 15, 255, 0))})
    assert list(offer.options) == [53, 54, 51, 58, 59, 1, 15, 3]
    assert offer.options[opt.DOMAIN_NAME] == b"lab.example"


def test_network_boot_is_never_offered(talk):
    """VS-60: whatever the client asks for."""
    offer = talk.discover(1, options={opt.PARAMETER_REQUEST_LIST: bytes(range(1, 255)), 60: b"PXEClient", 93: b"\0\0"})
    assert not {60, 66, 67} & set(offer.options) and offer.file == b"" and offer.sname == b""


def test_the_client_identifier_comes_back(talk):
    assert talk.discover(1, id=b"\xff\1\2\3").options[opt.CLIENT_ID] == b"\xff\1\2\3"  # RFC 6842
    assert opt.CLIENT_ID not in talk.discover(2).options


def test_long_answers_respect_the_size_that_the_client_can_take():
    talk = Talk(replace(SMALL, dns=tuple(IPv4Address(0x08080800 + n) for n in range(100))))
    offer = talk.discover(1)
    assert len(talk.reply.payload) <= dhcpv4.DEFAULT_MAX_OCTETS and opt.DNS_SERVERS not in offer.options
    offer = talk.discover(2, options={opt.MAX_MESSAGE_SIZE: (1500).to_bytes(2, "big")})
    assert len(offer.options[opt.DNS_SERVERS]) == 400


# Where replies go (RFC 2131, 4.1)


def test_replies_go_to_the_address_being_offered(talk):
    talk.discover(1)
    assert talk.reply[1:] == (ip(10), 68, mac(1))


def test_replies_are_broadcast_if_the_client_wants_that(talk):
    offer = talk.discover(1, flags=dhcpv4.BROADCAST_FLAG)
    assert talk.reply[1:] == (b"\xff" * 4, 68, b"\xff" * 6) and offer.broadcast


def test_renewals_are_answered_where_they_came_from(talk):
    address = talk.bind(1)
    assert talk.renew(1, address).ciaddr == address
    assert talk.reply[1:] == (address, 68, None)


def test_relayed_requests_are_answered_to_the_relay_agent(talk):
    offer = talk.discover(1, giaddr=ip(1), options={opt.RELAY_INFORMATION: b"\1\2ab"})
    assert talk.reply[1:] == (ip(1), 67, None) and offer.giaddr == ip(1)
    assert list(offer.options)[-1] == opt.RELAY_INFORMATION
    nak = talk.request(1, giaddr=ip(1), want=bytes((10, 9, 9, 9)))
    assert nak.message_type == dhcpv4.NAK and nak.broadcast and talk.reply[1:] == (ip(1), 67, None)


def test_relays_of_other_subnets_are_not_served(talk):
    assert talk.discover(1, giaddr=bytes((10, 0, 1, 1))) is None and talk.count("other-subnet") == 1


def test_a_host_name_is_kept_as_long_as_a_name_may_be(talk):
    address = talk.bind(1, options={opt.HOST_NAME: b"x" * 2000})
    assert talk.server.table.of_address(address).hostname == "x" * MAX_HOSTNAME


def test_a_client_that_asks_for_the_wrong_address_again_and_again_does_not_fill_the_event_log(talk):
    for _ in range(REPORT_BURST + 10):
        assert talk.request(1, want=bytes((192, 168, 0, 1))).message_type == dhcpv4.NAK
    assert [kind for kind, _ in talk.events] == ["dhcp-nak"] * REPORT_BURST


def test_naks_are_broadcast_and_say_why(talk):
    nak = talk.request(1, want=bytes((192, 168, 0, 1)), id=b"\0abc")
    assert nak.message_type == dhcpv4.NAK and nak.yiaddr == bytes(4) and talk.reply[1:] == (b"\xff" * 4, 68, b"\xff" * 6)
    assert set(nak.options) == {opt.MESSAGE_TYPE, opt.SERVER_ID, opt.ERROR_TEXT, opt.CLIENT_ID}
    assert talk.events == [
        ("dhcp-nak", {"address": "192.168.0.1", "mac": "02:00:00:00:00:01", "reason": "the address is not of this network"})
    ]


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


# REQUEST


def test_the_choice_of_another_server_frees_the_offer(talk):
    talk.discover(1)
    assert talk.request(1, want=ip(99), server=ip(77)) is None and talk.count("other-server") == 1
    assert talk.state(ip(10)) is None and talk.discover(2).yiaddr == ip(10)


def test_the_choice_of_another_server_leaves_a_lease_alone(talk):
    talk.bind(1)
    talk.discover(1)
    talk.request(1, want=ip(99), server=ip(77))
    assert talk.state(ip(10)) is BindingState.BOUND


def test_verification_after_a_reboot(talk):
    talk.bind(1)
    assert talk.request(1, want=ip(10)).message_type == dhcpv4.ACK
    assert talk.request(1, want=ip(11)).message_type == dhcpv4.NAK
    assert talk.request(2, want=ip(10)).message_type == dhcpv4.NAK
    assert talk.request(2, want=bytes((192, 168, 1, 1))).message_type == dhcpv4.NAK, "moved to another network"


def test_a_server_is_silent_where_another_may_know_better(talk):
    assert talk.request(1, want=ip(77)) is None and talk.renew(1, ip(77)) is None
    assert talk.count("unknown-client") == 2
    modest = Talk(replace(SMALL, authoritative=False))
    assert modest.request(1, want=ip(10)) is None and modest.renew(1, ip(10)) is None
    assert talk.renew(1, ip(10)).message_type == dhcpv4.NAK


@pytest.mark.parametrize("fields", [{}, {"want": b"\1\2"}, {"want": bytes(4)}, {"server": ip(2)}])
def test_a_request_for_nothing_is_not_answered(talk, fields):
    assert talk.request(1, **fields) is None and talk.count("bad-message") == 1


def test_a_renewal_runs_for_a_whole_lease(talk):
    talk.bind(1)
    talk.wait(18 * HOUR)
    assert talk.renew(1, ip(10)).options[opt.LEASE_TIME] == (129600).to_bytes(4, "big")
    (binding,) = talk.saved
    assert binding == Binding(ip(10), b"\1" + mac(1), mac(1), BindingState.BOUND, 54 * HOUR, 0)
    talk.wait(35 * HOUR)
    assert talk.discover(2).yiaddr == ip(11) and talk.state(ip(10)) is BindingState.BOUND
    talk.wait(2 * HOUR)
    talk.server.expire(talk.now)
    assert talk.state(ip(10)) is BindingState.EXPIRED
    assert [kind for kind, _ in talk.events] == ["dhcp-bound", "dhcp-renewed", "dhcp-expired"]


def test_the_binding_is_saved_before_the_reply(talk):
    talk.bind(1)
    assert [type(effect) for effect in talk.effects] == [Save, Reply]


def test_a_late_renewal_gets_the_old_address_while_it_is_free(talk):
    talk.bind(1)
    talk.wait(40 * HOUR)
    assert talk.renew(1, ip(10)).message_type == dhcpv4.ACK


def test_a_client_that_moves_to_another_address_leaves_the_old_one(talk):
    talk.bind(1)
    ack = talk.request(1, want=ip(12), server=ip(2))
    assert ack.message_type == dhcpv4.ACK
    assert [(each.address, each.state) for each in talk.saved] == [
        (ip(10), BindingState.FREE),
        (ip(12), BindingState.BOUND),
    ]
    assert talk.discover(2).yiaddr == ip(10)


# DECLINE, RELEASE, INFORM


def test_a_declined_address_is_in_quarantine(talk):
    talk.bind(1)
    assert talk.send(dhcpv4.DECLINE, 1, want=ip(10), server=ip(2)) is None
    assert talk.state(ip(10)) is BindingState.DECLINED and talk.saved[0].state is BindingState.DECLINED
    assert talk.bind(1) == ip(11) and talk.discover(2, want=ip(10)).yiaddr == ip(12) and talk.discover(3) is None
    assert talk.request(3, want=ip(10)).message_type == dhcpv4.NAK
    talk.wait(HOUR + 1)
    assert talk.discover(3).yiaddr == ip(10)


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        (dhcpv4.DECLINE, {"want": ip(11)}, "not-held"),
        (dhcpv4.DECLINE, {}, "not-held"),
        (dhcpv4.DECLINE, {"want": ip(10), "server": ip(77)}, "other-server"),
        (dhcpv4.RELEASE, {"ciaddr": ip(11)}, "not-held"),
        (dhcpv4.RELEASE, {"ciaddr": ip(10), "server": ip(77)}, "other-server"),
    ],
)
def test_only_the_client_itself_gives_an_address_up(talk, kind, fields, reason):
    talk.bind(1)
    talk.send(kind, 1, **fields)
    assert talk.effects == [] and talk.count(reason) == 1
    talk.send(kind, 2, want=ip(10), ciaddr=ip(10))
    assert talk.effects == [] and talk.count("not-held") >= 1 and talk.state(ip(10)) is BindingState.BOUND


def test_a_release_is_saved_and_not_answered(talk):
    talk.bind(1)
    talk.release(1, ip(10))
    assert talk.reply is None and talk.saved[0].state is BindingState.RELEASED
    assert talk.release(1, ip(10)) is None and talk.count("not-held") == 1, "the second time there is nothing to release"


def test_inform_gives_parameters_and_no_lease(talk):
    ack = talk.send(dhcpv4.INFORM, 1, ciaddr=ip(200), giaddr=ip(1))
    assert ack.message_type == dhcpv4.ACK and ack.yiaddr == bytes(4) and talk.reply[1:] == (ip(200), 68, None)
    assert set(ack.options) == {
        opt.MESSAGE_TYPE,
        opt.SERVER_ID,
        opt.SUBNET_MASK,
        opt.ROUTER,
        opt.DNS_SERVERS,
        opt.DOMAIN_NAME,
    }
    assert talk.send(dhcpv4.INFORM, 1) is None and talk.send(dhcpv4.INFORM, 1, ciaddr=b"\1\1\1\1") is None
    assert len(talk.server.table) == 0


# What else may come


def test_what_is_no_request_is_ignored(talk):
    server = talk.server
    for message in (
        request(dhcpv4.DISCOVER, mac(1))._replace(op=dhcpv4.BOOTREPLY),
        request(dhcpv4.OFFER, mac(1)),
        request(99, mac(1)),
        request(dhcpv4.DISCOVER, b""),
        request(dhcpv4.DISCOVER, mac(1))._replace(options={}),
    ):
        assert server.receive(0, message) == []
    assert talk.count("ignored") == 5 and talk.count("received") == 5


def test_an_endless_identifier_is_refused(talk):
    assert talk.discover(1, id=bytes(256)) is None and talk.count("bad-message") == 1
    assert talk.discover(1, id=bytes(255)) is not None


def test_hardware_that_is_no_ethernet_gets_broadcasts(talk):
    reply = talk.server.receive(0, request(dhcpv4.DISCOVER, bytes(8), htype=32))[-1]
    assert reply.mac == b"\xff" * 6


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


# What was asked for


def test_options_are_counted_by_who_asked_and_who_was_given_them(talk):
    assert set(talk.server.option_counters().values()) == {0}
    talk.bind(1, options={opt.PARAMETER_REQUEST_LIST: bytes((3, 3, 6, 43, 1, 51, 0, 255))})
    talk.discover(2)  # without a list it is given all there is
    talk.send(dhcpv4.INFORM, 3, ciaddr=ip(50), options={opt.PARAMETER_REQUEST_LIST: bytes((15,))})
    assert talk.server.option_counters() == {
        "router asked for": 2, "router given": 3, "DNS servers asked for": 2, "DNS servers given": 3,
        "domain name asked for": 1, "domain name given": 2, "option 43 asked for in vain": 2,
    }  # fmt: skip


def test_no_number_of_lists_is_too_many_to_count(talk):
    for number in range(MAX_TAILS * 3):
        talk.discover(1, options={opt.PARAMETER_REQUEST_LIST: bytes((3, 100 + number % 100, 100 + number // 100))})
    counted = talk.server.option_counters()
    assert counted["router asked for"] == counted["router given"] == MAX_TAILS * 3
    assert len(talk.server._tails._uses) <= MAX_TAILS and len(counted) <= 2 * 256
