"""TCP over IPv6: what differs from TCP over IPv4. What does not is tried over both in tests/property."""

from __future__ import annotations

from ipaddress import IPv4Interface

import pytest

from tests.tcp_bed import A6, B6, PORT, V6, A, B, Pair, Program, Scripted, assert_clean
from vnet.addresses import multicast_mac
from vnet.errors import UsageError
from vnet.ports import NO_OFFLOAD
from vnet.stack.tcp import Ecn, ProbeResult, State
from vnet.units import MILLISECOND, MINUTE, SECOND
from vnet.wire import icmpv6, ipv6, ndp
from vnet.wire.ipv6 import ALL_NODES, LOOPBACK
from vnet.wire.segmentation import complete
from vnet.wire.tcp import ACK, CWR, ECE, RST, SYN, Tcp
from vnet.wire.tcp_options import TcpOptions, decode
from vnet.wire.virtio_net import TCP6_CHECKSUM, is_super

ANY6 = ipv6.ANY
ROUTER_MAC = b"\x52\x54\0\0\0\x09"


@pytest.fixture
def pair():
    return Pair(version=V6)


@pytest.fixture
def peer():
    return Scripted(version=V6)


def test_bulk_data_leaves_in_super_frames_and_arrives_whole(pair):
    client, server = pair.connect()
    syns = [segment for segment in pair.wire.segments() if segment.flags & SYN]
    assert [decode(segment.options).mss for segment in syns] == [1440, 1440], "RFC 6691: 1500 - 40 - 20"
    sent = bytes(range(256)) * 4000
    assert client.send(sent) == len(sent)
    pair.run(SECOND)
    assert server.receive(1 << 21) == sent
    frames = [(frame, offload) for _, frame, offload in pair.wire.frames if V6.is_tcp(frame)]
    supers = [(frame, offload) for frame, offload in frames if is_super(offload)]
    assert max(len(frame) for frame, _ in supers) == 86 + 45 * 1428
    assert {offload for _, offload in frames if not is_super(offload)} == {TCP6_CHECKSUM}
    parts = [part for frame, offload in frames for part in complete(frame, offload)]
    assert max(map(len, parts)) == 1514
    assert sum(len(V6.decode(part).payload) for part in parts) == len(sent), "every checksum is right"
    assert len(pair.wire.segments(B6)) < 40, "one acknowledgment for each super-frame"
    assert pair.b.drops == {}


def test_a_lossy_link_cuts_them_and_all_arrives(pair):
    link = pair.replace_wire(rate=100_000_000, latency=2 * MILLISECOND, loss=0.02)
    streams = pair.streams
    pair.run(5 * SECOND)
    listener = pair.b.tcp.listen(PORT, ANY6)
    client = pair.a.tcp.connect(B6, PORT)
    pair.run(10 * SECOND)
    server = listener.accept()
    text = streams.stream("t", "t").octets(500_000)
    one_end, other_end = Program(client, text, streams.stream("p", "p")), Program(server, b"", streams.stream("q", "q"))
    pair.run(5 * MINUTE)
    assert other_end.received == text and one_end.done_sending
    assert link.forward.dropped_loss > 3 and link.forward.dropped_malformed == 0
    assert_clean(pair, client, server)


def test_a_peer_that_names_no_segment_size_gets_the_default_of_ipv6(peer):
    assert peer.accept().sender.mss == 1220
    assert Scripted().accept().sender.mss == 536


def test_jumbo_frames():
    pair = Pair(mtu=9000, version=V6)
    client, _ = pair.connect()
    assert client.sender.mss == 9000 - 60 - 12


# -- what belongs to nobody


def test_a_closed_port_resets(peer):
    (answer,) = peer.send(SYN)
    assert (answer.sequence, answer.acknowledgment, answer.flags) == (0, 1001, RST | ACK)
    assert peer.send(RST) == []
    assert peer.a.drops == {"tcp-port": 2}


def test_bad_segments_are_counted(peer):
    octets = Tcp(source_port=5000, destination_port=PORT, sequence=1, flags=SYN).encode(B6, A6)
    for bad in (octets[:19], octets[:12] + b"\x10" + octets[13:], octets[:12] + b"\xf0" + octets[13:], octets[:-1] + b"!"):
        peer.receive(bad)
    assert peer.a.drops == {"tcp-malformed": 4}
    segment = Tcp(source_port=5000, destination_port=PORT, sequence=1, flags=SYN).encode(B6, ALL_NODES)
    head = V6.head(B6, ALL_NODES, len(segment))
    peer.interface.port.receive(multicast_mac(ALL_NODES) + peer.mac + b"\x86\xdd" + head + segment, NO_OFFLOAD)
    assert peer.a.drops == {"tcp-malformed": 4, "tcp-group": 1} and peer.take() == []


