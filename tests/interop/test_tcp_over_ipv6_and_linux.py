"""TCP over IPv6 of an emulated host against that of Linux: both ways, both roles, over a TAP device in a namespace."""

from __future__ import annotations

import hashlib
import sys
import zlib
from ipaddress import IPv6Address

import httpx
import pytest
import trio

from tests.interop.linux_programs import ENDS
from tests.interop.live_labs import guest, live, needs, program, run, until
from vnet.guests.base import Verdict
from vnet.stack.tcp import State, TcpConnection
from vnet.wire import ipv6

pytestmark = [*needs("curl", "ip", "sysctl"), pytest.mark.trio]

OURS, LINUX = "fd00:77::1", "fd00:77::2"
LINUX_PACKED = IPv6Address(LINUX).packed
TOPOLOGY = """
name: NAME
networks: {n: {}}
guests:
  emulated: {nics: [{network: n, address: ["fd00:77::1/64", 10.77.0.1/24]}]}
  linux: {kind: namespace, nics: [{network: n, address: ["fd00:77::2/64", 10.77.0.2/24]}]}
"""
LOSSY = """
name: NAME
networks: {n: {vlan: 10}}
switches: {core: {}, edge: {}}
links: [{between: [core, edge], trunk: all, latency: 2ms, loss: 2%}]
guests:
  emulated: {switch: edge, nics: [{network: n, address: "fd00:77::1/64"}]}
  linux: {switch: core, kind: namespace, nics: [{network: n, address: "fd00:77::2/64"}]}
"""
PERIOD = bytes(range(251)) * 4178
"""A mebibyte, but for 94 octets: no segment, super-frame or buffer is as long, so that what is lost or twice there shows."""

TALK = """
import socket, threading, zlib
period = bytes(range(251)) * 4178
def talk(s):
    s.settimeout(30)
    def send():
        for _ in range(ROUNDS):
            s.sendall(period)
        s.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send)
    sender.start()
    count = digest = 0
    buffer = memoryview(bytearray(1 << 20))
    while octets := s.recv_into(buffer):
        count += octets
        digest = zlib.crc32(buffer[:octets], digest)
    sender.join()
    print("got", count, digest, flush=True)
"""
SERVE = f"""{TALK}
server = socket.create_server(("{LINUX}", 7070), family=socket.AF_INET6)
print("listening", flush=True)
talk(server.accept()[0])
"""
CONNECT = TALK + f'\ntalk(socket.create_connection(("{OURS}", 9090), 10))\n'


def expected(rounds: int) -> str:
    """Return what the other end is to have received."""
    digest = 0
    for _ in range(rounds):
        digest = zlib.crc32(PERIOD, digest)
    return f"got {rounds * len(PERIOD)} {digest}"


class Peer:
    """Sends so many rounds and digests what comes."""

    def __init__(self, connection: TcpConnection, rounds: int) -> None:
        self.connection = connection
        self.left = rounds * len(PERIOD)
        self.received = self.digest = 0
        self.done = trio.Event()
        connection.on_change = self.work
        self.work()

    @property
    def said(self) -> str:
        return f"got {self.received} {self.digest}"

    def work(self) -> None:
        connection = self.connection
        while self.left and connection.room:
            at = -self.left % len(PERIOD)
            self.left -= connection.send(PERIOD[at : at + min(connection.room, 1 << 18)])
        if not self.left:
            connection.shutdown()
        while piece := connection.receive(1 << 20):
            self.received += len(piece)
            self.digest = zlib.crc32(piece, self.digest)
        if connection.at_end or connection.state is State.CLOSED:
            self.done.set()


