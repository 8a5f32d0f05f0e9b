"""What goes out when: super-frames, windows, Nagle, delayed acknowledgments, probes, slow timers."""

from __future__ import annotations

from tests.tcp_bed import PORT, A, B, Pair, Program, assert_clean, sizes
from vnet.stack.tcp import State
from vnet.units import MILLISECOND, MINUTE, SECOND
from vnet.wire.tcp import ACK, FIN, PSH
from vnet.wire.tcp_options import TcpOptions
from vnet.wire.virtio_net import TCP_CHECKSUM, is_super

SACK = TcpOptions(mss=1460, sack_permitted=True).encode()


# Super-frames


def test_bulk_data_leaves_in_super_frames_and_arrives_whole(pair):
    client, server = pair.connect()
    pair.wire.segments()
    sent = bytes(range(256)) * 4000
    assert client.send(sent) == len(sent)
    pair.run(SECOND)
    assert server.receive(1 << 21) == sent
    supers = [(frame, offload) for _, frame, offload in pair.wire.frames if is_super(offload)]
    assert sum(len(frame) - 66 for frame, _ in supers) > 1_000_000
    assert max(len(frame) for frame, _ in supers) == 66 + 45 * 1448
    assert {int.from_bytes(offload[4:6], "little") for _, offload in supers} == {1448}
    plain = [offload for _, frame, offload in pair.wire.frames if not is_super(offload)]
    assert set(plain) == {TCP_CHECKSUM}
    acks = pair.wire.segments(B)
    assert len(acks) < 40, "one for each super-frame"
    assert pair.b.drops == {}


def test_a_lossy_link_cuts_them_and_all_arrives():
    pair = Pair()
    link = pair.replace_wire(rate=100_000_000, latency=2 * MILLISECOND, loss=0.02)
    streams = pair.streams
    for host, peer in ((pair.a, pair.b), (pair.b, pair.a)):
        interface = peer.interfaces["eth0"]
        host.interfaces["eth0"].neighbors.lookup(interface.address).heard(interface.mac, confirmed=True)
    listener = pair.b.tcp.listen(PORT)
    client = pair.a.tcp.connect(B, PORT)
    pair.run(10 * SECOND)
    server = listener.accept()
    text = streams.stream("t", "t").octets(500_000)
    one_end, other_end = Program(client, text, streams.stream("p", "p")), Program(server, b"", streams.stream("q", "q"))
    pair.run(5 * MINUTE)
    assert other_end.received == text and one_end.done_sending
    assert link.forward.dropped_loss > 3 and link.forward.dropped_malformed == 0
    assert link.forward.delivered > 340, "frames, not super-frames"
    assert_clean(pair, client, server)


def test_a_jumbo_path_has_jumbo_segments():
    pair = Pair(mtu=9000)
    client, server = pair.connect()
    client.send(bytes(100_000))
    pair.run(SECOND)
    assert server.available == 100_000 and client.sender.mss == 8948
    assert server.receive(10) == bytes(10) and server.available == 99_990


# Windows


def test_a_reader_who_does_not_read_stops_the_sender(pair):
    for host in (pair.a, pair.b):
        host.tcp.settings.receive_buffer = 20_000
        host.tcp.settings.send_buffer = 50_000
    client, server = pair.connect()
    assert client.send(bytes(100_000)) == 50_000
    assert (client.room, client.unsent) == (0, 50_000)
    told = []
    client.on_change = lambda: told.append(client.room)
    pair.run(SECOND)
    assert server.available == 20_000 and client.unsent == 30_000 and told[-1] == 20_000
    pair.wire.segments()
    pair.run(30 * MINUTE)
    assert client.state is State.ESTABLISHED, "probes are answered: it may last (MUST-36)"
    probes = pair.wire.segments(A)
    assert 25 < len(probes) < 50 and set(sizes(probes)) == {1}
    assert server.receive(100_000) == bytes(20_000)
    pair.run(SECOND)
    assert (server.available, client.unsent) == (20_000, 10_000), "the update went out by itself"


def test_a_closed_connection_is_given_up_though_its_shut_window_answers(pair):
    pair.b.tcp.settings.receive_buffer = 20_000
    client, server = pair.connect()
    client.send(bytes(100_000))
    pair.run(30 * MINUTE)
    assert client.state is State.ESTABLISHED and server.available == 20_000
    client.close()
    pair.run(4 * MINUTE)
    assert client.state is State.FIN_WAIT_1, "the peer may be slow"
    pair.run(2 * MINUTE)
    assert client.error == "timed out" and len(pair.a.tcp) == 0


