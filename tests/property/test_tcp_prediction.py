"""Header prediction changes nothing: with and without it the same frames go out at the same instants."""

from __future__ import annotations

from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tcp_bed import V4, V6, Pair, Program, Scripted
from vnet.stack.tcp import arrival
from vnet.stack.tcp.ecn import Ecn
from vnet.units import MILLISECOND, MINUTE
from vnet.wire.tcp import ACK, CWR, ECE, FIN, PSH, URG
from vnet.wire.tcp_options import TcpOptions

versions = st.sampled_from([V4, V6])
ratios = st.sampled_from([0.0, 0.0, 0.02])
sizes = st.sampled_from([0, 100, 100_001])
numbers = st.one_of(st.just(1000), st.integers(-3, 3), st.integers(-70_000, 70_000))
PLAIN = {
    "flags": ACK | PSH, "ahead": 0, "acked": 0, "window": 65_535, "newer": 1, "echo": 3, "payload": bytes(1000), "tos": 0,
}  # fmt: skip
others = st.one_of(
    st.tuples(st.just("flags"), st.sampled_from([ACK, ACK | FIN, ACK | ECE, ACK | CWR, ACK | URG, 0])),
    st.tuples(st.just("ahead"), numbers), st.tuples(st.just("acked"), numbers),
    st.tuples(st.just("window"), st.sampled_from([1000, 0])),
    st.tuples(st.just("newer"), st.sampled_from([0, -1, None])),
    st.tuples(st.just("echo"), st.integers(0, 5)),
    st.tuples(st.just("payload"), st.sampled_from([b"", b"x", bytes(5000), bytes(40_000)])),
    st.tuples(st.just("tos"), st.just(3)),
)  # fmt: skip
segments = st.lists(others, max_size=2).map(lambda changes: PLAIN | dict(changes))
"""The segment that is predicted, but for two of its fields at most."""
steps = st.one_of(
    segments, segments, segments, st.just("acknowledge"), st.sampled_from(["send", "receive", "take all", "wait"])
)


def take_all(connection):
    """Take what comes as soon as it is there."""
    got = bytearray()
    connection.on_change = lambda: got.extend(connection.receive(1 << 20))
    return got


def both_ways(run):
    """Run something with and without prediction; return what both give, and how many segments were predicted."""
    taken = 0

    def counted(connection, segment):
        nonlocal taken
        found = predict(connection, segment)
        taken += found
        return found

    predict = arrival.take_predicted
    with mock.patch.object(arrival, "take_predicted", counted):
        first = run()
    with mock.patch.object(arrival, "take_predicted", lambda connection, segment: False):
        return first, run(), taken


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32), loss=ratios, repeat=ratios, swap=ratios, cut=st.booleans(), version=versions,
    delay=st.sampled_from([0, 5 * MILLISECOND]), forth=sizes, back=st.one_of(st.none(), sizes), stamps=st.booleans(),
    sack=st.booleans(), coalesced=st.sampled_from([0, 8]), ecn=st.sampled_from([Ecn.ACCEPT, Ecn.REQUEST]),
)  # fmt: skip
def test_a_transfer_is_the_same_frame_by_frame(
    seed, loss, repeat, swap, cut, version, delay, forth, back, stamps, sack, coalesced, ecn
):
    def run():
        pair = Pair(seed, version=version, loss=loss, repeat=repeat, swap=swap, cut=cut, delay=delay)
        for host in (pair.a, pair.b):
            of = host.tcp.settings
            of.timestamps, of.sack, of.coalesced, of.ecn = stamps, sack, coalesced, ecn
        marks = pair.streams.stream("wire", "marks")
        pair.wire.mark = lambda frame: marks.random() < 0.05
        client, server = pair.connect()
        sizes_of = pair.streams.stream("programs", "sizes")
        sent = pair.streams.stream("programs", "texts").octets(forth) if forth else b""
        one = Program(client, sent, sizes_of)
        if back is None:
            got = take_all(server)  # and keeps its half open: only so is it ESTABLISHED, and what comes predicted
        else:
            got = Program(server, bytes(back), sizes_of).received
        pair.run(MINUTE)
        assert got == sent
        assert len(one.received) == (back or 0)
        return pair.wire.frames

    first, second, _ = both_ways(run)
    assert first == second


@pytest.mark.parametrize("version", [V4, V6])
def test_bulk_is_predicted(version):
    def run():
        pair = Pair(version=version)
        client, server = pair.connect()
        Program(client, bytes(1_000_000), pair.streams.stream("programs", "sizes"))
        take_all(server)
        pair.run(MINUTE)
        return pair.wire.frames

    first, second, taken = both_ways(run)
    assert first == second
    assert taken >= 0.9 * sum(len(frame) > 1000 for _, frame, _ in first) > 10


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(steps, max_size=30), stamps=st.booleans(), capacity=st.sampled_from([3000, 1 << 20]), version=versions
)  # fmt: skip
@example(steps=[PLAIN | {"payload": b""}], stamps=True, capacity=1 << 20, version=V4)
@example(steps=[PLAIN | {"window": 1000}, "send", PLAIN], stamps=True, capacity=1 << 20, version=V4)
@example(steps=[PLAIN | {"window": 0}, "send", PLAIN, "wait"], stamps=True, capacity=1 << 20, version=V4)
@example(steps=[PLAIN | {"ahead": 1000, "flags": ACK | FIN}, PLAIN], stamps=True, capacity=1 << 20, version=V4)
def test_any_peer_is_answered_the_same(steps, stamps, capacity, version):
    def run():
        peer = Scripted(version=version)
        peer.a.tcp.settings.receive_buffer = capacity
        clock = 7
        peer.stamps = TcpOptions(timestamps=(clock, 0)).encode() if stamps else b""
        offered = TcpOptions(mss=1460, window_scale=3, sack_permitted=True, timestamps=(clock, 0) if stamps else None)
        connection = peer.accept(options=offered.encode())
        told, seen = [], []
        connection.on_change = lambda: told.append(connection.state)
        for step in steps:
            match step:
                case "send":
                    if connection.room:
                        connection.send(bytes(30_000))
                case "receive":
                    connection.receive(700)
                case "take all":
                    connection.receive(1 << 20)
                case "acknowledge":
                    peer.acknowledgment = connection.sender.nxt % 2**32
                case "wait":
                    peer.run(100 * MILLISECOND)
                case _:
                    options = b""
                    if step["newer"] is not None and stamps:
                        clock += step["newer"]
                        options = TcpOptions(timestamps=(clock, step["echo"])).encode()
                    peer.send(
                        step["flags"], step["payload"], ahead=step["ahead"], window=step["window"], options=options,
                        acknowledgment=(peer.acknowledgment + step["acked"]) % 2**32, tos=step["tos"],
                    )  # fmt: skip
                    if step["ahead"] == 0:
                        peer.sequence += len(step["payload"])
            seen.append((list(peer.frames), peer.a.drops.copy(), connection.available, connection.heard_at))
        peer.run(MINUTE)
        return told, seen, peer.frames, connection.state, connection.error, connection.receiver.recent

    first, second, _ = both_ways(run)
    assert first == second
