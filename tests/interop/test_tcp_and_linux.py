"""The TCP of an emulated host against that of Linux: both ways, both roles, over a TAP device in a namespace."""

from __future__ import annotations

import hashlib
import sys

import pytest
import trio

from tests.interop.linux_programs import ENDS, TALK
from tests.interop.live_labs import PAIR, guest, live, needs, program, run, until
from vnet.stack.tcp import State, TcpConnection

pytestmark = [*needs(), pytest.mark.trio]

LOSSY = """
name: NAME
networks:
  n: {vlan: 10, subnet: 10.77.0.0/24}
switches: {core: {}, edge: {}}
links: [{between: [core, edge], trunk: all, latency: 2ms, loss: 2%}]
guests:
  emulated: {switch: edge, nics: [{network: n, address: 10.77.0.1/24}]}
  linux: {switch: core, kind: namespace, nics: [{network: n, address: 10.77.0.2/24}]}
"""
LINUX = bytes((10, 77, 0, 2))
MEGABYTES = 8
SIZE = MEGABYTES << 20

DATA = f"(bytes(range(251)) * ({SIZE} // 251 + 1))[:{SIZE}]"
SERVE = f"""{TALK}
server = socket.create_server(("10.77.0.2", 8080))
print("listening", flush=True)
talk(server.accept()[0], {DATA})
"""
CONNECT = f"""{TALK}
s = socket.create_connection(("10.77.0.1", 9090), 10)
s.settimeout(20)
talk(s, {DATA})
"""


