"""TCP of an emulated host and Linux for long and for many: a gigabyte, a thousand connections, peers that vanish."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import pytest
import trio

from tests.interop.live_labs import PAIR, guest, live, needs, program, run, until
from vnet.runtime.sinks import FileSink
from vnet.stack.tcp import State, TcpConnection
from vnet.units import MILLISECOND

pytestmark = [*needs("tshark"), pytest.mark.trio]

OURS, LINUX = "10.77.0.1", "10.77.0.2"
LINUX_PACKED = bytes((10, 77, 0, 2))

PERIOD = bytes(range(251)) * 4178
"""A mebibyte, but for 94 octets: no segment, super-frame or buffer is as long, so that what is lost or twice there shows."""
GIGABYTE = 1_000_000_000
ROUNDS = GIGABYTE // len(PERIOD) + 1
SIZE = ROUNDS * len(PERIOD)
GIGABYTE_OF_LINUX = f"""
import socket, zlib
period = bytes(range(251)) * 4178
def send(s):
    for _ in range({ROUNDS}):
        s.sendall(period)
    s.shutdown(socket.SHUT_WR)
def receive(s):
    count = digest = 0
    buffer = memoryview(bytearray(1 << 20))
    while octets := s.recv_into(buffer):
        count += octets
        digest = zlib.crc32(buffer[:octets], digest)
    print("got", count, digest, flush=True)
"""
LINUX_LISTENS = f"""
server = socket.create_server(("{LINUX}", 7070))
print("listening", flush=True)
s = server.accept()[0]
"""
LINUX_CONNECTS = f'\ns = socket.create_connection(("{OURS}", 9090), 10)\ns.settimeout(20)\n'


def expected_digest() -> int:
    digest = 0
    for _ in range(ROUNDS):
        digest = zlib.crc32(PERIOD, digest)
    return digest


class Gigabyte:
    """Sends or receives SIZE octets, and then does the other."""

    def __init__(self, connection: TcpConnection, *, first: str) -> None:
        self.connection = connection
        self.is_sending = first == "send"
        self.sent = self.received = self.digest = 0
        self.done = trio.Event()
        connection.on_change = self.work
        self.work()

    def work(self) -> None:
        connection = self.connection
        while self.is_sending and self.sent < SIZE and connection.room:
            at = self.sent % len(PERIOD)
            self.sent += connection.send(PERIOD[at : at + min(connection.room, 1 << 18)])
        if self.sent == SIZE:
            connection.shutdown()
        while data := connection.receive(1 << 20):
            self.received += len(data)
            self.digest = zlib.crc32(data, self.digest)
        if connection.at_end and not self.is_sending:
            self.is_sending = True
            self.work()
        elif (connection.at_end and self.sent == SIZE) or connection.state is State.CLOSED:
            self.done.set()


async def test_a_gigabyte_each_way_from_our_server_and_client() -> None:
    expected = expected_digest()
    async with live(PAIR) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        listener = host.tcp.listen(9090)
        taken: list[Gigabyte] = []
        listener.on_ready = lambda: taken.extend(Gigabyte(each, first="receive") for each in iter(listener.accept, None))
        code = GIGABYTE_OF_LINUX + LINUX_CONNECTS + "send(s)\nreceive(s)\n"
        assert await run(linux, sys.executable, "-c", code) == f"got {SIZE} {expected}\n"
        (served,) = taken
        await served.done.wait()
        assert (served.received, served.digest, served.connection.error) == (SIZE, expected, None)

        code = GIGABYTE_OF_LINUX + LINUX_LISTENS + "receive(s)\nsend(s)\n"
        async with program(linux, sys.executable, "-c", code, ready="listening") as server:
            client = Gigabyte(host.tcp.connect(LINUX_PACKED, 7070), first="send")
            await client.done.wait()
            await server.says(f"got {SIZE} {expected}")
        assert (client.received, client.digest, client.connection.error) == (SIZE, expected, None)
        assert host.drops == {}


# A thousand at once

COUNT = 1000
RAISE_LIMIT = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
"""
MANY_CLIENTS = f"""{RAISE_LIMIT}
import asyncio
async def one(number, all_are_open, opened):
    reader, writer = await asyncio.open_connection("{OURS}", 9090)
    opened.append(number)
    if len(opened) == {COUNT}:
        print("all are open", flush=True)
        all_are_open.set()
    await all_are_open.wait()
    text = b"%d " % number * 500
    writer.write(text)
    writer.write_eof()
    assert await reader.read() == text.upper(), number
    writer.close()
    await writer.wait_closed()
async def main():
    opened = []
    event = asyncio.Event()
    await asyncio.gather(*(one(number, event, opened) for number in range({COUNT})))
    print("done", len(opened), flush=True)
asyncio.run(main())
"""
MANY_SERVED = f"""{RAISE_LIMIT}
import asyncio
async def serve(reader, writer):
    data = await reader.read()
    writer.write(data.upper())
    await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "{LINUX}", 7070, backlog={COUNT})
    print("listening", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


class Echo:
    """Answers what comes in capitals, up to the end of the stream."""

    def __init__(self, connection: TcpConnection) -> None:
        self.connection = connection
        connection.on_change = self.work
        self.work()

    def work(self) -> None:
        if data := self.connection.receive(1 << 20):
            assert self.connection.send(data.upper()) == len(data)
        if self.connection.at_end:
            self.connection.close()


async def test_a_thousand_connections_of_a_linux_program_at_once() -> None:
    async with live(PAIR) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        listener = host.tcp.listen(9090, backlog=COUNT)
        echoes: list[Echo] = []
        listener.on_ready = lambda: echoes.extend(Echo(each) for each in iter(listener.accept, None))
        async with program(linux, sys.executable, "-c", MANY_CLIENTS) as clients:
            await clients.says("all are open")
            assert len(host.tcp.connections) == COUNT
            await clients.says(f"done {COUNT}")
            assert await clients.ends() == 0
        await until(lambda: not host.tcp.connections, "all have closed, and the peer waits in TIME-WAIT")
        assert len(echoes) == COUNT and {echo.connection.error for echo in echoes} == {None}
        # where the machine is busy for 200 ms FINs go out twice, and the second acknowledgment belongs to nobody any more
        assert set(host.drops) <= {"tcp-port"}


async def test_a_thousand_connections_to_a_linux_program_at_once() -> None:
    async with live(PAIR) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        async with program(linux, sys.executable, "-c", MANY_SERVED, ready="listening"):
            assert (await lab.guests["emulated"].ping(LINUX)).ok  # only a few SYNs would wait for the first answer of ARP
            connections = [host.tcp.connect(LINUX_PACKED, 7070) for _ in range(COUNT)]
            await until(lambda: all(each.is_established for each in connections), "all are established")
            for number, each in enumerate(connections):
                each.send(b"x%d " % number * 500)
                each.shutdown()
            await until(lambda: all(each.receiver.ended for each in connections), "all were answered")
            for number, each in enumerate(connections):
                assert each.receive(1 << 20) == b"X%d " % number * 500
        assert host.drops == {}


# Peers that are silent, and peers that vanish

KEPT_ALIVE = f"""
import socket
s = socket.create_connection(("{OURS}", 9090), 10)
s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
s.settimeout(20)
print("connected", flush=True)
try:
    print("got", s.recv(10), flush=True)
    s.recv(10)
