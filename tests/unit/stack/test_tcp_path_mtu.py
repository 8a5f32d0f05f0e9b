"""The path MTU of TCP over IPv4 (RFC 1191): learned, weighed, forgotten."""

from __future__ import annotations

import pytest

from tests.tcp_bed import A, B
from vnet.units import MINUTE, SECOND
from vnet.wire import icmpv4
from vnet.wire.ipv4 import Ipv4
from vnet.wire.tcp import SYN
from vnet.wire.tcp_options import decode


def too_large(pair, mtu):
    """Tell host a that its last frame was too large for the path."""
    frame = next(frame for _, frame, _ in reversed(pair.wire.frames) if frame[29] == 1 and len(frame) > 66)
    message = icmpv4.build(3, 4, mtu, frame[14:42])
    packet = Ipv4(source=B, destination=A, protocol=1).encode(len(message)) + message
    pair.a.interfaces["eth0"].receive(frame[6:12] + frame[:6] + b"\x08\0" + packet, bytes(10))


def test_a_smaller_path_mtu_is_learned(pair):
    client, server = pair.connect()
    pair.wire.filter = lambda frame: len(frame) <= 14 + 1000 or frame[29] != 1
    client.send(bytes(100_000))
    too_large(pair, 1000)
    assert client.sender.mss == 1000 - 52
    pair.wire.filter = lambda frame: True
    offloads = {int.from_bytes(offload[4:6], "little") for _, frame, offload in pair.wire.frames[-1:]}
    assert offloads <= {0, 948}
    pair.run(10 * SECOND)
    assert server.available == 100_000
    pair.b.tcp.listen(81)
    again = pair.a.tcp.connect(B, 81)
    pair.run(0)
    assert decode(next(s for s in pair.wire.segments(A) if s.flags == SYN).options).mss == 1460, "what it can take in"
    assert again.sender.mss == 948


@pytest.mark.parametrize(("told", "mss"), [(0, 1492 - 52), (1500, 1448), (9000, 1448), (100, 552 - 52)])
def test_what_routers_say_is_weighed(pair, told, mss):
    client, _ = pair.connect()
    client.send(bytes(10_000))
    too_large(pair, told)
    assert client.sender.mss == mss
    if told == 100:
        assert not pair.wire.frames[-1][1][20] & 0x40, "it may be fragmented then"


def test_a_path_that_swallows_large_packets_is_found_out(pair):
    client, server = pair.connect()
    pair.wire.cut = True
    pair.wire.filter = lambda frame: len(frame) <= 14 + 1200
    client.send(bytes(100_000))
    pair.run(20 * SECOND)
    assert server.available == 100_000 and client.sender.mss == 1024 - 12
    assert pair.a.tcp.path_mtus.get(B) == 1064


def test_path_mtus_are_bounded_and_forgotten(pair):
    mtus = pair.a.tcp.path_mtus
    for number in range(1100):
        assert mtus.learn(number.to_bytes(4, "big"), 1000, 1500)
    assert len(mtus._found) == 1024 and (mtus.get(bytes(4)), mtus.get(bytes((0, 0, 4, 0)))) == (65535, 1000)
    pair.run(10 * MINUTE)
    assert mtus.get(bytes((0, 0, 4, 0))) == 65535


def test_a_change_of_routes_finds_another_path(pair):
    client, server = pair.connect()
    pair.a.interfaces["eth0"].mtu = 1000
    pair.a.changed()
    client.send(bytes(5000))
    pair.run(SECOND)
    assert client.sender.mss == 948 and server.available == 5000