def test_a_closed_connection_goes_on_while_its_peer_takes_something(pair):
    pair.b.tcp.settings.receive_buffer = 20_000
    client, server = pair.connect()
    client.send(bytes(100_000))
    client.close()
    for _ in range(7):
        pair.run(4 * MINUTE)
        assert client.error is None and server.receive(10_000) == bytes(10_000)
    pair.run(4 * MINUTE)
    assert len(server.receive(20_000)) == 20_000
    pair.run(10 * SECOND)
    assert server.available == 10_000 and server.at_end is False and client.state is State.FIN_WAIT_2


def test_a_probe_that_finds_nobody_ends_the_connection(peer):
    connection = peer.accept()
    peer.send(ACK, window=0)
    connection.send(b"waits")
    assert peer.take() == []
    peer.run(SECOND)
    (probe, *_) = peer.take()
    assert (probe.payload, probe.sequence) == (b"w", peer.acknowledgment)
    peer.run(6 * MINUTE)
    assert connection.error == "timed out"


def test_a_probe_may_be_taken(peer):
    connection = peer.accept()
    peer.send(ACK, window=0)
    connection.send(b"waits")
    peer.run(SECOND)
    peer.take()
    peer.acknowledgment += 1
    (rest,) = peer.send(ACK, window=1000)
    assert rest.payload == b"aits" and connection.unsent == 4


def test_a_shut_window_does_not_stop_the_other_direction(pair):
    client, server = pair.connect()
    assert client.send(bytes(1 << 20)) == 1 << 20
    client.shutdown()
    pair.run(SECOND)
    assert server.available > (1 << 20) - 1448
    assert not server.receiver.ended
    for _ in range(4):
        server.send(bytes(500_000))
        pair.run(SECOND)
        assert client.receive(1 << 20) == bytes(500_000)
    pair.run(MINUTE)
    assert server.unsent == 0
    taken = server.receive(1 << 21)
    pair.run(2 * MINUTE)
    assert taken + server.receive(1 << 21) == bytes(1 << 20)
    assert server.at_end and client.state is State.FIN_WAIT_2


def test_an_acknowledgment_counts_while_the_window_is_shut(peer):
    peer.a.tcp.settings.receive_buffer = 1000
    connection = peer.accept()
    peer.send(PSH | ACK, bytes(1000))
    connection.send(b"answer")
    (answer,) = peer.take()
    assert (answer.window, connection.unsent) == (0, 6)
    peer.acknowledgment += 6
    peer.send(PSH | ACK, b"probe", ahead=1000)
    assert (connection.unsent, connection.available) == (0, 1000)


def test_the_window_is_never_taken_back(peer):
    peer.a.tcp.settings.receive_buffer = 10_000
    connection = peer.accept()
    edges = []
    for _ in range(8):
        for segment in peer.send(PSH | ACK, bytes(1000)):
            edges.append(segment.acknowledgment + segment.window)
        peer.sequence += 1000
    assert edges == sorted(edges) and len(edges) == 4
    assert connection.available == 8000
    connection.receive(8000)
    (update,) = peer.take()
    assert update.acknowledgment + update.window == peer.sequence + 10_000


def test_data_beyond_the_window_is_cut_off(peer):
    peer.a.tcp.settings.receive_buffer = 1000
    connection = peer.accept()
    (ack,) = peer.send(PSH | ACK | FIN, bytes(1400))
    assert (connection.available, ack.window, ack.acknowledgment) == (1000, 0, peer.sequence + 1000)
    assert not connection.receiver.ended
    (ack,) = peer.send(ACK, b"!", ahead=1000)
    assert connection.available == 1000 and ack.window == 0


def test_silly_windows_are_not_used(peer):
    connection = peer.accept()
    connection.no_delay = True
    peer.send(ACK, window=100)
    connection.send(bytes(500))
    assert peer.take() == []
    peer.run(SECOND)
    assert sizes(peer.take())[0] == 100, "nothing else moves"


# Nagle and delayed acknowledgments


def test_nagle_holds_a_small_segment_while_another_is_out(peer):
    connection = peer.accept(options=SACK)
    for piece in (b"a", b"b", b"c"):
        connection.send(piece)
    assert [s.payload for s in peer.take()] == [b"a"]
    peer.acknowledgment += 1
    assert [s.payload for s in peer.send(ACK)] == [b"bc"]
    connection.send(b"d")
    assert peer.take() == []
    connection.no_delay = True
    assert [s.payload for s in peer.take()] == [b"d"]
    connection.send(b"e")
    assert [s.payload for s in peer.take()] == [b"e"]