async def exchanged(lab, role: str, rounds: int) -> TcpConnection:
    """Send data both ways at once, the emulated host in a role; return its connection."""
    host, linux = lab.guests["emulated"].host, guest(lab, "linux")
    if role == "client":
        code = SERVE.replace("ROUNDS", str(rounds))
        async with program(linux, sys.executable, "-c", code, ready="listening") as server:
            peer = Peer(host.tcp.connect(LINUX_PACKED, 7070), rounds)
            await server.says(expected(rounds))
            await peer.done.wait()
    else:
        listener = host.tcp.listen(9090, ipv6.ANY)
        taken: list[Peer] = []
        listener.on_ready = lambda: taken.extend(Peer(each, rounds) for each in iter(listener.accept, None))
        assert await run(linux, sys.executable, "-c", CONNECT.replace("ROUNDS", str(rounds))) == expected(rounds) + "\n"
        (peer,) = taken
        await peer.done.wait()
        listener.close()
    assert (peer.said, peer.connection.error) == (expected(rounds), None)
    return peer.connection


async def test_200_megabytes_each_way_in_both_roles():
    async with live(TOPOLOGY) as lab:
        await lab.wait_up()
        for role in ("client", "server"):
            sender = (await exchanged(lab, role, 200)).sender
            assert sender.sack and sender.scale and sender.mss == 1428
        assert lab.guests["emulated"].host.drops == {}


async def test_data_over_a_lossy_trunk_in_both_roles():
    async with live(LOSSY) as lab:
        await lab.wait_up()
        for role in ("client", "server"):
            connection = await exchanged(lab, role, 6)
            assert connection.sender.rto.smoothed > 4_000_000
        link = lab.links["core", "edge"]
        assert min(link.forward.dropped_loss, link.backward.dropped_loss) > 20


async def test_refusal_half_close_and_reset_both_ways():
    async with live(TOPOLOGY) as lab:
        await lab.wait_up()
        emulated, linux = lab.guests["emulated"], guest(lab, "linux")
        with pytest.raises(ConnectionRefusedError):
            await emulated.open_tcp_stream(LINUX, 9)
        events: list[str] = []
        reset = trio.Event()

        async def serve(stream: trio.SocketStream) -> None:
            try:
                text = b""
                while part := await stream.receive_some():
                    text += part
                    if text == b"abort me":
                        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        await stream.aclose()
                        events.append("aborted")
                        return
                await stream.send_all(b"the other " + text)
            except trio.BrokenResourceError:
                events.append("reset")
                reset.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(emulated.serve_tcp, serve, 9090)
            said = await run(linux, sys.executable, "-c", ENDS, OURS)
            assert said.split("\n") == ["refused", "the other half", "reset", "done", ""]
            await reset.wait()
            nursery.cancel_scope.cancel()
        assert events == ["aborted", "reset"]
        assert (await emulated.tcp_probe(LINUX, 9)).verdict is Verdict.CLOSED
        assert (await linux.tcp_probe(OURS, 9)).verdict is Verdict.CLOSED


LINK_LOCAL = """
import socket
s = socket.create_server(("::", 7070), family=socket.AF_INET6)
print("listening", flush=True)
connection, peer = s.accept()
connection.sendall(b"hello")
print("peer", peer[0], flush=True)
"""