except TimeoutError as error:
    print(type(error).__name__, error.errno, flush=True)
"""


async def after_the_handshake(file: Path) -> list[tuple[str, str]]:
    """Name the sources of the segments behind the first three, and whether Wireshark takes them for a keep-alive."""
    fields = ["-e", "ip.src", "-e", "tcp.analysis.keep_alive"]
    command = ["tshark", "-n", "-r", str(file), "-Y", "tcp", "-T", "fields", *fields]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    return [(source, "asks" if asks else "answers") for source, asks in rows[3:]]


async def test_linux_asks_whether_we_are_there_and_finds_that_we_vanished(tmp_path: Path) -> None:
    async with live(PAIR) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        listener = host.tcp.listen(9090)
        capture = lab.captures.start(FileSink(tmp_path / "c.pcapng"), ["emulated"])
        async with program(linux, sys.executable, "-c", KEPT_ALIVE, ready="connected") as client:
            connection = listener.accept()
            assert connection is not None
            before = connection.heard_at
            await until(lambda: connection.heard_at > before, "it asked")
            capture.finish()
            connection.send(b"here")
            await client.says("got b'here'")
            lab.faults.crash("emulated")
            await client.says("TimeoutError 110")
    assert (await after_the_handshake(tmp_path / "c.pcapng"))[:2] == [(LINUX, "asks"), (OURS, "answers")]


SILENT = f"""
import socket
server = socket.create_server(("{LINUX}", 7070))
print("listening", flush=True)
s = server.accept()[0]
s.recv(10)
"""


async def test_we_ask_whether_linux_is_there_and_find_that_it_vanished(tmp_path: Path) -> None:
    async with live(PAIR) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        async with program(linux, sys.executable, "-c", SILENT, ready="listening"):
            capture = lab.captures.start(FileSink(tmp_path / "c.pcapng"), ["emulated"])
            connection = host.tcp.connect(LINUX_PACKED, 7070)
            connection.keep_alive = 200 * MILLISECOND
            await until(lambda: connection.is_established, "it is established")
            before = connection.heard_at
            await until(lambda: connection.heard_at > before + 600 * MILLISECOND, "two answers came")
            capture.finish()
            lab.faults.isolate("linux")
            await until(lambda: connection.state is State.CLOSED, "nine probes found no answer")
            assert connection.error == "timed out"
    seen = await after_the_handshake(tmp_path / "c.pcapng")
    assert seen[:2] == [(OURS, "asks"), (LINUX, "answers")]
    assert seen.count((LINUX, "answers")) >= 2, "not each: Linux answers such segments once in 500 ms"
    assert set(seen) == {(OURS, "asks"), (LINUX, "answers")}


# A way that lets large packets vanish

BLACK_HOLE = """
name: NAME
networks:
  n: {vlan: 10, subnet: 10.77.0.0/24}
