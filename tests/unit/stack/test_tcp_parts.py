"""The parts that a connection is made of, each by itself: scoreboard, reassembly, congestion control, timeout."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tcp_bed import Scripted
from vnet.stack.tcp.congestion import MAX_WINDOW, Cubic, NewReno, _cube_root
from vnet.stack.tcp.queue import BLOCK, MOST_PIECES, SMALL, OctetQueue, PieceQueue
from vnet.stack.tcp.receiver import Receiver
from vnet.stack.tcp.scoreboard import MAX_RANGES, Scoreboard
from vnet.stack.tcp.sender import Recovery
from vnet.stack.tcp.states import unwrap
from vnet.stack.tcp.timing import MAX_RTO, MIN_RTO, RetransmissionTimeout
from vnet.units import MILLISECOND, SECOND
from vnet.wire.tcp import ACK
from vnet.wire.tcp_options import TcpOptions

MSS = 1000
ranges = st.tuples(st.integers(1, 300), st.integers(1, 40)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**40), st.integers(-(2**31), 2**31 - 1))
def test_numbers_unwrap_to_the_nearest(start, near, off):
    assert unwrap((near + off) % 2**32, near) == near + off
    assert unwrap(start, near) % 2**32 == start


@given(st.lists(st.tuples(st.sampled_from(["append", "drop", "peek"]), st.integers(0, 150_000), st.integers(0, 150_000))))
def test_a_queue_is_a_string_of_octets(steps):
    queue, octets = OctetQueue(), b""
    for number, (step, one, other) in enumerate(steps):
        if step == "append":
            piece = bytes((number % 256,)) * (BLOCK if one % 7 == 0 else one)
            queue.append(piece)
            octets += piece
        elif step == "drop":
            queue.drop(one)
            octets = octets[one:]
        else:
            assert queue.peek(one, other) == octets[one : one + other]
        assert len(queue) == len(octets)
    assert queue.peek(0, len(octets)) == octets and queue.peek(0, -1) == b""
    assert len(queue._blocks) <= len(octets) // BLOCK + 2


# Scoreboard


@given(st.lists(st.tuples(st.sampled_from(["append", "peek", "drop", "pieces"]), st.integers(0, 3 * SMALL)), max_size=60))
def test_pieces_are_the_octets_that_came(steps):
    queue, octets, number = PieceQueue(), b"", 0
    for step, count in steps:
        if step == "append":
            number += 1
            data = bytes([number & 255]) * count
            queue.append(data if number % 3 else bytearray(data))
            octets += data
        elif step == "peek":
            assert queue.peek(count) == octets[:count]
        elif step == "pieces":
            found = b"".join(queue.pieces(count))
            assert octets.startswith(found) and (found or not octets)
        else:
            queue.drop(count)
            octets = octets[count:]
        assert len(queue) == len(octets)
    assert queue.peek(len(octets)) == octets


def test_single_octets_are_kept_together():
    queue = PieceQueue()
    for _ in range(3 * BLOCK):
        queue.append(b"x")
    assert len(queue.pieces(4 * BLOCK)) <= 4
    for _ in range(MOST_PIECES + 1):
        queue.append(bytes(SMALL))
    assert len(queue.pieces(1 << 30)) == MOST_PIECES


@given(st.lists(ranges, max_size=40), st.integers(0, 350), st.integers(0, 350))
def test_a_scoreboard_is_a_set_of_octets(added, una, edge):
    board, octets = Scoreboard(), set()
    for start, end in added:
        new = set(range(start, end)) - octets
        assert board.add(start, end) == bool(new)
        octets |= new
    board.advance(una)
    octets = {octet for octet in octets if octet >= una}
    assert board.total == len(octets) and board.highest == max(octets, default=-1) + 1
    assert {octet for left, right in board.ranges for octet in range(left, right)} == octets
    assert all(before[1] < after[0] for before, after in zip(board.ranges, board.ranges[1:], strict=False))
    assert board.below(edge) == sum(octet < edge for octet in octets)
    start, stop = board.gap(edge)
    assert start == min(octet for octet in range(edge, 400) if octet not in octets)
    assert stop == min((octet for octet in octets if octet > start), default=None)


def test_a_scoreboard_is_bounded():
    board = Scoreboard()
    assert [board.add(10 * n, 10 * n + 1) for n in range(1, MAX_RANGES + 5)] == [True] * MAX_RANGES + [False] * 4
    assert board.add(11, 12), "what makes no new range is still taken"


def test_what_is_lost():
    board = Scoreboard()
    board.add(5000, 6000)
    assert board.lost_below(MSS) == 0
    board.add(7000, 8000)
    assert board.lost_below(MSS) == 0
    board.add(9000, 9001)
    assert board.lost_below(MSS) == 5000, "more than two segments' octets, or three ranges"
    board.clear()
    board.add(5000, 7001)
    assert board.lost_below(MSS) == 5000


# Reassembly


@given(st.integers(0, 2**32 - 1), st.binary(min_size=1, max_size=400), st.data())
def test_octets_come_out_in_order(irs, text, data):
    receiver = Receiver(MSS)
    receiver.start(irs)
    first = receiver.nxt
    pieces = data.draw(st.lists(st.tuples(st.integers(0, len(text)), st.integers(0, 120)), max_size=30))
    known = set()
    for at, size in pieces:
        piece = text[at : at + size]
        if receiver.is_acceptable(first + at, len(piece)) and piece:
            assert receiver.accept(first + at, piece, False)
            known |= set(range(at, at + len(piece)))
        arrived = next(octet for octet in range(len(text) + 1) if octet not in known)
        assert receiver.nxt == first + arrived and receiver.ready.peek(1000) == text[:arrived]
        blocks = {octet for octet in known if octet > arrived}
        named = {(left - first) % 2**32 for left, _ in receiver.sack_blocks()}
        assert all((octet in blocks) and (octet - 1 not in blocks) for octet in named)
        assert bool(named) == bool(blocks) == receiver.has_gap
    assert receiver.accept(first, text, True) and receiver.ready.peek(1000) == text and receiver.ended
    assert receiver.take(5) + receiver.take(1 << 20) == text


# Congestion control


def test_new_reno_doubles_then_adds_one_and_halves():
    reno = NewReno(MSS)
    assert reno.window == 10 * MSS
    reno.acknowledged(10 * MSS, MSS, 0, 0)
    assert reno.window == 20 * MSS
    reno.lost(20 * MSS, MSS, 0)
    assert reno.window == reno.threshold == 10 * MSS
    for _ in range(10):
        assert reno.window == 10 * MSS
        reno.acknowledged(MSS, MSS, 0, 0)
    assert reno.window == 11 * MSS
    reno.timed_out(11 * MSS, MSS)
    assert (reno.window, reno.threshold) == (MSS, 5500)
    reno.acknowledged(64 * MSS, MSS, 0, 0)
    assert reno.window == 5500, "slow start stops at the threshold"
    reno.lost(MSS, MSS, 0)
    assert reno.window == 2 * MSS


def test_cubic_keeps_seven_tenths_and_returns_to_where_it_lost():
    cubic = Cubic(MSS)
    cubic.acknowledged(90 * MSS, MSS, 0, 0)
    cubic.lost(100 * MSS, MSS, 0)
    assert cubic.window == cubic.threshold == 70 * MSS
    rtt, now = 100 * MILLISECOND, 0
    windows = []
    for _ in range(100):
        for _ in range(10):
            cubic.acknowledged(cubic.window // 10, MSS, now, rtt)
        windows.append(cubic.window // MSS)
        now += rtt
    k = round(math.cbrt(100 * 0.3 / 0.4) * 10)
    assert 97 <= windows[k] <= 101, "W_max after K"
    assert windows[k] - windows[k - 10] < windows[10] - windows[0], "flat near W_max"
    assert windows[-1] > 150, "and beyond"
    assert windows == sorted(windows)
    cubic.lost(50 * MSS, MSS, now)
    cubic.timed_out(50 * MSS, MSS)
    assert (cubic.window, cubic.threshold) == (MSS, 35 * MSS)


def test_cubic_is_no_slower_than_reno_on_a_short_path():
    cubic = Cubic(MSS)
    cubic.lost(20 * MSS, MSS, 0)
    now = 0
    for _ in range(100):
        cubic.acknowledged(cubic.window, MSS, now, MILLISECOND)
        now += MILLISECOND
    assert cubic.window > 14 * MSS + 50 * MSS, "some half a segment for each round trip"


@pytest.mark.parametrize("make", [NewReno, Cubic])
def test_windows_are_bounded_and_shrink_after_idling(make):
    control = make(MSS)
    for _ in range(20):
        control.acknowledged(1 << 28, MSS, 0, 0)
    assert control.window == MAX_WINDOW
    control.restart(MSS)
    assert control.window == 10 * MSS


@given(st.integers(0, 2**70))
def test_the_cube_root_is_whole(value):
    root = _cube_root(value)
    assert root**3 <= value < (root + 1) ** 3


# Timeout


def test_the_timeout_follows_rfc_6298():
    rto = RetransmissionTimeout()
    assert rto.value == SECOND
    rto.sample(500 * MILLISECOND)
    assert (rto.smoothed, rto.value) == (500 * MILLISECOND, 1500 * MILLISECOND)
    rto.sample(900 * MILLISECOND)
    assert rto.smoothed == 550 * MILLISECOND
    assert rto.value == (550 + 4 * (250 * 3 // 4 + 100)) * MILLISECOND + 2 * MILLISECOND
    before = rto.value
    rto.back_off()
    assert rto.value == 2 * before
    for _ in range(100):
        rto.back_off()
    assert rto.value == MAX_RTO
    for _ in range(100):
        rto.sample(MILLISECOND)
    assert rto.value == MIN_RTO


# What a sender makes of them


def sack(peer, base, *blocks):
    options = TcpOptions(sack=tuple(((base + left) % 2**32, (base + right) % 2**32) for left, right in blocks))
    return [(s.sequence - base) // 1460 for s in peer.send(ACK, options=options.encode())]


def test_a_retransmission_that_is_lost_is_sent_again():
    peer = Scripted()
    connection = peer.accept(options=TcpOptions(mss=1460, sack_permitted=True).encode())
    connection.no_delay = True
    base = peer.acknowledgment
    connection.send(bytes(1460 * 40))
    assert len(peer.take()) == 10
    assert sack(peer, base, (1460, 1460 * 4))[0] == 0
    sent = sack(peer, base, (1460, 1460 * 10))
    assert sent and min(sent) >= 10 and connection.sender.recovery is Recovery.FAST
    assert 0 in sack(peer, base, (1460, 1460 * 14)), "four that were sent later have arrived"
    assert 0 not in sack(peer, base, (1460, 1460 * 15)), "once in a round trip"


def test_a_slow_path_gets_small_bursts():
    peer = Scripted()
    connection = peer.accept()
    sender = connection.sender
    assert sender._burst() > 65_000
    sender.rto.sample(100 * MILLISECOND)
    assert sender._burst() == 2 * sender.mss
