"""The states of a connection (RFC 9293, 3.3.2 and 3.10): closing, resetting, and who is told what."""

from __future__ import annotations

import pytest

from tests.tcp_bed import PORT, A, B, Scripted, assert_clean, watch
from vnet.errors import UsageError
from vnet.stack.tcp import State
from vnet.units import MILLISECOND, MINUTE, SECOND
from vnet.wire.tcp import ACK, FIN, PSH, RST, SYN, URG
from vnet.wire.tcp_options import TcpOptions, decode

# Closing


def test_half_close_and_the_states_on_the_way(pair):
    client, server = pair.connect()
    client.send(b"question")
    client.shutdown()
    assert client.state is State.FIN_WAIT_1 and client.room == 0
    with pytest.raises(UsageError):
        client.send(b"more")
    pair.run(0)
    assert (client.state, server.state) == (State.FIN_WAIT_2, State.CLOSE_WAIT)
    assert not server.at_end and server.receive(100) == b"question" and server.at_end
    server.send(b"answer")
    pair.run(0)
    assert client.receive(100) == b"answer" and not client.at_end
    server.close()
    assert server.state is State.LAST_ACK
    pair.run(0)
    assert (client.state, server.state) == (State.TIME_WAIT, State.CLOSED)
    assert client.at_end and client.is_established
    client.close()
    pair.run(60 * SECOND - 1)
    assert client.state is State.TIME_WAIT and len(pair.a.tcp) == 1
    pair.run(1)
    assert_clean(pair, client, server)


def test_both_close_at_once(pair):
    client, server = pair.connect()
    pair.wire.delay = MILLISECOND
    client.close()
    server.close()
    pair.run(MILLISECOND)
    assert client.state is server.state is State.CLOSING
    pair.run(MILLISECOND)
    assert client.state is server.state is State.TIME_WAIT
    pair.run(MINUTE)
    assert_clean(pair, client, server)


def test_a_fin_before_the_handshake_is_done_waits(pair):
    listener = pair.b.tcp.listen(PORT)
    client = pair.a.tcp.connect(B, PORT)
    assert client.send(b"early") == 5
    client.shutdown()
    pair.run(0)
    server = listener.accept()
    assert server.receive(10) == b"early" and server.at_end and client.state is State.FIN_WAIT_2


def test_closing_an_attempt_forgets_it(pair):
    pair.b.tcp.listen(PORT)
    client = pair.a.tcp.connect(B, PORT)
    client.close()
    assert client.state is State.CLOSED and client.error is None and len(pair.a.tcp) == 0


def test_close_with_unread_data_resets(pair):
    client, server = pair.connect()
    client.send(b"unread")
    pair.run(0)
    server.close()
    pair.run(0)
    assert client.error == "reset" and not client.is_established
    assert len(pair.a.tcp) == len(pair.b.tcp) == 0


def test_data_after_close_is_reset(pair):
    client, server = pair.connect()
    server.close()
    pair.run(0)
    assert client.state is State.CLOSE_WAIT
    client.send(b"nobody wants this")
    pair.run(0)
    assert client.error == "reset" and len(pair.b.tcp) == 0


def test_a_peer_that_never_closes_is_given_up(pair):
    client, _ = pair.connect()
    client.close()
    pair.run(0)
    assert client.state is State.FIN_WAIT_2
    pair.run(MINUTE)
    assert client.state is State.CLOSED


def test_abort_resets_and_tells_later(pair):
    client, server = pair.connect()
    told, heard = watch(client), watch(server)
    client.send(bytes(1000))
    client.abort()
    assert told == [] and client.state is State.CLOSED and not client.is_established
    pair.run(0)
    assert told == [State.CLOSED] and heard[-1] is State.CLOSED and server.error == "reset"
    assert (server.available, server.room, server.send(b"x")) == (1000, 0, 0)
    assert server.receive(2000) == bytes(1000), "what came before the reset may still be read"
    assert client.send(b"x") == 0
    client.abort()
    client.close()
    server.close()


def test_time_wait_answers_a_fin_and_heeds_no_reset(pair):
    client, server = pair.connect()
    client.close()
    server.close()
    pair.run(0)
    fin = next(frame for _, frame, _ in pair.wire.frames if frame[29] == 2 and frame[47] & FIN)
    state = client.state
    assert state is State.TIME_WAIT
    pair.run(30 * SECOND)
    pair.wire.frames.clear()
    pair.a.interfaces["eth0"].receive(fin, b"\1" + bytes(5) + b"\x22\0\x10\0")
    assert [s.flags for s in pair.wire.segments(A)] == [ACK]
    pair.b.tcp.reset(server, server.sender.nxt % 2**32)
    pair.run(40 * SECOND)
    assert client.state is State.TIME_WAIT, "it began anew with the FIN"
    pair.run(20 * SECOND)
    assert client.state is State.CLOSED


