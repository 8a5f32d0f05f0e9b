"""Two hosts on a wire that may lose, repeat, delay and reorder, and programs that talk over TCP, in virtual time."""

from __future__ import annotations

from functools import partial
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface

from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.links.link import Link
from vnet.ports import NO_OFFLOAD, Port
from vnet.stack.host import Host
from vnet.stack.tcp import State, TcpConnection
from vnet.units import MILLISECOND, SECOND
from vnet.wire import ipv6, tcp
from vnet.wire.checksum import checksum
from vnet.wire.ipv4 import Ipv4
from vnet.wire.segmentation import complete
from vnet.wire.virtio_net import is_super

A, B = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
A6, B6 = IPv6Address("2001:db8::1").packed, IPv6Address("2001:db8::2").packed
PORT = 80


class OverIpv4:
    """What the beds need to know of an IP version: addresses of both hosts, and where things are in a frame."""

    a, b = A, B
    kind = b"\x08\x00"
    headers = 34
    """Octets before the TCP header."""

    def is_tcp(self, frame: bytes) -> bool:
        return frame[12:14] == self.kind and frame[23] == 6

    def source(self, frame: bytes) -> bytes:
        return frame[26:30]

    def ecn(self, frame: bytes) -> int:
        return frame[15] & 3

    def marked(self, frame: bytes) -> bytes:
        return marked(frame)

    def head(self, source: bytes, destination: bytes, octets: int, tos: int = 0) -> bytes:
        return Ipv4(source=source, destination=destination, protocol=6, tos=tos).encode(octets)

    def decode(self, frame: bytes, *, verify: bool = True) -> tcp.Tcp:
        return tcp.decode(frame[34:], frame[26:30], frame[30:34], verify=verify)

    def configure(self, host: Host, number: int) -> None:
        host.interfaces["eth0"].add_address(IPv4Interface(f"10.0.0.{number}/24"))

    def introduce(self, host: Host, address: bytes, mac: bytes) -> None:
        host.interfaces["eth0"].neighbors.lookup(address).heard(mac, confirmed=True)


class OverIpv6:
    """The same for IPv6; addresses are in use 2 s after the cable is in."""

    a, b = A6, B6
    kind = b"\x86\xdd"
    headers = 54

    def is_tcp(self, frame: bytes) -> bool:
        return frame[12:14] == self.kind and frame[20] == 6

    def source(self, frame: bytes) -> bytes:
        return frame[22:38]

    def ecn(self, frame: bytes) -> int:
        return frame[15] >> 4 & 3

    def marked(self, frame: bytes) -> bytes:
        return frame[:15] + bytes((frame[15] | 0x30,)) + frame[16:]

    def head(self, source: bytes, destination: bytes, octets: int, tos: int = 0) -> bytes:
        return ipv6.build(source, destination, 6, octets, traffic_class=tos)

    def decode(self, frame: bytes, *, verify: bool = True) -> tcp.Tcp:
        return tcp.decode(frame[54:], frame[22:38], frame[38:54], verify=verify)

    def configure(self, host: Host, number: int) -> None:
        host.interfaces["eth0"].enable_ipv6().add_address(IPv6Interface(f"2001:db8::{number}/64"))

    def introduce(self, host: Host, address: bytes, mac: bytes) -> None:
        entry = host.interfaces["eth0"].ipv6.neighbors.lookup(address)
        entry.spoke(mac)
        entry.advertised(mac, solicited=True, override=True, is_router=False)


V4, V6 = OverIpv4(), OverIpv6()
SETTLED = 3 * SECOND


