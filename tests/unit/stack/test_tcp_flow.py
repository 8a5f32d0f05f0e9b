"""What goes out when: windows, Nagle, delayed acknowledgments, probes, retransmission, super-frames, path MTU."""

from __future__ import annotations

from functools import partial

import pytest

from tests.tcp_bed import PORT, A, B, Pair, Program, Scripted, assert_clean
from vnet.links.link import Link
from vnet.stack.tcp import State
from vnet.stack.tcp.congestion import NewReno
from vnet.units import MILLISECOND, MINUTE, SECOND
from vnet.wire import icmpv4
from vnet.wire.ipv4 import Ipv4
from vnet.wire.tcp import ACK, FIN, PSH, SYN
from vnet.wire.tcp_options import TcpOptions, decode
from vnet.wire.virtio_net import TCP_CHECKSUM, is_super

SACK = TcpOptions(mss=1460, sack_permitted=True).encode()


@pytest.fixture
def pair():
    return Pair()


@pytest.fixture
def peer():
    return Scripted()


def sizes(segments):
    return [len(segment.payload) for segment in segments]


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
    one, other = (host.interfaces["eth0"].port for host in (pair.a, pair.b))
    for port in (one, other):
        port.unplug()
    streams = pair.streams
    link = Link(
        pair.timeline, one, other, partial(streams.stream, "l"), rate=100_000_000, latency=2 * MILLISECOND, loss=0.02,
    )  # fmt: skip
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


# Path MTU (RFC 1191)


def too_large(pair, mtu):
    """Tell host a that its last frame was too large for the path."""
    frame = next(frame for _, frame, _ in reversed(pair.wire.frames) if frame[29] == 1 and len(frame) > 66)
    message = icmpv4.build(3, 4, mtu, frame[14:42])
    packet = Ipv4(source=B, destination=A, protocol=1).encode(len(message)) + message
    pair.a.interfaces["eth0"].receive(frame[6:12] + frame[:6] + b"\x08\0" + packet, bytes(10))


def test_a_smaller_path_mtu_is_learned(pair):
    client, server = pair.connect()
    pair.wire.filter = lambda frame: len(frame) <= 14 + 1000 or frame[29] != 1
    client.send(bytes(100_000))
    too_large(pair, 1000)
    assert client.sender.mss == 1000 - 52
    pair.wire.filter = lambda frame: True
    offloads = {int.from_bytes(offload[4:6], "little") for _, frame, offload in pair.wire.frames[-1:]}
    assert offloads <= {0, 948}
    pair.run(10 * SECOND)
    assert server.available == 100_000
    pair.b.tcp.listen(81)
    again = pair.a.tcp.connect(B, 81)
    pair.run(0)
    assert decode(next(s for s in pair.wire.segments(A) if s.flags == SYN).options).mss == 1460, "what it can take in"
    assert again.sender.mss == 948


@pytest.mark.parametrize(("told", "mss"), [(0, 1492 - 52), (1500, 1448), (9000, 1448), (100, 552 - 52)])
def test_what_routers_say_is_weighed(pair, told, mss):
    client, _ = pair.connect()
    client.send(bytes(10_000))
    too_large(pair, told)
    assert client.sender.mss == mss
    if told == 100:
        assert not pair.wire.frames[-1][1][20] & 0x40, "it may be fragmented then"


def test_a_path_that_swallows_large_packets_is_found_out(pair):
    client, server = pair.connect()
    pair.wire.cut = True
    pair.wire.filter = lambda frame: len(frame) <= 14 + 1200
    client.send(bytes(100_000))
    pair.run(20 * SECOND)
    assert server.available == 100_000 and client.sender.mss == 1024 - 12
    assert pair.a.tcp.path_mtus.get(B) == 1064


def test_path_mtus_are_bounded_and_forgotten(pair):
    mtus = pair.a.tcp.path_mtus
    for number in range(1100):
        assert mtus.learn(number.to_bytes(4, "big"), 1000, 1500)
    assert len(mtus._found) == 1024 and (mtus.get(bytes(4)), mtus.get(bytes((0, 0, 4, 0)))) == (65535, 1000)
    pair.run(10 * MINUTE)
    assert mtus.get(bytes((0, 0, 4, 0))) == 65535


def test_a_change_of_routes_finds_another_path(pair):
    client, server = pair.connect()
    pair.a.interfaces["eth0"].mtu = 1000
    pair.a.changed()
    client.send(bytes(5000))
    pair.run(SECOND)
    assert client.sender.mss == 948 and server.available == 5000


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