def test_extension_headers_before_a_segment(peer):
    peer.a.tcp.listen(PORT, ANY6)
    segment = Tcp(source_port=5000, destination_port=PORT, sequence=1, flags=SYN).encode(B6, A6)
    options = bytes((6, 0, 1, 4, 0, 0, 0, 0))
    packet = ipv6.build(B6, A6, 60, 8 + len(segment)) + options + segment
    peer.interface.port.receive(peer.interface.mac + peer.mac + b"\x86\xdd" + packet, NO_OFFLOAD)
    assert [answer.flags for answer in peer.take()] == [SYN | ACK]


# -- what ICMPv6 says


def icmp(peer, kind, code, rest=0, *, number=None, quoted=None):
    """Tell host a something about the last segment that it sent, or one with another *number*."""
    frame = quoted or next(frame for frame in reversed(peer.frames) if V6.is_tcp(frame))
    packet = frame[14:74]
    if number is not None:
        packet = packet[:44] + number.to_bytes(4, "big") + packet[48:]
    message = icmpv6.build(B6, A6, kind, code, rest, packet)
    head = ipv6.build(B6, A6, 58, len(message))
    peer.interface.port.receive(peer.interface.mac + peer.mac + b"\x86\xdd" + head + message, NO_OFFLOAD)
    peer.timeline.run_until(peer.timeline.now)


@pytest.mark.parametrize(
    ("kind", "code", "error"),
    [
        (1, 0, "no route to destination"), (1, 1, "administratively prohibited"), (1, 4, "port unreachable"),
        (4, 1, "unrecognized next header"), (3, 0, None), (4, 0, None),
    ],
)  # fmt: skip
def test_errors_while_opening(peer, kind, code, error):
    told = []
    connection = peer.a.tcp.connect(B6, PORT)
    connection.on_change = lambda: told.append(connection.error)
    icmp(peer, kind, code, number=77)
    assert connection.error is None, "about a segment that was never sent: RFC 5927"
    icmp(peer, kind, code)
    assert connection.error == error
    assert told == ([error] if error else [])


def test_errors_on_an_open_connection_may_pass(peer):
    connection = peer.accept()
    connection.send(b"x")
    icmp(peer, 1, 0)
    assert connection.error is None and connection.state is State.ESTABLISHED


def test_a_smaller_path_mtu_is_learned(peer):
    connection = peer.accept(options=TcpOptions(mss=1440).encode())
    connection.send(bytes(10_000))
    peer.run(0)
    for mtu in (1279, 1500, 9000):
        icmp(peer, 2, 0, mtu)
        assert connection.sender.mss == 1440, "RFC 8201, 4: that is none"
    frame = next(frame for frame in peer.frames if len(frame) > 1000)
    peer.take()
    icmp(peer, 2, 0, 1400, quoted=frame)
    assert connection.sender.mss == 1400 - 60
    assert {len(segment.payload) for segment in peer.take()} <= {1340, 100, 10_000 % 1340}
    assert peer.a.ipv6.paths.get(peer.timeline.now, B6, 1500) == 1400
    again = peer.a.tcp.connect(B6, 81)
    (syn,) = peer.take()
    assert decode(syn.options).mss == 1440, "what it can take in"
    assert again.out.path().mss == 1340


def test_each_connection_heeds_what_it_is_told(pair):
    connections = [pair.connect()[0] for _ in range(3)]
    pair.wire.filter = lambda frame: V6.source(frame) != A6 or len(frame) < 1000
    for connection in connections:
        pair.wire.frames.clear()
        connection.send(bytes(10_000))
        frame = next(frame for _, frame, _ in pair.wire.frames if len(frame) > 1000)
        message = icmpv6.build(B6, A6, 2, 0, 1400, frame[14:74])
        packet = ipv6.build(B6, A6, 58, len(message)) + message
        pair.a.interfaces["eth0"].receive(frame[6:12] + frame[:6] + b"\x86\xdd" + packet, NO_OFFLOAD)
    assert [connection.sender.mss for connection in connections] == [1328] * 3


def test_a_path_that_swallows_large_packets_is_found_out(pair):
    client, server = pair.connect()
    pair.wire.cut = True
    pair.wire.filter = lambda frame: len(frame) <= 14 + 1280
    client.send(bytes(100_000))
    pair.run(20 * SECOND)
    assert server.available == 100_000 and client.sender.mss == 1280 - 60 - 12


