"""Explicit congestion notification (RFC 3168): who agrees to it, what is marked, echoed and reduced, and how often."""

from __future__ import annotations

import pytest

from tests.tcp_bed import PORT, A, B, Pair, Program, Scripted, assert_clean
from vnet.stack.tcp import Ecn, State
from vnet.stack.tcp.congestion import NewReno
from vnet.stack.tcp.sender import Recovery
from vnet.units import MILLISECOND, MINUTE, SECOND
from vnet.wire.tcp import ACK, CWR, ECE, FIN, PSH, RST, SYN
from vnet.wire.virtio_net import GSO_ECN

BOTH = ECE | CWR
CE = 3


def asking(policy_a=Ecn.REQUEST, policy_b=Ecn.ACCEPT, **faults):
    pair = Pair(**faults)
    pair.a.tcp.settings.ecn, pair.b.tcp.settings.ecn = policy_a, policy_b
    return pair


def fields(pair, source):
    """Return flags, ECN field and octets of data of what a host sent."""
    taken = [frame for _, frame, _ in pair.wire.frames if frame[12:14] == b"\x08\x00" and frame[26:30] == source]
    return [(frame[47], frame[15] & 3, len(frame) - 34 - (frame[46] >> 4 << 2)) for frame in taken]


# The handshake


@pytest.mark.parametrize("active", list(Ecn))
@pytest.mark.parametrize("passive", list(Ecn))
def test_who_agrees(active, passive):
    pair = asking(active, passive)
    client, server = pair.connect()
    agreed = active is Ecn.REQUEST and passive is not Ecn.NEVER
    assert client.ecn.agreed is server.ecn.agreed is agreed
    assert fields(pair, A)[0] == (SYN | BOTH if active is Ecn.REQUEST else SYN, 0, 0)
    assert fields(pair, B)[0] == (SYN | ACK | ECE if agreed else SYN | ACK, 0, 0)


def test_hosts_answer_and_do_not_ask_unless_told():
    pair = Pair()
    assert pair.a.tcp.settings.ecn is Ecn.ACCEPT


@pytest.mark.parametrize("flags", [0, BOTH, CWR])
def test_an_answer_that_agrees_to_nothing(flags):
    """Some hosts send the flags back as they came: RFC 3168, 6.1.1."""
    peer = Scripted()
    peer.a.tcp.settings.ecn = Ecn.REQUEST
    connection = peer.a.tcp.connect(B, 5000)
    (syn,) = peer.take()
    assert syn.flags == SYN | BOTH
    peer.ports, peer.acknowledgment = (5000, syn.source_port), (syn.sequence + 1) % 2**32
    peer.send(SYN | ACK | flags)
    assert connection.state is State.ESTABLISHED and not connection.ecn.agreed


def test_a_syn_that_finds_no_answer_comes_again_without_asking():
    pair = asking()
    pair.wire.filter = lambda frame: frame[12:14] != b"\x08\x00" or not frame[47] & BOTH
    listener, client = pair.b.tcp.listen(PORT), pair.a.tcp.connect(B, PORT)
    pair.run(3 * SECOND)
    server = listener.accept()
    assert [flags for flags, _, _ in fields(pair, A)[:2]] == [SYN | BOTH, SYN]
    assert not client.ecn.agreed and not server.ecn.agreed


def test_the_peer_may_take_its_wish_back_before_it_is_established():
    peer = Scripted()
    listener = peer.a.tcp.listen(PORT)
    (answer,) = peer.send(SYN | BOTH)
    assert answer.flags == SYN | ACK | ECE
    (again,) = peer.send(SYN)
    assert again.flags == SYN | ACK
    peer.sequence, peer.acknowledgment = peer.sequence + 1, (answer.sequence + 1) % 2**32
    peer.send(ACK)
    assert not listener.accept().ecn.agreed