class Peer:
    """Sends *size* octets and digests what comes."""

    def __init__(self, connection: TcpConnection, size: int = SIZE) -> None:
        self.connection = connection
        self.size = size
        self.data = bytes(range(251)) * (size // 251 + 1)
        self.sent = 0
        self.received = 0
        self.digest = hashlib.sha256()
        self.done = trio.Event()
        connection.on_change = self.work
        self.work()

    def work(self) -> None:
        connection = self.connection
        while self.sent < self.size and connection.room:
            self.sent += connection.send(self.data[self.sent : min(self.size, self.sent + 65536)])
        if self.sent == self.size:
            connection.shutdown()
        while connection.available:
            piece = connection.receive(1 << 20)
            self.received += len(piece)
            self.digest.update(piece)
        if connection.at_end or connection.state is State.CLOSED:
            self.done.set()


EXPECTED = hashlib.sha256((bytes(range(251)) * (SIZE // 251 + 1))[:SIZE]).hexdigest()


async def changed(connection: TcpConnection, until) -> None:
    """Wait until something is true of a connection."""
    event = trio.Event()
    connection.on_change = lambda: event.set() if until() else None
    if not until():
        await event.wait()
    connection.on_change = None


async def test_bulk_data_both_ways_in_both_roles():
    async with live(PAIR) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        async with program(linux, sys.executable, "-c", SERVE, ready="listening") as server:
            peer = Peer(host.tcp.connect(LINUX, 8080))
            await peer.done.wait()
            assert await server.ends() == 0
            await server.says(f"{SIZE} {EXPECTED}")
        assert (peer.received, peer.digest.hexdigest()) == (SIZE, EXPECTED)
        sender = peer.connection.sender
        assert sender.sack and sender.scale and peer.connection.stamps and sender.mss == 1448
        assert peer.connection.error is None

        listener = host.tcp.listen(9090)
        taken = []
        listener.on_ready = lambda: taken.append(Peer(listener.accept()))
        said = await run(linux, sys.executable, "-c", CONNECT)
        (peer,) = taken
        await peer.done.wait()
        assert said.split() == [str(SIZE), EXPECTED]
        assert (peer.received, peer.digest.hexdigest(), peer.connection.error) == (SIZE, EXPECTED, None)
        assert host.drops == {}


async def test_bulk_data_over_a_lossy_trunk():
    async with live(LOSSY) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        async with program(linux, sys.executable, "-c", SERVE, ready="listening") as server:
            connection = host.tcp.connect(LINUX, 8080)
            peer = Peer(connection)
            await peer.done.wait()
            assert await server.ends() == 0
            await server.says(f"{SIZE} {EXPECTED}")
        assert (peer.received, peer.digest.hexdigest(), connection.error) == (SIZE, EXPECTED, None)
        link = lab.links["core", "edge"]
        assert min(link.forward.dropped_loss, link.backward.dropped_loss) > 20
        assert connection.sender.sack and connection.sender.rto.smoothed > 4_000_000


BAD_LINE = LOSSY.replace(
    "latency: 2ms, loss: 2%",
    "latency: 100ms, delay_variation: 10ms, loss: 5%, reordering: 2%, duplication: 2%, corruption: 2%",
)
SMALL = 96 << 10


async def test_data_both_ways_over_a_line_with_every_impairment():
    assert BAD_LINE != LOSSY
    expected = hashlib.sha256((bytes(range(251)) * (SMALL // 251 + 1))[:SMALL]).hexdigest()
    async with live(BAD_LINE) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        async with program(linux, sys.executable, "-c", SERVE.replace(str(SIZE), str(SMALL)), ready="listening") as server:
            connection = host.tcp.connect(LINUX, 8080)
            peer = Peer(connection, SMALL)
            await peer.done.wait()
            assert await server.ends() == 0
            await server.says(f"{SMALL} {expected}")
        assert (peer.received, peer.digest.hexdigest(), connection.error) == (SMALL, expected, None)
        link = lab.links["core", "edge"]
        total = {what: link.forward.altered[what] + link.backward.altered[what] for what in link.forward.altered}
        # some 300 frames passed: each kind by itself may have spared them, which the tests in virtual time settle
        assert sum(total.values()) > 3 and link.forward.dropped_loss + link.backward.dropped_loss > 0
        assert connection.sender.rto.smoothed > 200_000_000


async def test_refusal_half_close_and_reset_both_ways():
    async with live(PAIR) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        refused = host.tcp.connect(LINUX, 9)
        await changed(refused, lambda: refused.state is State.CLOSED)
        assert refused.error == "refused"

        listener = host.tcp.listen(9090)
        events: list[str] = []
        finished = trio.Event()

        def accepted() -> None:
            connection = listener.accept()
            connection.on_change = lambda: work(connection)
            work(connection)

        def work(connection: TcpConnection) -> None:
            if connection.error is not None:
                events.append(connection.error)
                if connection.error == "reset":
                    finished.set()
            elif connection.available:
                text = connection.receive(100)
                if text == b"abort me":
                    connection.abort()
            if connection.at_end and connection.room:
                connection.send(b"the other half")
                connection.close()

        listener.on_ready = accepted
        said = await run(linux, sys.executable, "-c", ENDS, "10.77.0.1")
        assert said.split("\n") == ["refused", "the other half", "reset", "done", ""]
        with trio.fail_after(10):
            await finished.wait()
        assert events == ["aborted", "reset"]


WINDOWS = f"""
import socket
server = socket.create_server(("10.77.0.2", 8080))
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20000)
signal = socket.create_server(("10.77.0.2", 8081))
print("listening", flush=True)
s = server.accept()[0]
signal.accept()  # until then nothing is read
count = 0
while count < {SIZE}:
    count += len(s.recv(1 << 20))
print("read", count, flush=True)
s.sendall(bytes({SIZE}))
s.close()
print("sent", flush=True)
"""


async def test_windows_that_shut_on_either_side():
    async with live(PAIR) as lab:
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        async with program(linux, sys.executable, "-c", WINDOWS, ready="listening") as server:
            connection = host.tcp.connect(LINUX, 8080)
            left = SIZE

            def send() -> None:
                nonlocal left
                left -= connection.send(bytes(min(left, connection.room)))

            await changed(connection, lambda: connection.is_established)
            connection.on_change = send
            send()
            await until(lambda: connection.sender.window == 0 and connection.unsent == 1 << 20, "Linux shut its window")
            await until(lambda: connection.sender.high > connection.sender.nxt, "it was probed")
            host.tcp.connect(LINUX, 8081)
            await server.says(f"read {SIZE}")
            connection.on_change = None
            await until(lambda: connection.available > (1 << 20) - 1448, "our window is shut, but for less than a segment")
            received = 0

            def receive() -> None:
                nonlocal received
                received += len(connection.receive(1 << 20))

            receive()
            await changed(connection, lambda: receive() or received == SIZE)
            await server.says("sent")
        assert connection.error is None and host.drops == {}
