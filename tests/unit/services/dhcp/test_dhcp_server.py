"""The DHCP server as a machine: what it offers, where replies go, and each message of RFC 2131, 4.3."""

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from dhcp_bed import SAMPLE_A, SAMPLE_B, SAMPLE_C, request
from dhcp_talk import SMALL, Talk, ip, mac

from vnet.ports import REPORT_BURST
from vnet.services.dhcp.binding import Binding, BindingState
from vnet.services.dhcp.policy import MAX_TAILS
from vnet.services.dhcp.replies import Reply
from vnet.services.dhcp.server import MAX_HOSTNAME, Save
from vnet.units import HOUR
from vnet.wire import dhcpv4
from vnet.wire import dhcpv4_options as opt


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
