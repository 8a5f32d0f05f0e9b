"""The states of a connection (RFC 9293, 3.3.2 and 3.10): opening, closing, resetting, and who is told what."""

from __future__ import annotations

import pytest

from tests.tcp_bed import PORT, A, B, Pair, Scripted, assert_clean
from vnet.errors import UsageError
from vnet.stack.tcp import State
from vnet.units import MILLISECOND, MINUTE, SECOND
from vnet.wire import icmpv4
from vnet.wire.ipv4 import Ipv4
from vnet.wire.tcp import ACK, FIN, PSH, RST, SYN, URG
from vnet.wire.tcp_options import TcpOptions, decode


@pytest.fixture
def pair():
    return Pair()


@pytest.fixture
def peer():
    return Scripted()


def watch(connection):
    told = []
    connection.on_change = lambda: told.append(connection.state)
    return told


# Opening


def test_a_handshake_agrees_on_options(pair):
    client, server = pair.connect()
    syn, answer, ack = pair.wire.segments()
    assert (syn.flags, answer.flags, ack.flags) == (SYN, SYN | ACK, ACK)
    for segment in (syn, answer):
        options = decode(segment.options)
        assert (options.mss, options.window_scale, options.sack_permitted) == (1460, 5, True)
        assert options.timestamps is not None
    assert decode(answer.options).timestamps[1] == decode(syn.options).timestamps[0]
    assert client.state is server.state is State.ESTABLISHED
    assert client.local == server.remote and client.remote == server.local == (B, PORT)
    assert client.sender.mss == server.sender.mss == 1448


def test_a_peer_without_options_is_served(peer):
    connection = peer.accept()
    assert decode(peer.answer.options) == TcpOptions(mss=1460)
    connection.no_delay = True
    connection.send(bytes(1000))
    assert [(len(s.payload), s.options) for s in peer.take()] == [(536, b""), (464, b"")]
    (ack,) = peer.send(PSH | ACK, b"x" * 2920, window=2000)
    assert ack.acknowledgment == peer.sequence + 2920 and ack.options == b""
    assert connection.receive(9000) == b"x" * 2920


def test_the_smaller_segment_size_counts():
    pair = Pair(mtu=9000, mtu_b=1500)
    client, server = pair.connect()
    assert client.sender.mss == server.sender.mss == 1448


def test_both_open_at_once(pair):
    pair.wire.delay = 10 * MILLISECOND
    one = pair.a.tcp.connect(B, 2000, source_port=1000)
    other = pair.b.tcp.connect(A, 1000, source_port=2000)
    pair.run(15 * MILLISECOND)
    assert one.state is other.state is State.SYN_RECEIVED
    pair.run(SECOND)
    assert one.state is other.state is State.ESTABLISHED
    one.send(b"there")
    other.send(b"here")
    pair.run(SECOND)
    assert (one.receive(10), other.receive(10)) == (b"here", b"there")


def test_a_host_connects_to_itself(pair):
    listener = pair.a.tcp.listen(PORT)
    client = pair.a.tcp.connect(A, PORT)
    pair.run(0)
    server = listener.accept()
    sent = bytes(range(256)) * 1000
    assert client.send(sent) == len(sent)
    pair.run(SECOND)
    assert server.receive(1 << 20) == sent
    assert pair.wire.frames == []
    client.close()
    server.close()
    listener.close()
    pair.run(2 * MINUTE)
    assert_clean(pair, client, server)


def test_loopback_addresses_stay_in_the_host(pair):
    listener = pair.a.tcp.listen(PORT)
    client = pair.a.tcp.connect(bytes((127, 0, 0, 1)), PORT)
    pair.run(0)
    assert client.is_established and listener.accept().remote == client.local == (bytes((127, 0, 0, 1)), client.local[1])
    assert pair.wire.frames == []


def test_a_closed_port_refuses(pair):
    connection = pair.a.tcp.connect(B, 9)
    told = watch(connection)
    assert connection.state is State.SYN_SENT and not connection.is_established
    pair.run()
    assert (connection.state, connection.error, told) == (State.CLOSED, "refused", [State.CLOSED])
    assert len(pair.a.tcp) == 0


def test_without_a_route_it_fails_at_once_and_tells_later(pair):
    connection = pair.a.tcp.connect(bytes((8, 8, 8, 8)), 80)
    told = watch(connection)
    assert (connection.state, connection.error, told) == (State.CLOSED, "no route", [])
    pair.run(0)
    assert told == [State.CLOSED] and len(pair.a.tcp) == 0


def test_a_neighbor_that_is_not_there_is_unreachable(pair):
    connection = pair.a.tcp.connect(bytes((10, 0, 0, 99)), 80)
    pair.run(5 * SECOND)
    assert connection.error == "host unreachable"


