"""IPv6 of emulated hosts: duplicate address detection, neighbors, echo, UDP, fragments, path MTU, errors."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Address, IPv6Interface, IPv6Network

import pytest

from vnet.errors import UsageError
from vnet.ports import Port
from vnet.stack.host import Host
from vnet.stack.ipv6.addresses import AddressState, Origin, OwnAddress, choose_source
from vnet.stack.neighbor import State
from vnet.units import MINUTE, SECOND
from vnet.wire import icmpv6, ipv6, mld, ndp, udp
from vnet.wire.describe import describe
from vnet.wire.ipv6 import Ipv6
from vnet.wire.virtio_net import HEADER

ROUTER_MAC = bytes.fromhex("525400000063")


def ip(text: str) -> bytes:
    return IPv6Address(text).packed


def mac(number: int) -> bytes:
    return bytes((0x52, 0x54, 0, 0, 0, number))


ONE, TWO, STRANGER = ip("2001:db8::1"), ip("2001:db8::2"), ip("2001:db8::63")
LINK1, LINK2, ROUTER = ipv6.link_local(mac(1)), ipv6.link_local(mac(2)), ipv6.link_local(ROUTER_MAC)


def host6(lan, number: int, *addresses: str, **options) -> Host:
    host = lan.host(number, None, **options)
    side = host.interfaces["eth0"].enable_ipv6()
    for address in addresses or (f"2001:db8::{number}/64",):
        side.add_address(IPv6Interface(address))
    return host


def side(host: Host):
    return host.interfaces["eth0"].ipv6


def pair(lan) -> tuple[Host, Host]:
    hosts = host6(lan, 1), host6(lan, 2)
    lan.run(3 * SECOND)
    lan.hub.take()
    return hosts


def pings(lan, host: Host, destination: bytes, seconds: int = 5, **options):
    results = []
    host.ping(destination, on_result=results.append, timeout=4 * SECOND, **options)
    lan.run(seconds * SECOND)
    (result,) = results
    return result


def texts(lan) -> list[str]:
    return [describe(frame).partition(", ")[2] for frame in lan.hub.take() if frame[12:14] == b"\x86\xdd"]


def to_us(packet: bytes, destination: bytes = mac(1), source: bytes = ROUTER_MAC) -> bytes:
    return destination + source + b"\x86\xdd" + packet


def discovery(message, source: bytes, destination: bytes, hop_limit: int = 255, **macs) -> bytes:
    octets = ndp.encode(message).encode(source, destination)
    head = ipv6.build(source, destination, 58, len(octets), hop_limit=hop_limit)
    to = b"\x33\x33" + destination[-4:] if destination[0] == 0xFF else mac(1)
    return to_us(head + octets, to, **macs)


def datagram(source: bytes, destination: bytes, payload: bytes, source_port: int = 5000, port: int = 7) -> bytes:
    octets = udp.build(source, destination, source_port, port, payload)
    return Ipv6(source=source, destination=destination, next_header=17).encode(len(octets)) + octets


# -- addresses


def test_addresses_are_used_when_nobody_objects(lan):
    host = host6(lan, 1)
    assert pings(lan, host, TWO, seconds=1).error == "no address"
    lan.run(2 * SECOND)
    assert [str(each) for each in side(host).usable_addresses()] == ["2001:db8::1/64", "fe80::5054:ff:fe00:1/64"]
    assert set(host.ipv6.local) == {ONE, LINK1} and side(host).settled
    said = texts(lan)
    assert "IPv6 :: > ff02::1:ff00:1, ICMPv6 neighbor solicitation, target 2001:db8::1, length 24" in said
    assert sum("neighbor solicitation, target" in line for line in said) == 2
    assert any("listener report v2, to-exclude ff02::1:ff00:1" in line for line in said)


def test_a_taken_address_is_not_used(lan):
    first = host6(lan, 1)
    lan.run(3 * SECOND)
    second = host6(lan, 2, "2001:db8::1/64", "2001:db8::2/64")
    conflicts = []
    second.interfaces["eth0"].on_conflict = lambda address, by: conflicts.append((address, by))
    lan.run(3 * SECOND)
    assert side(second).find(ONE).state is AddressState.DUPLICATE and side(first).find(ONE).state is AddressState.PREFERRED
    assert side(second).find(TWO).usable and ONE not in second.ipv6.local
    assert conflicts == [(ONE, mac(1))]
    taken = {"interface": "eth0", "address": "2001:db8::1", "by": "52:54:00:00:00:01"}
    assert ("h2", "address-taken", taken) in lan.events
    assert pings(lan, second, ONE).source == ONE, "whose it is can be reached"


def test_two_that_ask_at_once_do_not_both_get_it(lan):
    one, two = host6(lan, 1, "2001:db8::9/64"), host6(lan, 2, "2001:db8::9/64")
    lan.run(3 * SECOND)
    states = [side(each).find(ip("2001:db8::9")).state for each in (one, two)]
    assert states.count(AddressState.PREFERRED) == 1 and states.count(AddressState.DUPLICATE) == 1


def test_somebody_else_who_asks_for_what_we_ask_for(lan):
    host = host6(lan, 1)
    while not any("target 2001:db8::1" in line for line in texts(lan)):
        lan.run(SECOND // 10)
    lan.inject(discovery(ndp.NeighborSolicitation(ONE), STRANGER, ipv6.solicited_node(ONE)))
    assert side(host).find(ONE).state is AddressState.TENTATIVE, "who has an address already asks for its neighbor"
    lan.inject(discovery(ndp.NeighborSolicitation(ONE), ipv6.ANY, ipv6.solicited_node(ONE)))
    assert side(host).find(ONE).state is AddressState.DUPLICATE


def test_our_own_question_that_comes_back_is_no_conflict(lan):
    host = host6(lan, 1)
    port = host.interfaces["eth0"].port
    send = port.send

    def echo(frame, offload):
        send(frame, offload)
        lan.timeline.soon(port.receive, frame, offload)

    port.send = echo
    lan.run(3 * SECOND)
    assert side(host).find(ONE).usable


def test_somebody_who_claims_our_address_later_is_reported(lan):
    one, _ = pair(lan)
    claim = ndp.NeighborAdvertisement(ONE, override=True, options=ndp.Options(target_mac=ROUTER_MAC))
    lan.inject(discovery(claim, ONE, ipv6.ALL_NODES))
    assert side(one).find(ONE).usable
    assert [fields["by"] for _, kind, fields in lan.events if kind == "address-conflict"] == ["52:54:00:00:00:63"]


def test_addresses_are_asked_for_again_after_the_cable_was_out(lan):
    one, _ = pair(lan)
    port = one.interfaces["eth0"].port
    port.set_carrier(False)
    assert side(one).settled
    port.set_carrier(True)
    assert not side(one).settled and ONE not in one.ipv6.local
    lan.run(3 * SECOND)
    assert side(one).find(ONE).usable
    assert any("to-exclude ff02::1:ff00:1" in line for line in texts(lan)), "a switch that snoops has to learn again"


def test_an_address_that_is_removed(lan):
    one, two = pair(lan)
    side(one).remove_address(ONE)
    assert one.ipv6.routes.lookup(TWO) is None and ONE not in one.ipv6.local
    assert any("to-include ff02::1:ff00:1" in line for line in texts(lan)) is False, (
        "the link-local address has the group too"
    )
    assert pings(lan, two, ONE).error == "address unreachable"


def test_ipv6_needs_1280_octets(lan):
    host = lan.host(1, mtu=1279)
    with pytest.raises(UsageError, match="1280"):
        host.interfaces["eth0"].enable_ipv6()


def test_a_host_without_ipv6_counts_and_forgets(lan):
    host = lan.host(1)
    lan.inject(to_us(datagram(STRANGER, ONE, b"x")))
    assert host.drops == {"ipv6": 1} and host.ipv6 is None
    results = []
    host.ping(TWO, on_result=results.append)
    lan.run()
    assert results[0].error == "no route"


@pytest.mark.parametrize(
    ("destination", "source"),
    [
        ("fe80::9", "fe80::1"),
        ("ff02::1", "fe80::1"),
        ("2001:db8:1::9", "2001:db8:1::1"),
        ("2001:db8:2::9", "2001:db8::1"),
        ("2001:db8:f::9", "2001:db8::1"),
        ("fd00::9", "fd00::1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_source_selection(destination, source):
    own = []
    for text in ("fe80::1/64", "2001:db8:f::1/64", "fd00::1/64", "2001:db8::1/64", "2001:db8:1::1/64"):
        interface = IPv6Interface(text)
        made = OwnAddress(interface.ip.packed, interface.network.prefixlen, Origin.STATIC)
        made.state = AddressState.DEPRECATED if text.startswith("2001:db8:f") else AddressState.PREFERRED
        own.append(made)
    tentative = OwnAddress(ip("2001:db8:2::1"), 64, Origin.STATIC)
    assert choose_source([tentative, *own], ip(destination)) == ip(source)
    assert choose_source([tentative], ip(destination)) is None


# -- neighbors


def test_ping_finds_the_neighbor_and_remembers_it(lan):
    one, two = pair(lan)
    result = pings(lan, one, TWO)
    assert result.ok and result.source == TWO and result.ttl == 64
    entry = side(one).neighbors.entries[TWO]
    assert entry.state is State.REACHABLE and entry.mac == mac(2)
    assert side(two).neighbors.entries[ONE].state is State.REACHABLE, "it was probed when it had been used for 5 s"
    said = texts(lan)
    assert said[0] == (
        "IPv6 2001:db8::1 > ff02::1:ff00:2, ICMPv6 neighbor solicitation, target 2001:db8::2, "
        "from 52:54:00:00:00:01, length 32"
    )
    assert said[1] == (
        "IPv6 2001:db8::2 > 2001:db8::1, ICMPv6 neighbor advertisement, target 2001:db8::2, solicited override, "
        "is-at 52:54:00:00:00:02, length 32"
    )
    assert pings(lan, one, LINK2).ok and pings(lan, one, ONE).ok, "link-local, and itself"
    assert pings(lan, one, ipv6.ALL_NODES).source == LINK2
    assert pings(lan, one, ipv6.LOOPBACK).source == ipv6.LOOPBACK


def test_a_neighbor_that_is_not_there(lan):
    one, _ = pair(lan)
    result = pings(lan, one, STRANGER)
    assert (result.ok, result.error, result.rtt) == (False, "address unreachable", 3 * SECOND)
    assert sum("target 2001:db8::63" in line for line in texts(lan)) == 3
    assert STRANGER not in side(one).neighbors.entries


def test_stale_entries_are_probed_by_unicast(lan):
    one, two = pair(lan)
    assert pings(lan, one, TWO).ok
    lan.run(MINUTE)
    entry = side(one).neighbors.entries[TWO]
    assert entry.state is State.STALE and entry.header is None
    lan.hub.take()
    assert pings(lan, one, TWO, seconds=4).ok
    assert entry.state is State.DELAY
    lan.run(6 * SECOND)
    assert entry.state is State.REACHABLE
    assert any("IPv6 2001:db8::1 > 2001:db8::2, ICMPv6 neighbor solicitation" in line for line in texts(lan))
    two.interfaces["eth0"].port.unplug()
    lan.run(2 * MINUTE)
    one.ping(TWO, on_result=lambda result: None)
    lan.run(10 * SECOND)
    assert entry.state is State.FAILED and TWO not in side(one).neighbors.entries


@pytest.mark.parametrize(
    ("solicited", "override", "state", "moved"),
    [
        (False, False, State.STALE, False),
        (True, False, State.STALE, False),
        (False, True, State.STALE, True),
        (True, True, State.REACHABLE, True),
    ],
)
def test_an_advertisement_with_another_mac(lan, solicited, override, state, moved):
    one, _ = pair(lan)
    assert pings(lan, one, TWO, seconds=4).ok
    entry = side(one).neighbors.entries[TWO]
    assert entry.state is State.REACHABLE
    message = ndp.NeighborAdvertisement(TWO, False, solicited, override, ndp.Options(target_mac=ROUTER_MAC))
    lan.inject(discovery(message, TWO, ONE if solicited else ipv6.ALL_NODES))
    assert entry.state is state and entry.mac == (ROUTER_MAC if moved else mac(2))
    assert any(kind == "neighbor-moved" for _, kind, _ in lan.events) is moved


def test_an_advertisement_that_nobody_asked_for_makes_no_entry(lan):
    one, _ = pair(lan)
    message = ndp.NeighborAdvertisement(STRANGER, False, False, True, ndp.Options(target_mac=ROUTER_MAC))
    lan.inject(discovery(message, STRANGER, ipv6.ALL_NODES))
    assert STRANGER not in side(one).neighbors.entries
    question = ndp.NeighborSolicitation(ONE, ndp.Options(source_mac=ROUTER_MAC))
    lan.inject(discovery(question, STRANGER, ipv6.solicited_node(ONE)))
    assert side(one).neighbors.entries[STRANGER].state is State.STALE
    lan.inject(discovery(question, STRANGER, ipv6.solicited_node(ONE), hop_limit=254))
    assert one.drops == {"ndp-malformed": 1}


def test_the_cache_and_what_waits_are_bounded(lan, monkeypatch):
    monkeypatch.setattr("vnet.stack.neighbor.MAX_ENTRIES", 8)
    monkeypatch.setattr("vnet.stack.neighbor.MAX_QUEUED_OCTETS", 5000)
    one, _ = pair(lan)
    socket = one.udp_bind(both=True, on_datagram=lambda payload, source: None)
    for number in range(100):
        assert socket.send_to(bytes(1000), (ip(f"2001:db8::1:{number}"), 9)) is None
    cache = side(one).neighbors
    assert len(cache.entries) == 8 and 0 < cache.queued_octets <= 5000
    lan.run(5 * SECOND)
    assert not cache.entries and cache.queued_octets == 0


# -- UDP


def test_datagrams_both_ways_and_by_the_same_socket_as_ipv4(lan):
    one, two = pair(lan)
    one.interfaces["eth0"].add_address(IPv4Interface("10.0.0.1/24"))
    two.interfaces["eth0"].add_address(IPv4Interface("10.0.0.2/24"))
    echo = two.udp_bind(7, both=True, on_datagram=lambda payload, source: echo.send_to(payload.upper(), source) and None)
    got = []
    socket = one.udp_bind(both=True, on_datagram=lambda payload, source: got.append((payload, source)))
    assert socket.send_to(b"six", (TWO, 7)) is None and socket.send_to(b"four", (b"\x0a\0\0\2", 7)) is None
    lan.run()
    assert sorted(got) == [(b"FOUR", (b"\x0a\0\0\2", 7)), (b"SIX", (TWO, 7))]
    bound = one.udp_bind(5353, b"\x0a\0\0\1", both=True, on_datagram=lambda payload, source: None)
    assert bound.send_to(b"x", (TWO, 7)) == "no address"
    plain = one.udp_bind(5352, on_datagram=lambda payload, source: got.append(payload))
    assert plain.send_to(b"x", (TWO, 7)) == "no address", "who reads it knows IPv4 addresses only"
    two.udp_bind(both=True, on_datagram=lambda payload, source: None).send_to(b"x", (ONE, 5352))
    lan.run()
    assert len(got) == 2 and one.drops == {"udp-port": 1}
    bound = one.udp_bind(5354, ONE, both=True, on_datagram=lambda payload, source: None)
    assert bound.send_to(b"x", (b"\x0a\0\0\2", 7)) == "no address"
    assert bound.send_to(bytes(65528), (TWO, 7)) == "message too long"
    assert bound.send_to(b"x", (ip("2001:db9::1"), 7)) == "no route"


@pytest.mark.parametrize("size", [0, 1, 1452, 1453, 9000, 65527])
def test_datagrams_of_any_size(lan, size):
    one, two = pair(lan)
    assert pings(lan, one, TWO).ok, "more fragments than may wait for an unknown neighbor"
    lan.hub.take()
    got = []
    two.udp_bind(7, both=True, on_datagram=lambda payload, source: got.append(payload))
    socket = one.udp_bind(both=True, on_datagram=lambda payload, source: None)
    payload = bytes(index % 251 for index in range(size))
    assert socket.send_to(payload, (TWO, 7)) is None
    lan.run()
    assert got == [payload]
    sent = [frame for frame in lan.hub.take() if frame[20] in (17, 44)]
    assert all(len(frame) <= 1514 for frame in sent) and (len(sent) > 1) == (size > 1452)


def test_a_port_without_a_socket(lan):
    one, two = pair(lan)
    errors = []
    socket = one.udp_bind(both=True, on_datagram=lambda payload, source: None)
    socket.on_error = lambda destination, error: errors.append((destination, error.text, error.reporter))
    socket.send_to(b"x", (TWO, 9))
    lan.run()
    assert errors == [((TWO, 9), "port unreachable", TWO)] and two.drops == {"udp-port": 1}
    socket.send_to(b"x", (ipv6.LOOPBACK, 9))
    lan.run()
    assert errors[1:] == [((ipv6.LOOPBACK, 9), "port unreachable", ipv6.LOOPBACK)]


def test_a_datagram_to_a_group(lan):
    one, two = pair(lan)
    group = ip("ff02::1:3")
    got = []
    two.udp_bind(5355, both=True, on_datagram=lambda payload, source: got.append(payload))
    socket = one.udp_bind(both=True, on_datagram=lambda payload, source: None)
    socket.send_to(b"nobody", (group, 5355))
    lan.run()
    side(two).join(group)
    socket.send_to(b"joined", (group, 5355))
    socket.send_to(b"no error for a group", (group, 9999))
    lan.run()
    side(two).leave(group)
    socket.send_to(b"left", (group, 5355))
    lan.run(2 * SECOND)
    assert got == [b"joined"]
    said = texts(lan)
    assert sum("to-exclude ff02::1:3" in line for line in said) == 2, "twice within a second"
    assert sum("to-include ff02::1:3" in line for line in said) == 2
    assert not any("unreachable" in line for line in said)


def test_checksums_are_a_must(lan):
    one, _ = pair(lan)
    got = []
    one.udp_bind(7, both=True, on_datagram=lambda payload, source: got.append(payload))
    packet = datagram(STRANGER, ONE, b"data")
    lan.inject(to_us(packet))
    lan.inject(to_us(packet[:46] + b"\0\0" + packet[48:]))
    lan.inject(to_us(packet[:-1] + b"x"))
    assert got == [b"data"] and one.drops == {"udp-malformed": 2}


# -- errors, extension headers


def test_errors_are_sent_for_what_is_unknown_and_at_a_bounded_rate(lan):
    one, _ = pair(lan)
    lan.inject(
        discovery(ndp.NeighborSolicitation(ONE, ndp.Options(source_mac=ROUTER_MAC)), STRANGER, ipv6.solicited_node(ONE))
    )
    unknown = Ipv6(source=STRANGER, destination=ONE, next_header=99).encode(4) + b"what"
    (answer,) = lan.inject(to_us(unknown))
    assert "ICMPv6 unrecognized next header, at 6, about protocol 99 2001:db8::63 > 2001:db8::1" in describe(answer)
    assert lan.inject(to_us(Ipv6(source=STRANGER, destination=ONE, next_header=59).encode(0))) == []
    assert lan.inject(to_us(Ipv6(source=ipv6.ANY, destination=ONE, next_header=99).encode(0))) == []
    group = Ipv6(source=STRANGER, destination=ipv6.ALL_NODES, next_header=99).encode(0)
    assert lan.inject(to_us(group, b"\x33\x33\0\0\0\1")) == []
    for kind, count in ((0x9E, 1), (0xDE, 0), (0x5E, 0), (0x1E, 0)):
        options = bytes((59, 0, kind, 4, 0, 0, 0, 0))
        packet = Ipv6(source=STRANGER, destination=ipv6.ALL_NODES, next_header=60).encode(8) + options
        answers = [each for each in lan.inject(to_us(packet, b"\x33\x33\0\0\0\1")) if each[6:12] == mac(1)]
        assert len(answers) == count, hex(kind)
    error = icmpv6.build(STRANGER, ONE, 1, 0, 0, unknown)
    wrapped = Ipv6(source=STRANGER, destination=ONE, next_header=60).encode(8 + len(error)) + bytes(
        (58, 0, 0xDE, 4, 0, 0, 0, 0)
    )
    assert lan.inject(to_us(wrapped + error)) == [], "no error about an error"
    count = sum(len(lan.inject(to_us(unknown))) for _ in range(100))
    assert 0 < count < 50 and one.drops["icmp-rate-limit"] == 100 - count
    lan.run()
    assert len(lan.inject(to_us(unknown))) == 1


def test_what_is_not_for_us(lan):
    one, _ = pair(lan)
    interface = one.interfaces["eth0"]
    before = interface.ignored
    lan.inject(to_us(datagram(STRANGER, TWO, b"x")))
    lan.inject(to_us(datagram(ip("ff02::5"), ONE, b"x")))
    lan.inject(to_us(datagram(ONE, ONE, b"x")))
    lan.inject(to_us(datagram(STRANGER, ONE, b"x"), mac(9)))
    lan.inject(to_us(datagram(STRANGER, ip("ff02::99"), b"x"), b"\x33\x33\0\0\0\x99"))
    lan.inject(to_us(b"\x60short"))
    lan.inject(to_us(datagram(STRANGER, ONE, b"cut off")[:-1]))
    assert one.drops == {"ipv6-not-ours": 1, "ipv6-source": 2, "ipv6-malformed": 2}
    assert interface.ignored == before + 2


def test_super_frames_and_pending_checksums(lan):
    one, _ = pair(lan)
    got = []
    one.udp_bind(7, both=True, on_datagram=lambda payload, source: got.append(payload))
    packet = datagram(STRANGER, ONE, bytes(range(250)))
    lan.inject(to_us(packet[:46] + b"\0\1" + packet[48:]), HEADER.pack(1, 0, 0, 0, 54, 6))
    lan.inject(to_us(packet), HEADER.pack(1, 5, 62, 100, 54, 6))
    lan.inject(to_us(packet), HEADER.pack(0, 5, 62, 100, 54, 6))
    lan.inject(to_us(packet), b"short")
    assert [len(each) for each in got] == [250, 100, 100, 50] and one.drops == {"offload-malformed": 2}


# -- fragments


def pieces(payload: bytes, mtu: int = 1280, ident: int = 7) -> list[bytes]:
    return ipv6.fragment(datagram(STRANGER, ONE, payload), mtu, ident)


def piece(data: bytes, offset: int, more: bool, ident: int = 7, kind: int = 17) -> bytes:
    body = ipv6.FragmentHeader(kind, offset, more, ident).encode() + data
    return Ipv6(source=STRANGER, destination=ONE, next_header=44).encode(len(body)) + body


@pytest.fixture
def receiver(lan):
    one, _ = pair(lan)
    got = []
    one.udp_bind(7, both=True, on_datagram=lambda payload, source: got.append(payload))
    return one, got


def test_fragments_in_any_order(lan, receiver):
    one, got = receiver
    payload = bytes(index % 251 for index in range(5000))
    parts = pieces(payload)
    for part in (parts[2], parts[0], parts[0], parts[3], parts[4], parts[1]):
        lan.inject(to_us(part))
    assert got == [payload] and one.drops == {"fragment-duplicate": 1}


def test_overlapping_fragments_spoil_the_packet_for_good(lan, receiver):
    one, got = receiver
    parts = pieces(bytes(5000))
    lan.inject(to_us(parts[0]))
    lan.inject(to_us(piece(bytes(16), 1224, True)))
    for part in parts:
        lan.inject(to_us(part))
    assert got == [] and one.drops == {"fragment-overlap": 1 + len(parts)}
    lan.run(61 * SECOND)
    for part in parts:
        lan.inject(to_us(part))
    assert got == [bytes(5000)], "a minute later the number is free again"


def test_a_fragment_alone_is_a_packet(lan, receiver):
    one, got = receiver
    whole = datagram(STRANGER, ONE, b"atomic")
    lan.inject(to_us(pieces(bytes(2000))[0]))
    lan.inject(to_us(piece(whole[40:], 0, False)))
    assert got == [b"atomic"], "whatever waits under its number (RFC 6946)"


def test_bad_fragments(lan, receiver):
    one, got = receiver
    lan.inject(
        discovery(ndp.NeighborSolicitation(ONE, ndp.Options(source_mac=ROUTER_MAC)), STRANGER, ipv6.solicited_node(ONE))
    )
    (answer,) = lan.inject(to_us(piece(bytes(13), 0, True)))
    assert "erroneous header field, at 4" in describe(answer)
    (answer,) = lan.inject(to_us(piece(bytes(100), 65528, False)))
    assert "erroneous header field, at 42" in describe(answer)
    assert lan.inject(to_us(piece(b"", 8, False))) == []
    assert lan.inject(to_us(piece(bytes(0) + bytes(8), 0, True, kind=6))) == []
    assert lan.inject(to_us(piece(b"\x3c\xff" + bytes(6), 0, True, kind=60))) == [], "a chain that goes on in the next one"
    inner = ipv6.FragmentHeader(17, 0, True, 9).encode() + bytes(8)
    assert lan.inject(to_us(piece(inner, 0, False, kind=44))) == [], "fragments in fragments"
    assert lan.inject(to_us(Ipv6(source=STRANGER, destination=ONE, next_header=44).encode(4) + bytes(4))) == []
    assert got == []
    assert one.drops == {"fragment-malformed": 3, "fragment-tiny": 2, "ipv6-malformed": 2}


def test_what_stays_in_pieces_is_given_up_after_a_minute(lan, receiver):
    one, _ = receiver
    lan.inject(
        discovery(ndp.NeighborSolicitation(ONE, ndp.Options(source_mac=ROUTER_MAC)), STRANGER, ipv6.solicited_node(ONE))
    )
    lan.inject(to_us(pieces(bytes(3000))[0]))
    lan.inject(to_us(pieces(bytes(3000), ident=8)[1]))
    lan.run(61 * SECOND)
    (line,) = [line for line in texts(lan) if "time exceeded" in line]
    assert "reassembly time exceeded" in line and one.drops == {"fragment-timeout": 2}


def test_fragments_that_wait_are_bounded(lan, receiver):
    one, _ = receiver
    for ident in range(200):
        lan.inject(to_us(piece(bytes(1200), 8, True, ident)))
    assert len(one.ipv6._reassembler) == 64 and one.drops == {"fragment-queue-full": 136}


# -- path MTU


def too_big(packet: bytes, mtu: int) -> bytes:
    octets = icmpv6.build(STRANGER, ONE, icmpv6.PACKET_TOO_BIG, 0, mtu, packet[:1232])
    return to_us(Ipv6(source=STRANGER, destination=ONE, next_header=58).encode(len(octets)) + octets)


def test_path_mtu_is_learned_and_forgotten(lan):
    one, two = pair(lan)
    got, errors = [], []
    two.udp_bind(7, both=True, on_datagram=lambda payload, source: got.append(payload))
    socket = one.udp_bind(5000, both=True, on_datagram=lambda payload, source: None)
    socket.on_error = lambda destination, error: errors.append(error)
    socket.send_to(bytes(1400), (TWO, 7))
    lan.run()
    (sent,) = [frame[14:] for frame in lan.hub.take() if frame[20] == 17]
    for mtu in (1279, 1501, 1300):
        lan.inject(too_big(sent, mtu))
    assert [error.mtu for error in errors] == [1279, 1501, 1300] and len(one.ipv6.paths) == 1
    socket.send_to(bytes(1400), (TWO, 7))
    lan.run()
    sizes = [len(frame) - 14 for frame in lan.hub.take() if frame[20] in (17, 44)]
    assert len(sizes) == 2 and max(sizes) <= 1300 and got == [bytes(1400)] * 2
    lan.inject(too_big(sent, 1400))
    assert one.ipv6.paths.get(lan.timeline.now, TWO, 1500) == 1300, "never up"
    lan.run(11 * MINUTE)
    assert one.ipv6.paths.get(lan.timeline.now, TWO, 1500) == 1500 and len(one.ipv6.paths) == 0


def test_path_mtu_is_not_learned_from_strangers(lan, monkeypatch):
    one, _ = pair(lan)
    lan.inject(too_big(datagram(ONE, TWO, bytes(1400), 6666), 1300))
    lan.inject(too_big(datagram(STRANGER, TWO, bytes(1400), 5000), 1300))
    assert len(one.ipv6.paths) == 0 and one.drops == {"icmp-unmatched": 2}
    monkeypatch.setattr("vnet.stack.ipv6.paths.MAX_PATHS", 4)
    one.udp_bind(5000, both=True, on_datagram=lambda payload, source: None)
    for number in range(10):
        lan.inject(too_big(datagram(ONE, ip(f"2001:db8::{number:x}00"), bytes(1400), 5000), 1300))
    assert len(one.ipv6.paths) == 4


def test_a_ping_that_is_too_big(lan):
    one, two = pair(lan)
    assert pings(lan, one, TWO, size=6000).ok, "in fragments, both ways"
    assert pings(lan, one, TWO, size=1452, dont_fragment=True).ok
    assert pings(lan, one, TWO, size=1453, dont_fragment=True).error == "packet too big"
    assert pings(lan, one, TWO, size=65536).error == "message too long"
    assert two.drops == {}


# -- multicast listeners


def query(group: bytes = ipv6.ANY, source: bytes = ROUTER, **fields) -> bytes:
    to = ipv6.ALL_NODES if group == ipv6.ANY else group
    return to_us(mld.packet(source, to, mld.Query(group=group, **fields).encode()), b"\x33\x33" + to[-4:])


def test_queries_are_answered_within_their_time(lan):
    one, _ = pair(lan)
    side(one).join(ip("ff02::fb"))
    lan.run(2 * SECOND)
    lan.inject(query(max_response=1000))
    lan.run()
    (line,) = [line for line in texts(lan) if "fe80::5054:ff:fe00:1 > ff02::16" in line]
    assert "is-exclude ff02::1:ff00:1" in line and "is-exclude ff02::fb" in line
    lan.inject(query(ip("ff02::fb"), max_response=100))
    lan.run()
    (line,) = [line for line in texts(lan) if "ff02::16" in line]
    assert line.endswith("is-exclude ff02::fb, length 28")
    for bad in (query(source=ONE), query(source=STRANGER), query()[:-1] + b"\1"):
        lan.inject(bad)
    unalerted = query()
    octets = mld.Query().encode().encode(ROUTER, ipv6.ALL_NODES)
    lan.inject(unalerted[:14] + ipv6.build(ROUTER, ipv6.ALL_NODES, 58, len(octets), hop_limit=1) + octets)
    lan.run(11 * SECOND)
    assert not any("ff02::16" in line for line in texts(lan))
    assert one.drops == {"ipv6-source": 1, "mld-malformed": 2, "icmp-malformed": 1}


def test_a_querier_of_version_1_gets_what_it_understands(lan):
    one, _ = pair(lan)
    group = ip("ff02::fb")
    side(one).join(group)
    lan.run(2 * SECOND)
    lan.inject(query(version=1, max_response=1000))
    lan.run()
    side(one).leave(group)
    lan.run(2 * SECOND)
    said = [line for line in texts(lan) if "multicast listener" in line and "5054:ff:fe00:1 >" in line]
    ours = "hop-by-hop options, IPv6 fe80::5054:ff:fe00:1 > "
    assert f"{ours}ff02::fb, ICMPv6 multicast listener report, group ff02::fb, length 24" in said
    assert f"{ours}ff02::1:ff00:1, ICMPv6 multicast listener report, group ff02::1:ff00:1, length 24" in said
    assert f"{ours}ff02::2, ICMPv6 multicast listener done, group ff02::fb, length 24" in said
    assert not any("report v2" in line for line in said)
    lan.run(260 * SECOND)
    lan.inject(query(max_response=1000))
    lan.run()
    assert any("report v2, is-exclude ff02::1:ff00:1" in line for line in texts(lan)), "it is gone"


def test_static_routes(lan):
    one, two = pair(lan)
    one.ipv6.routes.add(IPv6Network("2001:db8:5::/48"), TWO)
    side(two).add_address(IPv6Interface("2001:db8:5::2/128"))
    lan.run(2 * SECOND)
    assert pings(lan, one, ip("2001:db8:5::2")).source == ip("2001:db8:5::2")
    assert pings(lan, one, ip("2001:db8:6::2")).error == "no route"


def test_who_loses_its_port_is_not_heard(lan):
    one, _ = pair(lan)
    interface = one.interfaces["eth0"]
    one.udp_bind(both=True, on_datagram=lambda payload, source: None).send_to(b"x", (STRANGER, 9))
    interface.port = Port("h1:gone", lambda frame, offload: None)
    lan.hub.take()
    side(one).join(ip("ff02::fb"))
    lan.run(MINUTE)
    assert not any(frame[6:12] == mac(1) for frame in lan.hub.take())