class Wire:
    """What joins the two hosts. Frames are kept in ``frames`` as (instant, frame, offload) before anything happens to them.

    ``loss``, ``repeat`` and ``swap`` are ratios, ``delay`` and ``spread`` nanoseconds; ``cut`` makes plain frames of
    super-frames; ``filter(frame)`` returns False for what is to be lost, ``mark(frame)`` True for what is to be marked if
    its sender allows that (RFC 3168, 5).
    """

    def __init__(self, timeline: Timeline, random, version=V4, **faults) -> None:
        self.timeline = timeline
        self.version = version
        self.random = random
        self.filter = lambda frame: True
        self.mark = lambda frame: False
        self.frames: list[tuple[int, bytes, bytes]] = []
        self.fail(**faults)

    def fail(self, **faults) -> None:
        self.loss = faults.get("loss", 0.0)
        self.repeat = faults.get("repeat", 0.0)
        self.swap = faults.get("swap", 0.0)
        self.delay = faults.get("delay", 0)
        self.spread = faults.get("spread", 0)
        self.cut = faults.get("cut", False)

    @property
    def is_slow(self) -> bool:
        return bool(self.loss or self.delay or self.spread or self.swap)

    def join(self, a: Port, b: Port) -> None:
        a.plug(lambda frame, offload: self.send(b, frame, offload))
        b.plug(lambda frame, offload: self.send(a, frame, offload))

    def send(self, to: Port, frame: bytes, offload: bytes) -> None:
        self.frames.append((self.timeline.now, frame, offload))
        version = self.version
        if version.is_tcp(frame) and version.ecn(frame) and self.mark(frame):
            frame = version.marked(frame)
        if frame[12:14] != version.kind or not (self.loss or self.repeat or self.swap or self.spread or self.cut):
            if self.filter(frame):
                self.timeline.at(self.timeline.now + self.delay, to.receive, frame, offload)
            return
        whole = is_super(offload) and not self.cut
        for part in [frame] if whole else complete(frame, offload):
            if not self.filter(part) or self.random.random() < self.loss:
                continue
            for _ in range(2 if self.random.random() < self.repeat else 1):
                late = self.random.below(self.spread + 1)
                if self.random.random() < self.swap:
                    late += 3 * MILLISECOND
                self.timeline.at(self.timeline.now + self.delay + late, to.receive, part, offload if whole else NO_OFFLOAD)

    def segments(self, source: bytes | None = None) -> list[tcp.Tcp]:
        """Decode what was sent, all or by one of the hosts, and forget it; super-frames whole."""
        taken, self.frames = self.frames, []
        found = [frame for _, frame, _ in taken if self.version.is_tcp(frame)]
        return [self.version.decode(frame, verify=False) for frame in found if source in (None, self.version.source(frame))]


def marked(frame: bytes) -> bytes:
    """Set the ECN field of an IPv4 header to CE, as a congested router does, and see to its checksum."""
    head = frame[14:15] + bytes((frame[15] | 3,)) + frame[16:24] + bytes(2) + frame[26:34]
    return frame[:14] + head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + frame[34:]


class Pair:
    """Hosts ``a`` (10.0.0.1, or 2001:db8::1) and ``b`` (the same with 2)."""

    def __init__(self, seed: int = 1, mtu: int = 1500, mtu_b: int | None = None, version=V4, **faults) -> None:
        self.version = version
        self.timeline = Timeline()
        self.streams = RandomStreams(seed)
        self.wire = Wire(self.timeline, self.streams.stream("wire", "faults"), version)
        self.a, self.b = (self._host(name, number, size) for name, number, size in (("a", 1, mtu), ("b", 2, mtu_b or mtu)))
        self.wire.join(self.a.interfaces["eth0"].port, self.b.interfaces["eth0"].port)
        for one, other in ((self.a, self.b), (self.b, self.a)):
            address = version.a if other is self.a else version.b
            version.introduce(one, address, other.interfaces["eth0"].mac)
        if version is V6:
            self.run(SETTLED)
            self.wire.frames.clear()
        self.wire.fail(**faults)

    def _host(self, name: str, number: int, mtu: int) -> Host:
        host = Host(name, self.timeline, lambda purpose: self.streams.stream(name, purpose))
        host.add_interface("eth0", bytes((0x52, 0x54, 0, 0, 0, number)), mtu)
        self.version.configure(host, number)
        return host

    def run(self, duration: int = SECOND) -> None:
        end = self.timeline.now + duration
        self.timeline.run_until(end)
        self.timeline.now = end

    def replace_wire(self, **options) -> Link:
        """Have a link between the two instead."""
        one, other = (host.interfaces["eth0"].port for host in (self.a, self.b))
        for port in (one, other):
            port.unplug()
        return Link(self.timeline, one, other, partial(self.streams.stream, "l"), **options)

    def connect(self, **options) -> tuple[TcpConnection, TcpConnection]:
        """Connect from ``a`` to ``b``; return both ends, established."""
        listener = self.b.tcp.listen(PORT, both=True)
        client = self.a.tcp.connect(self.version.b, PORT, **options)
        server = None
        for _ in range(2000):
            server = server or listener.accept()
            if server is not None and client.is_established:
                break
            self.run(100 * MILLISECOND if self.wire.is_slow else 0)
        assert server is not None
        listener.close()
        return client, server


