"""What TCP does about segments that arrive out of order, or not at all."""

from __future__ import annotations

import pytest

from tests.tcp_bed import Scripted, sizes
from vnet.stack.tcp import State
from vnet.stack.tcp.congestion import NewReno
from vnet.units import MILLISECOND, SECOND
from vnet.wire.tcp import ACK, FIN
from vnet.wire.tcp_options import TcpOptions, decode

SACK = TcpOptions(mss=1460, sack_permitted=True).encode()


@pytest.fixture
def peer():
    return Scripted()


# Out of order


def test_sack_blocks_name_what_waits(peer):
    connection = peer.accept(options=SACK)
    base = peer.sequence

    def blocks(ahead, size=10):
        (ack,) = peer.send(ACK, bytes(size), ahead=ahead)
        assert ack.acknowledgment == base
        return [(left - base, right - base) for left, right in decode(ack.options).sack]

    assert blocks(100) == [(100, 110)]
    assert blocks(300) == [(300, 310), (100, 110)]
    assert blocks(110) == [(100, 120), (300, 310)]
    assert blocks(500) == [(500, 510), (100, 120), (300, 310)]
    assert blocks(700) == [(700, 710), (500, 510), (100, 120)]
    assert blocks(90, 240) == [(90, 330), (700, 710), (500, 510)]
    (ack,) = peer.send(ACK, bytes(95))
    assert ack.acknowledgment == base + 330 and connection.available == 330


def test_pieces_out_of_order_are_bounded(peer):
    connection = peer.accept(options=SACK)
    for number in range(400):
        peer.send(ACK, b"x", ahead=2 + 2 * number)
    assert peer.a.drops["tcp-reassembly-full"] == 400 - 256
    assert connection.available == 0


def test_a_fin_out_of_order_waits_for_its_turn(peer):
    connection = peer.accept()
    peer.send(ACK | FIN, b"end", ahead=5)
    assert connection.state is State.ESTABLISHED
    peer.send(ACK, b"start")
    assert connection.state is State.CLOSE_WAIT and connection.receive(10) == b"startend" and connection.at_end


# Loss


def outstanding(peer, segments, **options):
    """Have the host send so many segments of 1460 octets, all unacknowledged; return their numbers."""
    connection = peer.accept(**options)
    connection.no_delay = True
    first = peer.acknowledgment
    for _ in range(segments):
        connection.send(bytes(1460))
    assert sum(sizes(peer.take())) == 1460 * segments
    return connection, [first + 1460 * index for index in range(segments)]


def test_three_duplicates_bring_a_fast_retransmission(peer):
    connection, numbers = outstanding(peer, 8, options=TcpOptions(mss=1460).encode())
    connection.sender.congestion = NewReno(1460)
    assert [peer.send(ACK) for _ in range(2)] == [[], []]
    (again,) = peer.send(ACK)
    assert (again.sequence, len(again.payload)) == (numbers[0], 1460)
    assert connection.sender.congestion.window == 4 * 1460
    assert peer.send(ACK) == []
    peer.acknowledgment = numbers[3]
    assert [s.sequence for s in peer.send(ACK)] == [numbers[3]], "a partial acknowledgment: the next hole (RFC 6582)"
    peer.acknowledgment = numbers[7] + 1460
    assert peer.send(ACK) == [] and connection.unsent == 0
    assert connection.sender.congestion.window == 4 * 1460


def test_sack_fills_the_holes_and_nothing_else(peer):
    connection, numbers = outstanding(peer, 8, options=SACK)
    connection.sender.congestion = NewReno(1460)
    assert numbers[0] == peer.acknowledgment

    def selective(*ranges):
        blocks = tuple((numbers[left] % 2**32, (numbers[right] + 1460) % 2**32) for left, right in ranges)
        return [(s.sequence - numbers[0]) // 1460 for s in peer.send(ACK, options=TcpOptions(sack=blocks).encode())]

    assert selective((1, 1)) == []
    assert selective((1, 2)) == []
    assert selective((1, 3)) == [0], "lost: three segments above it arrived"
    assert selective((1, 3), (5, 5)) == []
    assert selective((1, 3), (5, 7)) == [4]
    peer.acknowledgment = numbers[7] + 1460
    assert peer.send(ACK) == [] and connection.unsent == 0


def test_a_timeout_sends_all_again_slowly(peer):
    connection, numbers = outstanding(peer, 4, options=SACK)
    peer.run(SECOND)
    again = [s.sequence for s in peer.take()]
    assert set(again) == {numbers[0]} and connection.sender.congestion.window == 1460
    peer.acknowledgment = numbers[1]
    assert [s.sequence for s in peer.send(ACK)] == numbers[1:3]
    peer.acknowledgment = numbers[2]
    assert [s.sequence for s in peer.send(ACK)] == numbers[3:]
    assert connection.sender.congestion.window == 3 * 1460


def test_retransmission_backs_off_and_gives_up(peer):
    connection = peer.accept()
    connection.send(b"nobody hears this")
    instants = []
    start = peer.timeline.now
    peer.take()
    for _ in range(3100):
        peer.run(100 * MILLISECOND)
        instants += [(peer.timeline.now - start) // SECOND for _ in peer.take()]
    assert [after - before for before, after in zip(instants[3:], instants[4:], strict=False)][:3] == [3, 6, 13]
    assert connection.error == "timed out" and len(peer.a.tcp) == 0


def test_nonsense_in_sack_is_not_heeded(peer):
    connection, numbers = outstanding(peer, 4, options=SACK)
    base = numbers[0]
    for left, right in ((base + 9000, base + 10_000), (base - 500, base - 100), (base + 200, base + 100), (base, base)):
        block = (left % 2**32, right % 2**32)
        assert peer.send(ACK, options=TcpOptions(sack=(block,)).encode()) == []
    assert connection.sender.sacked.ranges == []