@pytest.mark.parametrize("asks", [False, True])
def test_both_open_at_once(asks):
    peer = Scripted()
    peer.a.tcp.settings.ecn = Ecn.REQUEST if asks else Ecn.ACCEPT
    connection = peer.a.tcp.connect(B, 5000)
    (syn,) = peer.take()
    peer.ports, peer.acknowledgment = (5000, syn.source_port), 0
    (answer,) = peer.send(SYN | BOTH)
    assert answer.flags == (SYN | ACK | ECE if asks else SYN | ACK)
    assert connection.ecn.agreed is asks, "a host that sent a SYN without must not"


# Marks


def accepted(**options):
    peer = Scripted()
    listener = peer.a.tcp.listen(PORT, **options)
    (answer,) = peer.send(SYN | BOTH)
    peer.sequence, peer.acknowledgment = peer.sequence + 1, (answer.sequence + 1) % 2**32
    peer.send(ACK)
    connection = listener.accept()
    assert connection.ecn.agreed
    return peer, connection


def test_a_mark_is_echoed_at_once_and_until_the_window_was_reduced():
    peer, connection = accepted()
    (ack,) = peer.send(ACK | PSH, b"0123456789", tos=CE)
    assert ack.flags == ACK | ECE
    peer.sequence += 10
    peer.send(ACK | PSH, b"0123456789", tos=2)
    peer.sequence += 10
    (data, *_) = _sent_by(peer, connection, b"hello")
    assert data.flags == ACK | PSH | ECE, "in all that is sent"
    peer.acknowledgment += 5
    peer.send(ACK | CWR | PSH, b"0123456789", tos=2)
    peer.sequence += 10
    (ack,) = peer.send(ACK | PSH, b"0123456789", tos=2)
    assert ack.flags == ACK


def _sent_by(peer, connection, data):
    peer.take()
    connection.send(data)
    return peer.take()


def test_a_mark_on_the_very_segment_that_says_the_window_was_reduced_begins_anew():
    peer, connection = accepted()
    peer.send(ACK | PSH, b"0123456789", tos=CE)
    peer.sequence += 10
    (ack,) = peer.send(ACK | CWR | PSH, b"0123456789", tos=CE)
    assert ack.flags == ACK | ECE and connection.ecn.echoing


def test_marks_on_what_is_no_data_or_out_of_the_window_do_not_count():
    """RFC 3168, 6.1.5: an attacker outside the window must not slow a connection down."""
    peer, connection = accepted()
    peer.send(ACK, tos=CE)
    peer.send(ACK | PSH, b"old", ahead=-3, tos=CE)
    peer.send(ACK | PSH, b"x", ahead=1 << 21, tos=CE)
    assert not connection.ecn.echoing


def test_marks_mean_nothing_to_those_who_did_not_agree():
    peer = Scripted()
    connection = peer.accept()
    answers = peer.send(ACK | PSH, b"0123456789", tos=CE)
    peer.run(SECOND)
    assert [answer.flags for answer in answers + peer.take()] == [ACK]
    window = connection.sender.congestion.window
    peer.sequence += 10
    connection.send(b"hello")
    peer.acknowledgment += 5
    peer.send(ACK | ECE)
    assert connection.sender.congestion.window >= window and not connection.sender.cwr


def test_resets_echo_nothing():
    peer, connection = accepted()
    peer.send(ACK | PSH, b"0123456789", tos=CE)
    connection.abort()
    assert peer.take()[-1].flags == RST | ACK


# Data