class Program:
    """Sends all of *data* in pieces of random sizes, shuts down, and takes what comes in pieces of random sizes."""

    def __init__(self, connection: TcpConnection, data: bytes, random, largest: int = 100_000, pause: int = 0) -> None:
        self.connection = connection
        self.left = memoryview(data)
        self.random = random
        self.largest = largest
        self.pause = pause
        self.received = bytearray()
        self.done_sending = False
        self.waiting = False
        connection.on_change = self.work
        self.work()

    def work(self) -> None:
        connection = self.connection
        while self.left and connection.room:
            size = 1 + self.random.below(self.largest)
            taken = connection.send(bytes(self.left[:size]))
            assert taken == min(size, len(self.left)) or connection.room == 0
            self.left = self.left[taken:]
        if not self.left and not self.done_sending:
            self.done_sending = True
            connection.shutdown()
        if self.pause:
            if not self.waiting:
                self.waiting = True
                connection.host.scheduler.at(connection.host.scheduler.now + self.random.below(self.pause), self.take)
        else:
            self.take()

    def take(self) -> None:
        self.waiting = False
        while self.connection.available:
            size = 1 + self.random.below(self.largest)
            piece = self.connection.receive(size)
            assert 0 < len(piece) <= size
            self.received += piece
        if self.connection.at_end and self.done_sending:
            self.connection.close()


def sizes(segments):
    return [len(segment.payload) for segment in segments]


def watch(connection):
    told = []
    connection.on_change = lambda: told.append(connection.state)
    return told


def assert_clean(pair: Pair, *connections: TcpConnection) -> None:
    """Both ends are closed, and nothing of them is left."""
    assert [(c.state, c.error) for c in connections] == [(State.CLOSED, None)] * len(connections)
    for host in (pair.a, pair.b):
        assert len(host.tcp) == 0
        assert host.tcp._waiting == {}


class Scripted:
    """One host, ``a``, and a peer at 10.0.0.2, or 2001:db8::2, whose every segment the test writes."""

    def __init__(self, mtu: int = 1500, version=V4) -> None:
        self.version = version
        self.timeline = Timeline()
        streams = RandomStreams(1)
        self.a = Host("a", self.timeline, lambda purpose: streams.stream("a", purpose))
        self.interface = self.a.add_interface("eth0", bytes((0x52, 0x54, 0, 0, 0, 1)), mtu)
        version.configure(self.a, 1)
        self.mac = bytes((0x52, 0x54, 0, 0, 0, 2))
        self.frames: list[bytes] = []
        self.interface.port.plug(lambda frame, offload: self.frames.extend(complete(frame, offload)))
        if version is V6:
            self.run(SETTLED)
        version.introduce(self.a, version.b, self.mac)
        self.sequence = 1000
        self.acknowledgment = 0
        self.ports = 5000, PORT

    def run(self, duration: int) -> None:
        end = self.timeline.now + duration
        self.timeline.run_until(end)
        self.timeline.now = end

    def take(self) -> list[tcp.Tcp]:
        """Return the segments that the host sent since the last call, each checked."""
        taken, self.frames = self.frames, []
        return [self.version.decode(frame) for frame in taken if self.version.is_tcp(frame)]

    def send(self, flags: int, payload: bytes = b"", *, ahead: int = 0, tos: int = 0, **fields) -> list[tcp.Tcp]:
        """Send a segment *ahead* octets from the peer's sequence number; return what the host answers at once."""
        source_port, destination_port = self.ports
        segment = tcp.Tcp(**{
            "source_port": source_port, "destination_port": destination_port,
            "sequence": (self.sequence + ahead) % 2**32, "acknowledgment": self.acknowledgment, "flags": flags,
            "window": 65535, "payload": payload, **fields,
        })  # fmt: skip
        self.take()
        self.receive(segment.encode(self.version.b, self.version.a), tos=tos)
        self.timeline.run_until(self.timeline.now)
        return self.take()

    def receive(self, octets: bytes, offload: bytes = NO_OFFLOAD, *, tos: int = 0) -> None:
        """Hand these octets to the host as a segment of the peer's."""
        head = self.version.head(self.version.b, self.version.a, len(octets), tos)
        self.interface.port.receive(self.interface.mac + self.mac + self.version.kind + head + octets, offload)

    def accept(self, options: bytes = b"", **listen) -> TcpConnection:
        """Let the peer connect to the host; both numbers then stand behind the SYNs."""
        listener = self.a.tcp.listen(PORT, both=True, **listen)
        (answer,) = self.send(tcp.SYN, options=options)
        assert answer.flags == tcp.SYN | tcp.ACK
        assert answer.acknowledgment == self.sequence + 1
        self.sequence += 1
        self.acknowledgment = (answer.sequence + 1) % 2**32
        self.answer = answer
        assert self.send(tcp.ACK, options=self.stamps) == []
        connection = listener.accept()
        assert connection is not None
        assert connection.state is State.ESTABLISHED
        listener.close()
        return connection

    stamps = b""
