"""Whatever segments come to a connection, in whatever order: nothing raises, tables stay bounded, each is counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tcp_bed import PORT, V4, V6, Pair, Program, Scripted
from vnet.ports import NO_OFFLOAD
from vnet.stack.tcp import State
from vnet.units import MILLISECOND, MINUTE, SECOND
from vnet.wire.tcp import ACK, SYN, Tcp
from vnet.wire.tcp_options import TcpOptions
from vnet.wire.virtio_net import TCP6_CHECKSUM, TCP_CHECKSUM, tcp6_super, tcp_super

versions = st.sampled_from([V4, V6])
near = st.one_of(st.integers(-5, 5), st.integers(-70_000, 70_000), st.integers(0, 2**32 - 1))
segments = st.fixed_dictionaries({
    "flags": st.one_of(st.integers(0, 255), st.sampled_from([ACK, ACK | 8, ACK | 1, ACK | 4, SYN, SYN | ACK])),
    "ahead": near, "acked": near, "window": st.one_of(st.just(0), st.integers(0, 0xFFFF)),
    "options": st.one_of(
        st.just(b""),
        st.binary(max_size=40).map(lambda octets: octets + bytes(-len(octets) % 4)).filter(lambda octets: len(octets) <= 40),
        st.tuples(near, near).map(lambda two: TcpOptions(timestamps=(two[0] % 2**32, two[1] % 2**32)).encode()),
    ),
    "payload": st.one_of(st.just(b""), st.binary(max_size=50), st.just(bytes(3000))),
    "port": st.sampled_from([5000, 5000, 5000, 5001]),
    "urgent": st.integers(0, 0xFFFF),
})  # fmt: skip
actions = st.one_of(
    segments, segments, segments,
    st.sampled_from(["send", "receive", "shutdown", "close", "abort", "wait", "wait long"]),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(actions, max_size=40), st.booleans(), st.booleans(), versions)
def test_any_segments_at_a_connection(steps, stamps, active, version):
    peer = Scripted(version=version)
    listener = None
    if active:
        connection = peer.a.tcp.connect(version.b, 5000, source_port=PORT)
        peer.acknowledgment = (peer.take()[0].sequence + 1) % 2**32
        listener = peer.a.tcp.listen(81)
    else:
        offered = TcpOptions(mss=1460, window_scale=3, sack_permitted=True, timestamps=(7, 0) if stamps else None)
        peer.stamps = TcpOptions(timestamps=(7, 0)).encode() if stamps else b""
        connection = peer.accept(options=offered.encode())
        listener = peer.a.tcp.listen(PORT)
    for step in steps:
        before = peer.a.delivered + sum(peer.a.drops.values())
        match step:
            case "send":
                if connection.room:
                    connection.send(bytes(5000))
            case "receive":
                connection.receive(100)
            case "shutdown" | "close" | "abort":
                getattr(connection, step)()
            case "wait":
                peer.run(300 * MILLISECOND)
            case "wait long":
                peer.run(2 * MINUTE)
            case _:
                peer.send(
                    step["flags"], step["payload"], ahead=step["ahead"], window=step["window"], options=step["options"],
                    acknowledgment=(peer.acknowledgment + step["acked"]) % 2**32, source_port=step["port"],
                    urgent=step["urgent"],
                )  # fmt: skip
                assert peer.a.delivered + sum(peer.a.drops.values()) > before
        receiver, sender = connection.receiver, connection.sender
        assert len(receiver.ready) <= receiver.capacity
        if connection.state is not State.CLOSED:
            assert sender.una <= sender.nxt <= sender.high <= sender.end + 1
        assert receiver.nxt <= receiver.edge
        assert (connection.state is not State.CLOSED) == (connection in peer.a.tcp.connections)
    listener.close()
    connection.abort()
    peer.run(10 * MINUTE)
    assert len(peer.a.tcp) == 0


@settings(max_examples=200, deadline=None)
@given(
    octets=st.binary(max_size=120),
    offload=st.sampled_from([
        NO_OFFLOAD, TCP_CHECKSUM, TCP6_CHECKSUM,
        *(make(octets, size) for make, octets in ((tcp_super, 54), (tcp6_super, 74)) for size in (100, 0)),
    ]),
    listening=st.booleans(),
    version=versions,
)  # fmt: skip
def test_any_octets_as_a_segment(octets, offload, listening, version):
    peer = Scripted(version=version)
    peer.a.tcp.listen(int.from_bytes(octets[2:4], "big") if listening and len(octets) >= 4 else PORT)
    peer.receive(octets, offload)
    peer.run(SECOND)
    assert peer.a.delivered + sum(peer.a.drops.values()) >= 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    version=versions,
    changes=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 200), st.integers(1, 255)), max_size=12),
)  # fmt: skip
def test_corrupted_frames_never_change_the_data(seed, version, changes):
    pair = Pair(seed, cut=True, version=version)
    client, server = pair.connect()
    text = pair.streams.stream("t", "t").octets(30_000)
    flips = {index: (at, mask) for index, at, mask in changes}
    b = pair.b.interfaces["eth0"].port
    plain, count = b.receive, iter(range(10_000))

    def corrupt(frame, offload):
        flip = flips.get(next(count))
        if flip is not None and version.is_tcp(frame):
            at = 14 + flip[0] % (len(frame) - 14)
            frame = frame[:at] + bytes((frame[at] ^ flip[1],)) + frame[at + 1 :]
        plain(frame, offload)

    b.receive = corrupt
    random = pair.streams.stream("p", "p")
    one, other = Program(client, text, random), Program(server, b"", random)
    pair.run(10 * MINUTE)
    assert other.received == text and one.done_sending
    assert len(pair.a.tcp) == len(pair.b.tcp) == 0


@pytest.mark.parametrize(("version", "offload"), [(V4, tcp_super(54, 1000)), (V6, tcp6_super(74, 1000))])
def test_a_super_frame_is_one_segment(version, offload):
    peer = Scripted(version=version)
    connection = peer.accept()
    segment = Tcp(
        source_port=5000, destination_port=PORT, sequence=peer.sequence, acknowledgment=peer.acknowledgment, flags=ACK,
        window=1000, payload=bytes(10_000),
    ).encode(version.b, version.a)  # fmt: skip
    peer.take()
    peer.receive(segment[:16] + b"??" + segment[18:], offload)
    assert connection.available == 10_000
    assert [s.acknowledgment for s in peer.take()] == [peer.sequence + 10_000], "one acknowledgment for ten segments"