def test_a_neighbor_that_is_not_there(pair):
    nobody = V6.a[:-1] + b"\x99"
    connection = pair.a.tcp.connect(nobody, PORT)
    assert connection.error is None
    pair.run(5 * SECOND)
    assert connection.error == "address unreachable"


def test_there_is_no_route(pair):
    for address in (b"\x20\x02" + bytes(13) + b"\1", ALL_NODES):
        connection = pair.a.tcp.connect(address, PORT)
        assert (connection.state, connection.error) == (State.CLOSED, "no route")
    with pytest.raises(UsageError, match="same IP version"):
        pair.a.tcp.connect(B6, PORT, source=A)
    other = Pair()
    assert other.a.tcp.connect(B6, PORT).error == "no route", "a host without IPv6"


# -- ECN


def test_congestion_is_marked_and_echoed(pair):
    pair.a.tcp.settings.ecn = Ecn.REQUEST
    client, server = pair.connect()
    syn, answer = (segment for segment in pair.wire.segments() if segment.flags & SYN)
    assert (syn.flags, answer.flags) == (SYN | ECE | CWR, SYN | ACK | ECE)
    window = client.sender.congestion.window
    pair.wire.mark = lambda frame: True
    client.send(bytes(5000))
    pair.run(0)
    data = [frame for _, frame, _ in pair.wire.frames if V6.source(frame) == A6 and len(frame) > 100]
    assert {V6.ecn(frame) for frame in data} == {2}
    assert any(segment.flags & ECE for segment in pair.wire.segments(B6))
    assert client.sender.congestion.window < window
    pair.wire.mark = lambda frame: False
    client.send(bytes(5000))
    pair.run(SECOND)
    assert any(segment.flags & CWR for segment in pair.wire.segments(A6))
    assert server.available == 10_000


# -- probes


def test_probes(pair):
    found = []
    pair.b.tcp.listen(PORT, ANY6)
    pair.a.tcp_probe(B6, PORT, on_result=found.append)
    pair.a.tcp_probe(B6, 81, on_result=found.append)
    pair.run(0)
    assert found == [ProbeResult("open", 0, B6), ProbeResult("refused", 0, B6)]
    syn = pair.wire.segments(A6)[0]
    assert decode(syn.options).mss == 1440
    pair.a.tcp_probe(b"\x20\x02" + bytes(14), 81, on_result=found.append)
    pair.a.tcp_probe(A6[:-1] + b"\x99", 81, timeout=10 * SECOND, on_result=found.append)
    pair.wire.filter = lambda frame: not V6.is_tcp(frame)
    pair.a.tcp_probe(B6, 81, on_result=found.append)
    pair.run(10 * SECOND)
    assert [result.state for result in found[2:]] == ["no route", "no answer", "address unreachable"]
    assert len(pair.b.tcp) == 0


# -- ourselves


@pytest.mark.parametrize("address", [LOOPBACK, A6])
def test_connections_to_ourselves(pair, address):
    listener = pair.a.tcp.listen(PORT, address)
    pair.wire.frames.clear()
    client = pair.a.tcp.connect(address, PORT)
    pair.run(0)
    server = listener.accept()
    assert client.local[0] == client.remote[0] == server.remote[0] == address
    random = pair.streams.stream("p", "p")
    one, other = Program(client, bytes(300_000), random), Program(server, b"answer", random)
    pair.run(10 * MINUTE)
    assert other.received == bytes(300_000) and one.received == b"answer"
    assert pair.wire.frames == [] and len(pair.a.tcp) == 0
    refused = pair.a.tcp.connect(address, 81)
    pair.run(0)
    assert refused.error == "refused"


def test_the_loopback_address_is_there_without_ipv6_on_any_interface():
    pair = Pair()
    listener = pair.a.tcp.listen(PORT, ANY6)
    client = pair.a.tcp.connect(LOOPBACK, PORT)
    pair.run(0)
    assert client.is_established and listener.accept().remote == client.local


# -- link-local peers


def two_links():
    """Host a on two cables; at the end of each is a host with the same MAC address, so the same link-local one."""
    pair = Pair(version=V6)
    second = pair.a.add_interface("eth1", bytes((0x52, 0x54, 0, 0, 1, 1)))
    second.enable_ipv6()
    other = pair._host("c", 2, 1500)
    pair.wire.join(second.port, other.interfaces["eth0"].port)
    pair.run(5 * SECOND)
    return pair, other, ipv6.link_local(other.interfaces["eth0"].mac)