def test_a_fin_does_not_wait(peer):
    connection = peer.accept()
    connection.send(b"a")
    connection.send(b"b")
    peer.take()
    connection.shutdown()
    (last,) = peer.take()
    assert (last.payload, last.flags) == (b"b", FIN | PSH | ACK)


def test_acknowledgments_are_delayed_for_one_segment_but_not_two(peer):
    peer.accept()
    assert peer.send(PSH | ACK, b"one") == []
    peer.run(40 * MILLISECOND - 1)
    assert peer.take() == []
    peer.run(1)
    assert [s.acknowledgment for s in peer.take()] == [peer.sequence + 3]
    assert peer.send(PSH | ACK, b"two", ahead=3) == []
    (ack,) = peer.send(PSH | ACK, b"three", ahead=6)
    assert ack.acknowledgment == peer.sequence + 11


def test_an_answer_carries_the_acknowledgment(peer):
    connection = peer.accept()
    connection.on_change = lambda: connection.available and connection.send(connection.receive(100))
    (echo,) = peer.send(PSH | ACK, b"echo")
    assert (echo.payload, echo.acknowledgment) == (b"echo", peer.sequence + 4)
    peer.run(SECOND // 10)
    assert peer.take() == []


# Slow timers


def test_keep_alive_asks_and_gives_up(pair):
    client, server = pair.connect()
    client.keep_alive = MINUTE
    pair.wire.segments()
    pair.run(10 * MINUTE + SECOND)
    asked_and_answered = [s.destination_port == PORT for s in pair.wire.segments()]
    assert asked_and_answered == [True, False] * 10 and client.state is State.ESTABLISHED
    pair.wire.filter = lambda frame: frame[12:14] != b"\x08\0"
    pair.wire.segments()
    pair.run(11 * MINUTE)
    assert client.error == "timed out" and server.state is State.ESTABLISHED
    asked = pair.wire.segments(A)
    assert len(asked) == 10 and {len(s.payload) for s in asked} == {0}


def test_a_quiet_connection_costs_nothing(pair):
    client, server = pair.connect()
    client.send(b"x")
    pair.run(SECOND)
    pair.wire.segments()
    pair.run(60 * MINUTE)
    assert pair.wire.segments() == [] and client.state is server.state is State.ESTABLISHED


def test_one_seed_is_one_result():
    def play(seed):
        pair = Pair(seed, loss=0.05, swap=0.05, spread=MILLISECOND)
        client, server = pair.connect()
        random = pair.streams.stream("p", "p")
        Program(client, bytes(100_000), random)
        Program(server, bytes(50_000), random)
        pair.run(5 * MINUTE)
        return pair.wire.frames

    assert play(3) == play(3) != play(4)


def test_the_initial_window_and_slow_start(peer):
    connection = peer.accept(options=SACK)
    peer.send(ACK, window=65535)
    connection.send(bytes(60_000))
    assert sizes(peer.take()) == [1460] * 10, "the initial window of RFC 6928"
    peer.acknowledgment += 14_600
    assert sizes(peer.send(ACK)) == [1460] * 20, "slow start doubles it"


def test_nodes_that_hand_over_within_the_call_do_not_tangle(pair):
    one, other = (host.interfaces["eth0"].port for host in (pair.a, pair.b))
    one.plug(lambda frame, offload: other.receive(frame, offload))
    other.plug(lambda frame, offload: one.receive(frame, offload))
    client, server = pair.connect()
    random = pair.streams.stream("p", "p")
    text = random.octets(300_000)
    one_end, other_end = Program(client, text, random), Program(server, text[::-1], random)
    pair.run(2 * MINUTE)
    assert (other_end.received, one_end.received) == (text, text[::-1])
    assert_clean(pair, client, server)


def test_a_thousand_connections_at_once():
    pair = Pair(delay=MILLISECOND)
    listener = pair.b.tcp.listen(PORT, backlog=1000)
    clients = [pair.a.tcp.connect(B, PORT) for _ in range(1000)]
    for number, client in enumerate(clients):
        client.send(b"%04d" % number)
        client.shutdown()
    pair.run(SECOND)
    servers = [listener.accept() for _ in range(1000)]
    assert listener.accept() is None
    assert sorted(server.receive(10) for server in servers) == [b"%04d" % number for number in range(1000)]
    for server in servers:
        server.close()
    pair.run(2 * MINUTE)
    assert_clean(pair, *clients, *servers)
    assert pair.timeline.next_instant() is None or len(pair.timeline._heap) < 100
