"""gvproxy's protocols, spoken by their clients; and clients that do not read, or speak nonsense."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from struct import pack, unpack

import pytest

from tests.unit.adapters.bench import Bench, frame, is_cut_off
from vnet.adapters.framings import COMMAND, ETHERNET, HELLO, LARGEST_FRAME, MAGIC, PREFERRED_IPV4, RESPONSE
from vnet.adapters.gvproxy import GREETING_TIME, GvproxyConnections, GvproxyDatagrams
from vnet.adapters.registry import open_adapter
from vnet.adapters.sockets import QUEUE_OCTETS
from vnet.errors import HostError
from vnet.ports import NO_OFFLOAD
from vnet.topology.adapter_kinds.gvproxy import GvproxyProtocol, GvproxySpec
from vnet.topology.adapter_kinds.sockets import SocketPlace
from vnet.units import MILLISECOND
from vnet.wire.virtio_net import tcp_super

UUID = b"01234567-89ab-cdef-0123-456789abcdef"
KINDS = {
    "hyperkit": socket.SOCK_STREAM,
    "stdio": socket.SOCK_STREAM,
    "bess": socket.SOCK_SEQPACKET,
    "vfkit": socket.SOCK_DGRAM,
}
CONNECTED: tuple[GvproxyProtocol, ...] = ("hyperkit", "stdio", "bess")
EVERY: tuple[GvproxyProtocol, ...] = (*CONNECTED, "vfkit")


class Client:
    """A VM program at its socket."""

    def __init__(self, protocol: GvproxyProtocol, directory: str, name: str = "client") -> None:
        self.protocol = protocol
        self.path = f"{directory}/{name}"
        self.socket = socket.socket(socket.AF_UNIX, KINDS[protocol])
        self.socket.setblocking(False)
        if protocol == "vfkit":
            self.socket.bind(self.path)
        self.socket.connect(f"{directory}/g")
        self.rest = b""

    def send(self, *frames: bytes) -> None:
        if self.socket.type == socket.SOCK_STREAM:
            self.socket.send(b"".join(pack("<H", len(each)) + each for each in frames))
        else:
            for each in frames:
                self.socket.send(each)

    def read(self) -> bytes:
        """Read what has come; empty for nothing, None would be the end."""
        try:
            return self.socket.recv(1 << 20)
        except BlockingIOError:
            return b""

    def received(self) -> list[bytes]:
        frames = []
        while data := self.read():
            if self.socket.type != socket.SOCK_STREAM:
                frames.append(data)
                continue
            self.rest += data
            while len(self.rest) >= 2 and len(self.rest) >= 2 + unpack("<H", self.rest[:2])[0]:
                end = 2 + unpack("<H", self.rest[:2])[0]
                frames.append(self.rest[2:end])
                self.rest = self.rest[end:]
        return frames

    def is_cut_off(self) -> bool:
        return is_cut_off(self.socket)

    def close(self) -> None:
        self.socket.close()
        if self.protocol == "vfkit" and os.path.exists(self.path):
            os.unlink(self.path)


class Rig:
    def __init__(self, protocol: GvproxyProtocol, directory: str) -> None:
        self.protocol = protocol
        self.directory = directory
        self.bench = Bench(directory)
        adapter = open_adapter(GvproxySpec(protocol=protocol, place=SocketPlace(path="g")), self.bench.context)
        assert isinstance(adapter, GvproxyConnections | GvproxyDatagrams)
        self.adapter = adapter
        self.adapter.start()
        self.clients: list[Client] = []

    def connect(self, name: str = "client") -> Client:
        made = Client(self.protocol, self.directory, name)
        self.clients.append(made)
        self.bench.turn()
        return made

    def connected(self, name: str = "client") -> Client:
        """Connect a client, and go through its greeting."""
        made = self.connect(name)
        if self.protocol == "hyperkit":
            made.socket.send(HELLO.pack(MAGIC, 22, b"c" * 40) + COMMAND.pack(ETHERNET, UUID, 0))
            self.bench.turn()
            assert len(made.read()) == 49 + 258
        elif self.protocol == "vfkit":
            made.send(b"VFKT")
            self.bench.turn()
        assert self.adapter.is_connected
        return made

    def close(self) -> None:
        for each in self.clients:
            each.close()
        self.adapter.stop()
        self.adapter.stop()
        self.adapter.close()
        assert not self.bench.readers
        assert not os.path.exists(f"{self.directory}/g")


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="gv") as directory:
        made = Rig(request.param, directory)
        yield made
        made.close()


def for_all(*protocols: GvproxyProtocol) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rig", protocols, indirect=True)


@for_all(*EVERY)
def test_frames_pass_both_ways(rig: Rig) -> None:
    client = rig.connected()
    sizes = (14, 60, 1514, LARGEST_FRAME)
    for octets in sizes:
        client.send(frame(octets, octets) if octets >= 18 else bytes(14))
        rig.bench.turn()
        rig.bench.send(frame(octets, octets) if octets >= 18 else bytes(14))
        rig.bench.turn()
    assert [len(each) for each in rig.bench.arrived] == list(sizes)
    assert client.received() == rig.bench.arrived
    assert rig.adapter.problem == ""
    assert rig.adapter.details()["protocol"] == rig.protocol
    assert not rig.adapter.drops


@for_all(*EVERY)
def test_nobody_is_there(rig: Rig) -> None:
    rig.bench.send(frame(1))
    assert rig.adapter.drops == {"not-connected": 1}
    assert rig.adapter.problem == f"nobody has connected to {rig.directory}/g"


@for_all(*EVERY)
def test_super_frames_are_cut_up(rig: Rig) -> None:
    client = rig.connected()
    ip = bytes.fromhex("45000fd8000040004006000a0a0000010a000002")
    big = frame(1)[:12] + b"\x08\0" + ip + bytes(12) + b"\x50\x10" + bytes(6) + bytes(4000)
    rig.bench.send(big, tcp_super(54, 1448))
    rig.bench.send(frame(1), b"\1" + bytes(5) + b"\xff\xff\0\0")
    rig.bench.turn()
    assert [len(each) for each in client.received()] == [1502, 1502, 54 + 4000 - 2 * 1448]
    assert rig.adapter.drops == {"malformed": 1}


@for_all(*EVERY)
def test_who_does_not_read_holds_nobody_up(rig: Rig) -> None:
    """Frames wait in a bounded queue, then they are dropped; what comes through afterwards are whole frames, in order."""
    client = rig.connected()
    for number in range(4000):
        rig.bench.send(frame(number, 1500))
        rig.bench.turn(1)
    details = rig.adapter.details()
    assert isinstance(details["queued_octets"], int)
    assert QUEUE_OCTETS - 1600 < details["queued_octets"] <= QUEUE_OCTETS
    assert rig.adapter.drops["queue-full"] > 2000
    numbers = []
    for _ in range(200):
        rig.bench.pass_time(2 * MILLISECOND)
        numbers += [int.from_bytes(each[14:18], "big") for each in client.received()]
    assert numbers == list(range(4000 - rig.adapter.drops["queue-full"]))
    assert rig.adapter.details()["queued_octets"] == 0
    rig.bench.send(frame(7))
    rig.bench.turn()
    assert client.received() == [frame(7)]
    assert not rig.bench.writers


@for_all("stdio", "hyperkit")
def test_a_stream_cut_anywhere(rig: Rig) -> None:
    client = rig.connected()
    data = b"".join(pack("<H", octets) + frame(octets, octets) for octets in (60, 61, 300))
    for at in range(1, len(data)):
        client.socket.send(data[:at])
        rig.bench.turn(1)
        client.socket.send(data[at:])
        rig.bench.turn(1)
        assert [len(each) for each in rig.bench.arrived] == [60, 61, 300]
        rig.bench.arrived.clear()


@for_all("stdio", "hyperkit")
def test_a_length_above_the_cap_ends_the_connection(rig: Rig) -> None:
    client = rig.connected()
    client.send(frame(1))
    client.socket.send(pack("<H", LARGEST_FRAME + 1))
    rig.bench.turn()
    assert rig.bench.arrived == []  # they came in one piece
    assert client.is_cut_off()
    assert rig.adapter.drops == {"bad-message": 1}
    client.close()
    rig.connected("other")


@for_all(*EVERY)
def test_what_is_no_frame_is_dropped(rig: Rig) -> None:
    client = rig.connected()
    client.send(bytes(13), frame(1))
    if rig.protocol in ("bess", "vfkit"):
        client.send(bytes(LARGEST_FRAME + 1), bytes(60_000))
    rig.bench.turn()
    assert rig.bench.arrived == [frame(1)]
    assert rig.adapter.drops == {"malformed": 1 if rig.protocol in ("stdio", "hyperkit") else 3}


@for_all(*CONNECTED)
def test_one_at_a_time_again_and_again(rig: Rig) -> None:
    for number in range(20):
        before = len(os.listdir("/proc/self/fd"))
        client = rig.connected()
        other = rig.connect()
        assert other.is_cut_off()
        client.send(frame(number))
        rig.bench.send(frame(number))  # which nobody reads any more
        rig.bench.turn()
        client.close()
        other.close()
        rig.bench.turn()
        rig.bench.send(frame(number))
        assert not rig.adapter.is_connected
        assert len(os.listdir("/proc/self/fd")) == before
    assert len(rig.bench.arrived) == 20
    assert rig.adapter.drops == {"turned-away": 20, "not-connected": 20}
    assert len(rig.bench.readers) == 1


@for_all("vfkit")
def test_vfkits_come_and_go(rig: Rig) -> None:
    first = rig.connect("first")
    first.send(frame(1))  # new ones say no hello
    rig.bench.turn()
    second = rig.connect("second")
    second.send(frame(2))
    rig.bench.turn()
    assert rig.adapter.drops == {"turned-away": 1}
    second.send(b"VFKT", frame(3))
    rig.bench.turn()
    first.send(frame(4))
    rig.bench.send(frame(5))
    rig.bench.turn()
    assert rig.bench.arrived == [frame(1), frame(3)]
    assert first.received() == []
    assert second.received() == [frame(5)]
    second.close()
    rig.bench.send(frame(6))
    rig.bench.turn()
    assert not rig.adapter.is_connected
    first.send(frame(7))
    rig.bench.turn()
    assert rig.bench.arrived[-1] == frame(7)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody:
        nobody.sendto(frame(8), f"{rig.directory}/g")
    rig.bench.turn()
    assert rig.adapter.drops == {"turned-away": 2, "no-address": 1}


@for_all("hyperkit")
@pytest.mark.parametrize("wanted", [ETHERNET, PREFERRED_IPV4])
def test_hyperkits_greeting_cut_anywhere(rig: Rig, wanted: int) -> None:
    hello = HELLO.pack(MAGIC, 22, b"0123456789" * 4)
    words = hello + COMMAND.pack(wanted, UUID, 7) + pack("<H", 60) + frame(1)
    answers = set()
    for at in range(1, len(words)):
        client = rig.connect()
        client.socket.send(words[:at])
        rig.bench.turn(2)
        client.socket.send(words[at:])
        rig.bench.turn(2)
        said = client.read()
        assert said[:49] == hello
        answers.add(said[49:])
        client.close()
        rig.bench.turn()
    (answer,) = answers
    assert len(answer) == 258
    kind, mtu, largest, mac = RESPONSE.unpack(answer)
    assert (kind, mtu, largest) == (1, 1500, 1514)
    assert mac[0] & 3 == 2, "locally administered, of one NIC"
    assert rig.bench.arrived == [frame(1)] * (len(words) - 1)


@for_all("hyperkit")
@pytest.mark.parametrize(
    "words",
    [
        b"V" + b"X", b"GET / HTTP/1.1\r\n", bytes(49), HELLO.pack(MAGIC, 22, b"") + COMMAND.pack(2, UUID, 0),
        pack("<H", 60) + bytes(60),
    ],
)  # fmt: skip
def test_a_greeting_that_is_none(rig: Rig, words: bytes) -> None:
    client = rig.connect()
    client.socket.send(words)
    rig.bench.turn()
    client.read()
    assert client.is_cut_off()
    assert rig.adapter.drops == {"bad-message": 1}
    rig.connected("other")


@for_all("hyperkit")
def test_a_greeting_that_takes_too_long(rig: Rig) -> None:
    client = rig.connect()
    client.socket.send(MAGIC)
    rig.bench.turn()
    rig.bench.send(frame(1), NO_OFFLOAD)
    assert rig.adapter.drops == {"not-connected": 1}
    rig.bench.pass_time(GREETING_TIME)
    assert client.is_cut_off()
    patient = rig.connected("other")
    rig.bench.pass_time(2 * GREETING_TIME)
    assert not patient.is_cut_off()


@for_all(*EVERY)
def test_a_socket_that_somebody_has_is_an_error(rig: Rig) -> None:
    with pytest.raises(HostError, match="cannot make a socket"):
        open_adapter(GvproxySpec(protocol=rig.protocol, place=SocketPlace(path="g")), Bench(rig.directory).context)
