"""The short way in for TCP: it hands over what the long way would, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ipv6_lan import TWO, pair

from vnet.ports import NO_OFFLOAD
from vnet.stack.tcp.connection import TcpConnection
from vnet.stack.tcp.short import Ipv6ShortWay, ShortWay
from vnet.stack.tcp.states import State
from vnet.wire.ipv6 import ALL_NODES
from vnet.wire.virtio_net import HEADER, TCP6_CHECKSUM, TCP_CHECKSUM, UDP_CHECKSUM, tcp6_super, tcp_super

OFFLOADS = (
    TCP_CHECKSUM, tcp_super(66, 1448), tcp_super(66, 1448, cwr=True), UDP_CHECKSUM, NO_OFFLOAD, b"", b"short", bytes(11),
    HEADER.pack(1, 1, 66, 0, 34, 16), HEADER.pack(1, 4, 66, 1448, 34, 16), HEADER.pack(0, 1, 66, 1448, 34, 16),
    TCP6_CHECKSUM, tcp6_super(86, 1428), HEADER.pack(1, 1, 86, 1428, 54, 16), HEADER.pack(0, 4, 86, 1428, 54, 16),
    HEADER.pack(1, 3, 66, 1448, 34, 16), HEADER.pack(2, 0, 0, 0, 0, 0), HEADER.pack(1, 0, 0, 0, 38, 16),
)  # fmt: skip


PENDING = {4: TCP_CHECKSUM, 6: TCP6_CHECKSUM}


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def version(request):
    return request.param


@pytest.fixture
def sent(lan, version):
    """A server, and the frames with which a client established a connection to it, sent data and acknowledged some."""
    client, server = (lan.host(1), lan.host(2)) if version == 4 else pair(lan)
    listener = server.tcp.listen(80, both=True)
    connection = client.tcp.connect(b"\x0a\x00\x00\x02" if version == 4 else TWO, 80)
    lan.run()
    taken = listener.accept()
    frames = []
    keep = lan.hub.send
    lan.hub.send = lambda port, frame, offload=NO_OFFLOAD: (frames.append(frame), keep(port, frame, offload))[1]
    connection.send(b"some octets")
    connection.send(bytes(5000))
    taken.send(b"back")
    lan.run()
    return server, taken, [frame for frame in frames if frame[:6] == server.interfaces["eth0"].mac]


@pytest.fixture
def heard(monkeypatch):
    segments = []
    monkeypatch.setattr(TcpConnection, "arrive", lambda self, segment: segments.append((self, segment)))
    return segments


def short_way(server):
    interface = server.interfaces["eth0"]
    return ShortWay(server.tcp) if interface.ipv6 is None else Ipv6ShortWay(server.tcp, interface)


def both_ways(server, heard, frame, offload):
    heard.clear()
    interface = server.interfaces["eth0"]
    long_way = server.deliver_ipv4 if interface.ipv6 is None else server.ipv6.receive
    long_way(interface, frame, offload)
    long = list(heard)
    heard.clear()
    taken = short_way(server).take(frame, offload)
    assert taken == bool(heard)
    return taken, long, list(heard)


def test_it_takes_what_machines_with_offload_send(sent, heard, version):
    server, connection, frames = sent
    assert len(frames) >= 3
    for frame in frames:
        taken, long, short = both_ways(server, heard, frame, PENDING[version])
        assert taken and long == short and short[0][0] is connection


def test_it_leaves_the_rest_to_the_long_way(sent, heard, version):
    server, connection, frames = sent
    way, pending = short_way(server), PENDING[version]
    assert not way.take(frames[0], NO_OFFLOAD), "its checksum is to be verified"
    assert not way.take(frames[0], PENDING[10 - version])
    assert not way.take(b"\x33\x33" + ALL_NODES[-4:] + frames[0][6:], pending), "it is in a frame for many"
    for size in range(len(frames[0])):
        assert not way.take(frames[0][:size], pending)
    connection.state = State.TIME_WAIT
    assert not way.take(frames[0], pending), "it may be replaced"
    connection.state = State.ESTABLISHED
    server.tcp.remove(connection)
    assert not way.take(frames[0], pending)


@pytest.mark.parametrize("version", [6], indirect=True)
def test_extension_headers_and_marks_of_ipv6(sent, heard):
    server, _, frames = sent
    extended = frames[0][:18] + (len(frames[0]) - 46).to_bytes(2, "big") + b"\x3c" + frames[0][21:54]
    extended += bytes((6, 0, 1, 4, 0, 0, 0, 0)) + frames[0][54:]
    assert not short_way(server).take(extended, TCP6_CHECKSUM)
    marked = frames[0][:15] + b"\x30" + frames[0][16:]
    taken, long, short = both_ways(server, heard, marked, TCP6_CHECKSUM)
    assert taken and long == short and short[0][1].is_marked


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(
    st.integers(0, 20), st.sampled_from(OFFLOADS), st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=3),
    st.integers(-40, 40), st.booleans(),
)  # fmt: skip
def test_whatever_it_takes_the_long_way_takes_too(sent, heard, which, offload, changes, longer, mend):
    server, _, frames = sent
    octets = bytearray(frames[which % len(frames)])
    for at, value in changes:
        octets[at % len(octets)] = value
    octets = octets[:longer] if longer < 0 else octets + bytes(longer)
    if mend and server.ipv6 is not None and len(octets) >= 54:
        octets[18:20] = (len(octets) - 54 & 0xFFFF).to_bytes(2, "big")
    elif mend and len(octets) >= 34:
        octets[24:26] = bytes(2)
        total = int.from_bytes(octets[14:34], "big") % 0xFFFF
        octets[24:26] = (0xFFFF - total).to_bytes(2, "big")
    taken, long, short = both_ways(server, heard, bytes(octets), offload)
    if taken:
        assert short == long