def test_link_local_peers_are_told_apart_by_the_interface():
    pair, other, address = two_links()
    listeners = {host: host.tcp.listen(PORT, ANY6) for host in (pair.b, other)}
    found = {}
    for name, host in (("eth0", pair.b), ("eth1", other)):
        interface = pair.a.interfaces[name]
        client = pair.a.tcp.connect(address, PORT, interface=interface)
        client.send(name.encode())
        pair.run(SECOND)
        server = listeners[host].accept()
        assert client.scope is interface and server.scope is host.interfaces["eth0"]
        assert client.local[0] == ipv6.link_local(interface.mac) == server.remote[0]
        assert server.receive(100) == name.encode()
        server.send(b"hello " + name.encode())
        found[name] = client
    pair.run(SECOND)
    assert {name: client.receive(100) for name, client in found.items()} == {"eth0": b"hello eth0", "eth1": b"hello eth1"}
    results = []
    for name in ("eth0", "eth1"):
        pair.a.tcp.probe(address, 99, SECOND, results.append, pair.a.interfaces[name])
    listeners[other].close()
    pair.a.tcp.probe(address, PORT, SECOND, results.append, pair.a.interfaces["eth1"])
    pair.a.tcp.probe(address, PORT, SECOND, results.append, pair.a.interfaces["eth0"])
    pair.run(SECOND)
    assert [result.state for result in results] == ["refused", "refused", "refused", "open"]


def test_a_bound_link_local_address_says_which_link_is_meant():
    pair, other, address = two_links()
    listener = other.tcp.listen(PORT, ANY6)
    source = ipv6.link_local(pair.a.interfaces["eth1"].mac)
    client = pair.a.tcp.connect(address, PORT, source=source)
    pair.run(SECOND)
    assert client.is_established and listener.accept().remote == client.local


# -- listeners


ONE_ADDRESS = {"address": A6}


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ({}, {}, True), ({}, {"address": ANY6}, False), ({}, {"both": True, "address": ANY6}, True),
        ({"address": ANY6}, {"address": ANY6}, True), ({"address": ANY6}, ONE_ADDRESS, True),
        ({"address": ANY6}, {"address": A}, False), ({"address": ANY6, "both": True}, {"address": A}, True),
        ({"address": ANY6, "both": True}, ONE_ADDRESS, True), ({}, ONE_ADDRESS, False), ({}, {"address": A}, True),
        (ONE_ADDRESS, ONE_ADDRESS, True), (ONE_ADDRESS, {"address": LOOPBACK}, False), ({"address": A}, ONE_ADDRESS, False),
    ],
)  # fmt: skip
def test_who_may_listen_beside_whom(first, second, clash):
    for one, other in ((first, second), (second, first)):
        pair = Pair(version=V6)
        pair.a.tcp.listen(PORT, **one)
        if clash:
            with pytest.raises(UsageError):
                pair.a.tcp.listen(PORT, **other)
        else:
            pair.a.tcp.listen(PORT, **other)


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({}, [B]), ({"address": ANY6}, [B6]), ({"address": ANY6, "both": True}, [B, B6]), ({"address": B6}, [B6]),
        ({"both": True}, [B, B6]), ({"address": LOOPBACK}, []),
    ],
)  # fmt: skip
def test_what_a_listener_takes(options, taken):
    pair = Pair(version=V6)
    for host, number in ((pair.a, 1), (pair.b, 2)):
        host.interfaces["eth0"].add_address(IPv4Interface(f"10.0.0.{number}/24"))
    listener = pair.b.tcp.listen(PORT, **options)
    clients = {address: pair.a.tcp.connect(address, PORT) for address in (B, B6)}
    pair.run(SECOND)
    assert [address for address, client in clients.items() if client.is_established] == taken
    assert {listener.accept().local[0] for _ in taken} == set(taken) and listener.accept() is None


def test_a_router_that_names_another_mtu_is_heeded_by_open_connections(pair):
    client, _ = pair.connect()
    side = pair.a.interfaces["eth0"].ipv6
    side.configure_itself()
    pair.run(5 * SECOND)
    router = ipv6.link_local(ROUTER_MAC)
    for hop_limit, mtu, mss in ((9, 1400, 1328), (0, 1279, 1328), (0, 1300, 1228)):
        message = ndp.encode(ndp.RouterAdvertisement(hop_limit=hop_limit, lifetime=0, options=ndp.Options(mtu=mtu)))
        octets = message.encode(router, ALL_NODES)
        head = ipv6.build(router, ALL_NODES, 58, len(octets), hop_limit=255)
        pair.a.interfaces["eth0"].receive(multicast_mac(ALL_NODES) + ROUTER_MAC + b"\x86\xdd" + head + octets, NO_OFFLOAD)
        pair.wire.frames.clear()
        assert client.send(bytes(5000)) == 5000
        assert client.sender.mss == mss
        assert {frame[21] for _, frame, _ in pair.wire.frames} == {9}
        pair.run(SECOND)
