"""Fragments over IPv6, and the path MTU that makes them."""

from __future__ import annotations

import pytest
from ipv6_lan import ONE, ROUTER_MAC, STRANGER, TWO, datagram, discovery, ip, pair, pings, texts, to_us

from vnet.units import MINUTE, SECOND
from vnet.wire import icmpv6, ipv6, ndp
from vnet.wire.describe import describe
from vnet.wire.ipv6 import Ipv6

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