def test_only_new_data_may_be_marked():
    pair = asking(delay=MILLISECOND, cut=True)
    lost = []

    def lose_one(frame):
        is_data = frame[12:14] == b"\x08\x00" and frame[26:30] == A and len(frame) > 1000
        if is_data and not lost and len(pair.wire.frames) > 8:
            lost.append(frame[38:42])
            return False
        return True

    pair.wire.filter = lose_one
    client, server = pair.connect()
    Program(client, bytes(200_000), pair.streams.stream("p", "a"))
    other = Program(server, b"", pair.streams.stream("p", "b"))
    pair.run(2 * MINUTE)
    assert len(other.received) == 200_000 and lost
    assert_clean(pair, client, server)
    sent = [frame for _, frame, _ in pair.wire.frames if frame[26:30] == A]
    seen, repeated = 0, []
    for frame in sent:
        data = len(frame) - 34 - (frame[46] >> 4 << 2)
        number = int.from_bytes(frame[38:42], "big")
        if not data:
            assert frame[15] & 3 == 0, "neither SYN nor acknowledgment"
        elif number < seen:
            repeated.append(frame[15] & 3)
        else:
            assert frame[15] & 3 == 2
        seen = max(seen, number + data) if data else seen
    assert repeated == [0]
    assert {ecn for _, ecn, _ in fields(pair, B)} == {0}
    cwr = [data for flags, _, data in fields(pair, A) if flags & CWR and not flags & SYN]
    assert len(cwr) == 1 and cwr[0], "told once, with new data, that the window was reduced for the loss"


def test_one_window_of_marks_halves_once_and_all_arrives():
    pair = asking(delay=10 * MILLISECOND)
    pair.a.tcp.settings.congestion = NewReno
    client, server = pair.connect()
    Program(client, bytes(3_000_000), pair.streams.stream("p", "a"))
    other = Program(server, b"", pair.streams.stream("p", "b"))
    pair.run(80 * MILLISECOND)
    before = client.sender.congestion.window
    assert before > 100_000
    start = pair.timeline.now
    pair.wire.mark = lambda frame: frame[26:30] == A and pair.timeline.now <= start + 20 * MILLISECOND
    windows = []
    for _ in range(60):
        pair.run(MILLISECOND)
        windows.append(client.sender.congestion.window)
    falls = [(one, two) for one, two in zip(windows, windows[1:], strict=False) if two < one]
    assert len(falls) == 1, "once for the window of data"
    assert falls[0][1] == pytest.approx(falls[0][0] / 2, rel=0.1)
    ours = [(frame[47], offload) for _, frame, offload in pair.wire.frames if frame[26:30] == A]
    supers = [offload for flags, offload in ours if flags & (CWR | SYN) == CWR]
    assert len(supers) == 1 and (supers[0][1] & GSO_ECN or not supers[0][1])
    assert not server.ecn.echoing, "it was told"
    pair.wire.mark = lambda frame: False
    pair.run(2 * MINUTE)
    assert len(other.received) == 3_000_000
    assert_clean(pair, client, server)
    acknowledged = [flags for flags, _, _ in fields(pair, B) if flags & ECE]
    assert len(acknowledged) > 2
    assert client.sender.rto.value <= SECOND and not [f for f in fields(pair, A) if f[0] & FIN and f[1] not in (0, 2)]


def test_marks_that_last_keep_the_window_small():
    pair = asking(delay=5 * MILLISECOND)
    pair.wire.mark = lambda frame: frame[26:30] == A
    client, server = pair.connect()
    Program(client, bytes(300_000), pair.streams.stream("p", "a"))
    other = Program(server, b"", pair.streams.stream("p", "b"))
    pair.run(400 * MILLISECOND)
    assert client.sender.congestion.window == 2 * client.sender.mss
    pair.run(5 * MINUTE)
    assert len(other.received) == 300_000
    assert_clean(pair, client, server)


def test_a_loss_among_marks_of_the_same_window_reduces_no_more():
    pair = asking(delay=10 * MILLISECOND, cut=True)
    pair.a.tcp.settings.congestion = NewReno
    client, server = pair.connect()
    count = 0

    def lose_the_third(frame):
        nonlocal count
        count += frame[26:30] == A
        return not (frame[26:30] == A and count == 3)

    pair.wire.mark, pair.wire.filter = lambda frame: True, lose_the_third
    client.send(bytes(14480))
    pair.run(25 * MILLISECOND)
    assert client.sender.recovery is not Recovery.NONE and client.sender.congestion.window == 5 * client.sender.mss
    pair.run(2 * SECOND)
    assert server.available == 14480 and client.sender.recovery is Recovery.NONE