def test_silence_ends_the_attempt_after_three_minutes(pair):
    pair.wire.filter = lambda frame: frame[12:14] != b"\x08\0"
    connection = pair.a.tcp.connect(B, PORT)
    pair.run(3 * MINUTE - 1)
    assert connection.state is State.SYN_SENT
    instants = [when // SECOND for when, frame, _ in pair.wire.frames if frame[23] == 6 and frame[12:14] == b"\x08\0"]
    assert instants[:7] == [0, 1, 3, 7, 15, 31, 63]
    pair.run(2)
    assert connection.error == "timed out"


def test_an_address_that_goes_away_ends_in_a_timeout(pair):
    client, server = pair.connect()
    pair.wire.filter = lambda frame: frame[12:14] != b"\x08\0"
    opening = pair.a.tcp.connect(B, 81)
    client.send(b"into the void")
    interface = pair.a.interfaces["eth0"]
    interface.remove_address(interface.addresses[0])
    pair.run(6 * MINUTE)
    assert opening.error == client.error == "timed out" and len(pair.a.tcp) == 0
    assert server.state is State.ESTABLISHED


def test_an_icmp_error_ends_an_attempt_but_not_a_connection(pair):
    pair.wire.filter = lambda frame: False
    opening = pair.a.tcp.connect(B, PORT)
    syn = pair.wire.frames[-1][1]

    def report(frame):
        message = icmpv4.build(3, 13, 0, frame[14:42])
        packet = Ipv4(source=B, destination=A, protocol=1).encode(len(message)) + message
        pair.a.interfaces["eth0"].receive(frame[6:12] + frame[:6] + b"\x08\0" + packet, bytes(10))

    report(syn[:38] + b"\1\2\3\4" + syn[42:])
    assert opening.state is State.SYN_SENT, "a number that was never sent"
    report(syn)
    assert opening.error == "communication prohibited"
    pair.wire.filter = lambda frame: True
    client, _ = pair.connect()
    client.send(b"data")
    report(pair.wire.frames[-1][1])
    assert client.state is State.ESTABLISHED


def test_a_lost_syn_is_sent_again_and_answered_again(peer):
    listener = peer.a.tcp.listen(PORT)
    (first,) = peer.send(SYN)
    (again,) = peer.send(SYN)
    assert (again.flags, again.sequence, again.acknowledgment) == (SYN | ACK, first.sequence, 1001)
    peer.run(SECOND)
    assert [s.flags for s in peer.take()] == [SYN | ACK]
    peer.sequence, peer.acknowledgment = 1001, first.sequence + 1
    assert peer.send(PSH | ACK, b"at once") == []
    assert listener.accept().receive(10) == b"at once"


def test_a_wrong_acknowledgment_of_a_syn_is_reset(peer):
    peer.a.tcp.listen(PORT)
    (answer,) = peer.send(SYN)
    (reset,) = peer.send(ACK, sequence=1001, acknowledgment=answer.sequence + 5)
    assert (reset.flags, reset.sequence) == (RST, answer.sequence + 5)
    connection = peer.a.tcp.connect(B, 81, source_port=4000)
    peer.ports = 81, 4000
    (reset,) = peer.send(SYN | ACK, acknowledgment=77)
    assert (reset.flags, reset.sequence, connection.state) == (RST, 77, State.SYN_SENT)
    assert peer.send(RST | ACK, acknowledgment=77) == []
    assert connection.state is State.SYN_SENT


# Listening


def test_ports_that_are_taken_or_cannot_be(pair):
    listener = pair.b.tcp.listen(PORT)
    for wrong in ((PORT, None), (PORT, B), (-1, None), (65536, None)):
        with pytest.raises(UsageError):
            pair.b.tcp.listen(*wrong)
    assert pair.b.tcp.listen(81, B).address == B
    pair.b.tcp.listen(81, A)
    assert 49152 <= pair.b.tcp.listen().port <= 65535
    listener.close()
    pair.b.tcp.listen(PORT).close()
    pair.a.tcp.connect(B, PORT, source_port=1000)
    for wrong in ((B, PORT, 1000), (B, 0, 0), (B, 65536, 0), (B, 80, 70000)):
        with pytest.raises(UsageError):
            pair.a.tcp.connect(*wrong[:2], source_port=wrong[2])


def test_a_full_backlog_drops_and_old_handshakes_give_way(peer):
    ready = []
    listener = peer.a.tcp.listen(PORT, backlog=2)
    listener.on_ready = lambda: ready.append(listener.accept())
    for port in (1, 2, 3):
        answers = peer.send(SYN, source_port=port)
        assert len(answers) == (port < 3)
    assert peer.a.drops == {"tcp-backlog": 1} and len(peer.a.tcp) == 2
    peer.run(SECOND)
    assert [s.destination_port for s in peer.send(SYN, source_port=3)] == [3]
    assert len(peer.a.tcp) == 2 and ready == []


def test_a_peer_that_repeats_its_syn_does_not_keep_old_handshakes_from_giving_way(peer):
    peer.a.tcp.listen(PORT, backlog=2)
    for port in (1, 2):
        peer.send(SYN, source_port=port)
    for _ in range(2):
        peer.run(600 * MILLISECOND)
        assert SYN | ACK in [s.flags for s in peer.send(SYN, source_port=1)], "still the first handshake"
    assert [s.destination_port for s in peer.send(SYN, source_port=3)] == [3]
    assert len(peer.a.tcp) == 2 and peer.a.drops == {}


def test_a_listener_that_closes_resets_what_nobody_took(pair):
    listener = pair.b.tcp.listen(PORT)
    client = pair.a.tcp.connect(B, PORT)
    pair.run(0)
    assert client.state is State.ESTABLISHED
    listener.close()
    listener.close()
    pair.run(0)
    assert client.error == "reset" and len(pair.b.tcp) == 0
    assert listener.accept() is None


def test_expects_knows_connections_and_listeners(pair):
    client, _ = pair.connect()
    packets = {source: frame[14:] for _, frame, _ in pair.wire.frames if (source := frame[29]) in (1, 2)}
    assert pair.b.tcp.expects(packets[1], 20) and pair.a.tcp.expects(packets[2], 20)
    client.abort()
    pair.run(0)
    assert not pair.b.tcp.expects(packets[1], 20)
    pair.b.tcp.listen(PORT)
    assert pair.b.tcp.expects(packets[1], 20)


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
