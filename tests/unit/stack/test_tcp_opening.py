"""How connections begin (RFC 9293, 3.10.1 and 3.10.7.2 to 3.10.7.4), and listeners."""

from __future__ import annotations

import pytest

from tests.tcp_bed import PORT, A, B, Pair, assert_clean, watch
from vnet.errors import UsageError
from vnet.stack.tcp import State
from vnet.units import MILLISECOND, MINUTE, SECOND
from vnet.wire import icmpv4
from vnet.wire.ipv4 import Ipv4
from vnet.wire.tcp import ACK, PSH, RST, SYN
from vnet.wire.tcp_options import TcpOptions, decode

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