switches: {core: {mtu: 9000}, old: {mtu: 1500}, edge: {mtu: 9000}}
links: [{between: [core, old], trunk: all}, {between: [old, edge], trunk: all}]
guests:
  emulated: {switch: edge, nics: [{network: n, address: 10.77.0.1/24, mtu: 4000}]}
  linux: {switch: core, kind: namespace, nics: [{network: n, address: 10.77.0.2/24, mtu: 4000}]}
"""
DEEP = 300_000
SENDS_INTO_THE_HOLE = f"""
import socket
s = socket.create_connection(("{OURS}", 9090), 10)
s.settimeout(30)
print("MSS", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG), flush=True)
s.sendall(bytes({DEEP}))
s.shutdown(socket.SHUT_WR)
assert s.recv(1) == b""
print("MSS", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG), flush=True)
"""
COUNTS = f"""
import socket
server = socket.create_server(("{LINUX}", 7070))
print("listening", flush=True)
s = server.accept()[0]
count = 0
while piece := s.recv(1 << 20):
    count += len(piece)
print("got", count, flush=True)
"""


async def test_linux_sends_into_a_black_hole_and_finds_a_size_that_passes() -> None:
    async with live(BLACK_HOLE) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        await run(linux, "sysctl", "-q", "-w", "net.ipv4.tcp_mtu_probing=1", "net.ipv4.tcp_base_mss=1024")
        listener = host.tcp.listen(9090)
        received = 0

        def take(connection: TcpConnection) -> None:
            nonlocal received
            received += len(connection.receive(1 << 20))
            if connection.at_end:
                connection.close()

        def accept() -> None:
            connection = listener.accept()
            assert connection is not None
            connection.on_change = lambda: take(connection)
            take(connection)

        listener.on_ready = accept
        said = (await run(linux, sys.executable, "-c", SENDS_INTO_THE_HOLE)).split()
        assert int(said[1]) > 1500 > int(said[3]) and received == DEEP


async def test_we_send_into_a_black_hole_and_find_a_size_that_passes() -> None:
    async with live(BLACK_HOLE) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        async with program(linux, sys.executable, "-c", COUNTS, ready="listening") as server:
            connection = host.tcp.connect(LINUX_PACKED, 7070)
            await until(lambda: connection.is_established, "it is established")
            assert connection.sender.mss == 3948
            assert connection.send(bytes(DEEP)) == DEEP
            connection.shutdown()
            await server.says(f"got {DEEP}")
            assert connection.sender.mss < 1448 and connection.error is None


# A way whose router says how large packets may be

ROUTED = """
name: NAME
networks:
  one: {subnet: 10.77.0.0/24}
  other: {subnet: 10.78.0.0/24}
routers:
  narrow:
    interfaces: {one: {address: 10.77.0.254/24, mtu: 1200}, other: {address: 10.78.0.254/24, mtu: 1200}}
guests:
  emulated: {nics: [{network: one, address: 10.77.0.1/24, gateway: 10.77.0.254}]}
  linux: {kind: namespace, nics: [{network: other, address: 10.78.0.2/24, gateway: 10.78.0.254}]}
"""
BOTH_WAYS_BY_THE_ROUTER = f"""
import socket, threading
server = socket.create_server(("10.78.0.2", 7070))
print("listening", flush=True)
s = server.accept()[0]
s.settimeout(20)
sender = threading.Thread(target=lambda: (s.sendall(bytes({DEEP})), s.shutdown(socket.SHUT_WR)))
sender.start()
count = 0
while piece := s.recv(1 << 20):
    count += len(piece)
sender.join()
print("got", count, "MSS", s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG), flush=True)
"""


async def test_both_learn_the_path_mtu_from_a_router() -> None:
    async with live(ROUTED) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        async with program(linux, sys.executable, "-c", BOTH_WAYS_BY_THE_ROUTER, ready="listening") as server:
            connection = host.tcp.connect(bytes((10, 78, 0, 2)), 7070)
            await until(lambda: connection.is_established, "it is established")
            assert connection.sender.mss == 1448, "nobody knows yet"
            assert connection.send(bytes(DEEP)) == DEEP
            connection.shutdown()
            await until(lambda: connection.receiver.ended, "all that Linux sent came")
            assert len(connection.receive(DEEP + 1)) == DEEP
            await server.says(f"got {DEEP} MSS 1148")
            assert connection.sender.mss == 1148 and connection.error is None
