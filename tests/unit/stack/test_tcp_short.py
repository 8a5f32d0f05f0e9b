"""The short way in for TCP: it hands over what the long way would, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vnet.ports import NO_OFFLOAD
from vnet.stack.tcp.connection import TcpConnection
from vnet.stack.tcp.short import ShortWay
from vnet.stack.tcp.states import State
from vnet.wire.virtio_net import HEADER, TCP_CHECKSUM, UDP_CHECKSUM, tcp_super

OFFLOADS = (
    TCP_CHECKSUM, tcp_super(66, 1448), tcp_super(66, 1448, cwr=True), UDP_CHECKSUM, NO_OFFLOAD, b"", b"short", bytes(11),
    HEADER.pack(1, 1, 66, 0, 34, 16), HEADER.pack(1, 4, 66, 1448, 34, 16), HEADER.pack(0, 1, 66, 1448, 34, 16),
    HEADER.pack(1, 3, 66, 1448, 34, 16), HEADER.pack(2, 0, 0, 0, 0, 0), HEADER.pack(1, 0, 0, 0, 38, 16),
)  # fmt: skip


@pytest.fixture
def sent(lan):
    """A server, and the frames with which a client established a connection to it, sent data and acknowledged some."""
    client, server = lan.host(1), lan.host(2)
    listener = server.tcp.listen(80)
    connection = client.tcp.connect(b"\x0a\x00\x00\x02", 80)
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


def both_ways(server, heard, frame, offload):
    heard.clear()
    server.deliver_ipv4(server.interfaces["eth0"], frame, offload)
    long = list(heard)
    heard.clear()
    taken = ShortWay(server.tcp).take(frame, offload)
    assert taken == bool(heard)
    return taken, long, list(heard)


def test_it_takes_what_machines_with_offload_send(sent, heard):
    server, connection, frames = sent
    assert len(frames) >= 3
    for frame in frames:
        taken, long, short = both_ways(server, heard, frame, TCP_CHECKSUM)
        assert taken and long == short and short[0][0] is connection


def test_it_leaves_the_rest_to_the_long_way(sent, heard):
    server, connection, frames = sent
    assert not ShortWay(server.tcp).take(frames[0], NO_OFFLOAD), "its checksum is to be verified"
    connection.state = State.TIME_WAIT
    assert not ShortWay(server.tcp).take(frames[0], TCP_CHECKSUM), "it may be replaced"
    connection.state = State.ESTABLISHED
    server.tcp.remove(connection)
    assert not ShortWay(server.tcp).take(frames[0], TCP_CHECKSUM)
    for size in range(60):
        assert not ShortWay(server.tcp).take(frames[0][:size], TCP_CHECKSUM)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(
    st.integers(0, 20), st.sampled_from(OFFLOADS), st.lists(st.tuples(st.integers(0, 70), st.integers(0, 255)), max_size=3),
    st.integers(-40, 40), st.booleans(),
)  # fmt: skip
def test_whatever_it_takes_the_long_way_takes_too(sent, heard, which, offload, changes, longer, mend):
    server, _, frames = sent
    octets = bytearray(frames[which % len(frames)])
    for at, value in changes:
        octets[at % len(octets)] = value
    octets = octets[:longer] if longer < 0 else octets + bytes(longer)
    if mend and len(octets) >= 34:
        octets[24:26] = bytes(2)
        total = int.from_bytes(octets[14:34], "big") % 0xFFFF
        octets[24:26] = (0xFFFF - total).to_bytes(2, "big")
    taken, long, short = both_ways(server, heard, bytes(octets), offload)
    if taken:
        assert short == long