def test_a_new_syn_may_end_time_wait(pair):
    listener = pair.b.tcp.listen(PORT)
    for round_ in range(3):
        client = pair.a.tcp.connect(B, PORT, source_port=1234)
        pair.run(0)
        server = listener.accept()
        assert client.is_established, round_
        server.close()
        pair.run(0)
        client.close()
        pair.run(MILLISECOND)
        assert (client.state, server.state) == (State.CLOSED, State.TIME_WAIT)
    assert len(pair.b.tcp) == 1


def test_time_wait_is_bounded(pair, monkeypatch):
    monkeypatch.setattr("vnet.stack.tcp.tables.MAX_TIME_WAIT", 3)
    listener = pair.b.tcp.listen(PORT)
    for _ in range(5):
        client = pair.a.tcp.connect(B, PORT)
        pair.run(0)
        client.close()
        pair.run(0)
        listener.accept().close()
        pair.run(0)
    assert len(pair.a.tcp) == 3 and len(pair.b.tcp) == 0


def test_connections_are_bounded(pair, monkeypatch):
    monkeypatch.setattr("vnet.stack.tcp.tables.MAX_CONNECTIONS", 2)
    pair.b.tcp.listen(PORT)
    for _ in range(2):
        pair.a.tcp.connect(B, PORT)
    with pytest.raises(UsageError):
        pair.a.tcp.connect(B, PORT)
    pair.run(0)
    other = Scripted()
    other.a.tcp.listen(PORT)
    for port in (1, 2, 3):
        other.send(SYN, source_port=port)
    assert other.a.drops == {"tcp-connections-full": 1}


# What is not the peer's (RFC 5961)


def test_only_the_next_number_resets(peer):
    connection = peer.accept()
    (challenge,) = peer.send(RST, ahead=1)
    assert (challenge.flags, challenge.acknowledgment) == (ACK, peer.sequence)
    assert peer.send(RST, ahead=-1) == peer.send(RST, ahead=1 << 20) == []
    assert connection.state is State.ESTABLISHED
    assert peer.send(RST) == []
    assert connection.error == "reset"


def test_a_syn_in_the_window_is_challenged(peer):
    connection = peer.accept()
    for ahead in (-1, 0, 100):
        (challenge,) = peer.send(SYN, ahead=ahead)
        assert (challenge.flags, challenge.sequence) == (ACK, peer.acknowledgment)
    assert connection.state is State.ESTABLISHED


@pytest.mark.parametrize("off", [1, 1 << 20, -70000])
def test_an_acknowledgment_out_of_range_is_challenged(peer, off):
    connection = peer.accept()
    (challenge,) = peer.send(PSH | ACK, b"data", acknowledgment=(peer.acknowledgment + off) % 2**32)
    assert challenge.flags == ACK and connection.available == 0


def test_challenges_are_limited(peer):
    peer.accept()
    answered = sum(len(peer.send(SYN)) for _ in range(50))
    assert answered == 10 and peer.a.drops["tcp-challenge-limit"] == 40
    peer.run(5 * SECOND)
    assert len(peer.send(SYN)) == 1


def test_segments_without_ack_or_beyond_the_window_are_not_taken(peer):
    connection = peer.accept()
    assert peer.send(0, b"no ACK") == []
    (ack,) = peer.send(ACK, b"far away", ahead=1 << 21)
    assert ack.acknowledgment == peer.sequence and connection.available == 0


def test_urgent_data_stays_in_the_stream(peer):
    connection = peer.accept()
    peer.send(PSH | ACK | URG, b"abc!", urgent=4)
    assert connection.receive(10) == b"abc!"


def test_old_timestamps_are_dropped(peer):
    stamp = TcpOptions(timestamps=(5000, 0)).encode()
    peer.stamps = stamp
    connection = peer.accept(options=TcpOptions(mss=1460, timestamps=(5000, 0)).encode())
    (ack,) = peer.send(PSH | ACK, b"old", options=TcpOptions(timestamps=(4999, 0)).encode())
    assert ack.acknowledgment == peer.sequence
    assert peer.send(PSH | ACK, b"none") == []
    assert peer.a.drops == {"tcp-paws": 1, "tcp-no-timestamp": 1} and connection.available == 0
    peer.send(PSH | ACK, b"new", options=TcpOptions(timestamps=(5001, 0)).encode())
    assert connection.receive(10) == b"new"
    connection.send(b"x")
    assert decode(peer.take()[0].options).timestamps[1] == 5001


def test_nothing_is_told_from_within_a_call(pair):
    client, server = pair.connect()
    depth = []

    def told():
        assert not depth, "called from within the user's own call"

    client.on_change = server.on_change = told

    def call(function, *arguments):
        depth.append(1)
        function(*arguments)
        depth.pop()

    for step in (
        (client.send, b"x" * 100_000),
        (client.shutdown,),
        (server.receive, 1 << 20),
        (server.close,),
        (server.abort,),
    ):
        call(*step)
        pair.run(MILLISECOND)
    assert (client.state, server.state) == (State.TIME_WAIT, State.CLOSED)