async def test_link_local_addresses_both_ways():
    async with live(TOPOLOGY) as lab:
        await lab.wait_up()
        emulated, linux = lab.guests["emulated"], guest(lab, "linux")
        await until(
            lambda: any(each.is_link_local for each in linux.interfaces()[0].addresses), "Linux's link-local address"
        )
        theirs = next(each.ip for each in linux.interfaces()[0].addresses if each.is_link_local)
        ours = next(each.ip for each in emulated.addresses if each.is_link_local)
        async with program(linux, sys.executable, "-c", LINK_LOCAL, ready="listening") as server:
            stream = await emulated.open_tcp_stream(f"{theirs}%eth0", 7070)
            assert await stream.receive_some() == b"hello"
            await server.says(f"peer {ours}")
            await stream.aclose()

        async def serve(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            peer = stream.socket.getpeername()
            await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\n" + f"{peer[0]} {peer[3]}".encode())

        async with trio.open_nursery() as nursery:
            await nursery.start(emulated.serve_tcp, serve, 80)
            assert await run(linux, "curl", "-sSg", "--max-time", "10", f"http://[{ours}%25eth0]/") == f"{theirs} 2"
            nursery.cancel_scope.cancel()


# A way that lets large packets vanish, and one whose router says how large they may be

BLACK_HOLE = """
name: NAME
networks: {n: {vlan: 10}}
switches: {core: {mtu: 9000}, old: {mtu: 1500}, edge: {mtu: 9000}}
links: [{between: [core, old], trunk: all}, {between: [old, edge], trunk: all}]
guests:
  emulated: {switch: edge, nics: [{network: n, address: "fd00:77::1/64", mtu: 4000}]}
  linux: {switch: core, kind: namespace, nics: [{network: n, address: "fd00:77::2/64", mtu: 4000}]}
"""


async def test_a_black_hole_is_found_by_both():
    async with live(BLACK_HOLE) as lab:
        await lab.wait_up()
        await run(guest(lab, "linux"), "sysctl", "-qw", "net.ipv4.tcp_mtu_probing=1", "net.ipv4.tcp_base_mss=1024")
        connection = await exchanged(lab, "server", 1)
        assert connection.receiver.mss == 3940 and connection.sender.mss == 1280 - 72


ROUTED = """
name: NAME
networks: {near: {}, far: {}}
guests:
  emulated: {nics: [{network: near, address: "fd00:77::1/64", gateway: "fd00:77::ff"}]}
  router:
    kind: namespace
    nics: [{network: near, address: "fd00:77::ff/64"}, {network: far, address: "fd00:78::ff/64", mtu: 1300}]
  linux: {kind: namespace, nics: [{network: far, address: "fd00:78::2/64", mtu: 1300, gateway: "fd00:78::ff"}]}
"""


async def test_a_router_says_packet_too_big():
    far = IPv6Address("fd00:78::2")
    async with live(ROUTED) as lab:
        await lab.wait_up()
        host, linux = lab.guests["emulated"].host, guest(lab, "linux")
        await run(guest(lab, "router"), "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        route = ("default", "via", "fd00:78::ff", "advmss", "1440")
        await run(linux, "ip", "-6", "route", "replace", *route)  # it says that it takes more than its network does
        code = SERVE.replace("ROUNDS", "3").replace(LINUX, str(far))
        async with program(linux, sys.executable, "-c", code, ready="listening") as server:
            peer = Peer(host.tcp.connect(far.packed, 7070), 3)
            await server.says(expected(3))
            await peer.done.wait()
        assert (peer.said, peer.connection.error) == (expected(3), None)
        assert peer.connection.sender.mss == 1300 - 72
        assert host.ipv6.paths.get(lab.timeline.now, far.packed, 1500) == 1300


# Programs

CONTENT = bytes(range(251)) * 40_000


async def test_httpx_on_a_guest_and_curl_on_linux(tmp_path):
    (tmp_path / "large").write_bytes(CONTENT)

    async def fetch():
        async with httpx.AsyncClient(verify=False, trust_env=False) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://[{LINUX}]:81/")
            return (await client.get(f"http://[{LINUX}]:8080/large")).content

    async def serve(stream: trio.SocketStream) -> None:
        request = await stream.receive_some()
        where = f"{request.split()[1].decode()} {stream.socket.getpeername()[0]}"
        await stream.send_all(f"HTTP/1.1 200 OK\r\nContent-Length: {len(where)}\r\n\r\n{where}".encode())
        await stream.aclose()

    async with live(TOPOLOGY) as lab:
        await lab.wait_up()
        emulated, linux = lab.guests["emulated"], guest(lab, "linux")
        command = (sys.executable, "-u", "-m", "http.server", "8080", "--bind", "::", "--directory", str(tmp_path))
        async with program(linux, *command, ready="Serving HTTP") as server:
            assert hashlib.sha256(await emulated.run(fetch)).digest() == hashlib.sha256(CONTENT).digest()
            assert {line.split()[0] for line in server.lines if "GET" in line} == {OURS}
        async with trio.open_nursery() as nursery, emulated.activate():
            await nursery.start(trio.serve_tcp, serve, 80)
            assert await run(linux, "curl", "-sSg", "--max-time", "10", f"http://[{OURS}]/six") == f"/six {LINUX}"
            assert await run(linux, "curl", "-sSg", "--max-time", "10", "http://10.77.0.1/four") == "/four 10.77.0.2"
            nursery.cancel_scope.cancel()
