"""Live labs of emulated guests with a user adapter: no privilege is needed, and nothing but the network is stated."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
import trio

import vnet
from vnet.errors import HostError, UsageError
from vnet.guests.emulated import EmulatedGuest
from vnet.runtime.change import change
from vnet.stack import conflict
from vnet.topology import parse_topology
from vnet.units import MILLISECOND

TOPOLOGY = parse_topology(
    """
name: outward
networks:
  out: {subnet: 10.0.2.0/24, dhcp: {}, adapter: {user: {host: 10.0.2.99}}}
guests:
  pc: {nics: [out]}
  web: {nics: [{network: out, address: 10.0.2.7/24, gateway: 10.0.2.1}]}
""",
    source="outward",
)
pytestmark = [pytest.mark.trio, pytest.mark.usefixtures("run_directory")]


@pytest.fixture
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a client find out in a moment, instead of five seconds of real time, that nobody else has its address."""
    for name in ("PROBE_WAIT", "PROBE_MIN", "PROBE_MAX", "ANNOUNCE_WAIT"):
        monkeypatch.setattr(conflict, name, 10 * MILLISECOND)


def guest(lab: vnet.Lab, name: str) -> EmulatedGuest:
    found = lab.guests[name]
    assert isinstance(found, EmulatedGuest)
    return found


async def shout(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        async for piece in stream:
            await stream.send_all(piece.upper())


async def ask(host: str, port: int) -> bytes:
    async with await trio.open_tcp_stream(host, port) as stream:
        await stream.send_all(b"hello")
        return bytes(await stream.receive_some())


def _to_port(port: int, other: int) -> Callable[[socket.socket, tuple[str, int]], None]:
    """Have what connects to one port of the machine connect to another: nobody here may listen on 53."""
    connect = socket.socket.connect

    def connected(sock: socket.socket, address: tuple[str, int]) -> None:
        connect(sock, (address[0], other) if address[1:] == (port,) else address)

    return connected


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.usefixtures("short_probes")
async def test_clients_of_dhcp_are_told_the_way_out_and_its_names() -> None:
    scope = TOPOLOGY.networks["out"].dhcp
    assert scope is not None and scope.gateway == IPv4Address("10.0.2.1") and scope.dns == (IPv4Address("10.0.2.1"),)
    before = len(os.listdir("/proc/self/fd"))
    async with vnet.open_lab(TOPOLOGY, emulate=True) as lab, trio.open_nursery() as nursery:
        await lab.wait_up()
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, shout, [listener])
        for name in ("pc", "web"):
            assert await guest(lab, name).run(ask, "10.0.2.99", port) == b"HELLO"
        with pytest.raises(OSError, match="all attempts to connect"):
            await guest(lab, "pc").run(ask, "10.0.2.99", free_port())
        assert lab.networks["out"].state == "up" and lab.networks["out"].details["address"] == "10.0.2.1/24"
        nursery.cancel_scope.cancel()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("short_probes")
async def test_ways_in_come_and_go_while_connections_stay() -> None:
    async with vnet.open_lab(TOPOLOGY, emulate=True) as lab, trio.open_nursery() as nursery:
        await lab.wait_up()
        for name in ("pc", "web"):
            async with guest(lab, name).activate():
                await nursery.start(trio.serve_tcp, shout, 80)
        out, port, other = lab.networks["out"], free_port(), free_port()
        await out.forward(str(port), "web:80")
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"X"
            answer = await change(lab, "network.out", [f"forward=127.0.0.1:{other} pc:80", f"unforward={port}"])
            assert answer["forwards"] == [f"tcp 127.0.0.1:{other} to {guest(lab, 'pc').address}:80"]
            assert await ask("127.0.0.1", other) == b"HELLO"
            with pytest.raises(OSError):
                await ask("127.0.0.1", port)
            await stream.send_all(b"y")
            assert await stream.receive_some() == b"Y"
        with pytest.raises(UsageError, match="is forwarded already"):
            await out.forward(f"127.0.0.1:{other}", "web:80")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(HostError, match="cannot listen"):
                await out.forward(str(taken.getsockname()[1]), "web:80")
        nursery.cancel_scope.cancel()


SIXTH = """
name: sixth
networks:
  out: {subnet: 10.0.2.0/24, adapter: {user: {ipv6: auto, host: [10.0.2.99, "fd00:2::99"], dns: [127.0.0.1]}}}
guests:
  alone: {nics: [{network: out, ipv6: auto}]}
"""


@pytest.fixture
def short_discovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let addresses of IPv6 be in use in a moment."""
    monkeypatch.setattr("vnet.stack.ipv6.interface.MAX_DELAY", MILLISECOND)
    monkeypatch.setattr("vnet.stack.ipv6.interface.RETRANSMIT_TIME", 10 * MILLISECOND)
    monkeypatch.setattr("vnet.stack.ipv6.autoconf.SOLICITATION_DELAY", MILLISECOND)


@pytest.mark.usefixtures("short_discovery")
async def test_a_guest_with_ipv6_alone_needs_nothing_but_what_is_advertised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address, its router, and the DNS server that it asks for names; it is known by name to who is to be forwarded."""
    asked: list[bytes] = []

    async def answer(sock: trio.socket.SocketType) -> None:
        while True:
            question, peer = await sock.recvfrom(2000)
            asked.append(question)
            found = b"\xc0\x0c\0\x1c\0\1\0\0\0\x3c\0\x10" + IPv6Address("fd00:2::99").packed  # AAAA
            kind = question[-4:-2] == b"\0\x1c"
            head = question[:2] + b"\x81\x80\0\1" + bytes((0, kind)) + bytes(4)
            await sock.sendto(head + question[12:] + found * kind, peer)

    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        await resolver.bind(("127.0.0.1", 0))
        monkeypatch.setattr("vnet.adapters.user.outside.socket.socket.connect", _to_port(53, resolver.getsockname()[1]))
        async with vnet.open_lab(parse_topology(SIXTH), emulate=True) as lab, trio.open_nursery() as nursery:
            await lab.wait_up()
            (listener,) = await trio.open_tcp_listeners(0, host="::1")
            nursery.start_soon(trio.serve_listeners, shout, [listener])
            nursery.start_soon(answer, resolver)
            alone = guest(lab, "alone")
            with trio.fail_after(10):
                while alone.address is None:
                    await trio.lowlevel.checkpoint()
            assert await alone.run(ask, "machine.test", listener.socket.getsockname()[1]) == b"HELLO" and asked
            async with alone.activate():
                await nursery.start(trio.serve_tcp, shout, 80)
            told = await change(lab, "network.out", [f"forward={(port := free_port())} alone:80"])
            assert told["forwards"] == [f"tcp 127.0.0.1:{port} to [{alone.address}]:80"]
            assert await ask("127.0.0.1", port) == b"HELLO"
            nursery.cancel_scope.cancel()


async def test_the_way_out_is_changed_under_the_guests() -> None:
    async with vnet.open_lab(TOPOLOGY, emulate=True) as lab, trio.open_nursery() as nursery:  # nobody here needs a lease
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, shout, [listener])
        web = guest(lab, "web")
        async with web.activate():
            stream = await trio.open_tcp_stream("10.0.2.99", port)
        await lab.networks["out"].rebind("none")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()  # it ended there, and is told so
        await lab.networks["out"].rebind("{user: {host: 10.0.2.98}}")
        assert await web.run(ask, "10.0.2.98", port) == b"HELLO"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("forward=8080", "write forward='8080 web:80'"),
        ("unforward=udp 8080 web:80", "write unforward=8080"),
        ("unforward=8080", "nothing listens on tcp 8080"),
        ("forward=8080 nobody:80", "'nobody' has no fixed address"),
        ("forward=here web:80", "is not a place to listen"),
    ],
)
async def test_what_cannot_be_is_refused(setting: str, told: str) -> None:
    async with vnet.open_lab(TOPOLOGY, emulate=True) as lab:
        with pytest.raises(UsageError, match=told):
            await change(lab, "network.out", [setting])


async def test_other_ways_out_have_no_forwards() -> None:
    async with vnet.open_lab(TOPOLOGY, emulate=True) as lab:
        await lab.networks["out"].rebind("none")
        with pytest.raises(UsageError, match="network out has no user adapter"):
            await lab.networks["out"].forward("8080", "web:80")


BEHIND = """
name: behind
networks:
  lan: {{subnet: 10.1.0.0/24}}
  out: {{subnet: 10.0.2.0/24, adapter: {{user: {{host: 10.0.2.99{routes}}}}}}}
routers:
  gate:
    interfaces: {{lan: 10.1.0.1/24, out: 10.0.2.7/24}}
    default_gateway: 10.0.2.1
{nat}
guests:
  pc: {{nics: [{{network: lan, address: 10.1.0.5/24, gateway: 10.1.0.1}}]}}
"""


@pytest.mark.parametrize(
    ("routes", "nat"), [(", routes: {10.1.0.0/16: 10.0.2.7}", ""), ("", "    nat: {outside: out, inside: [lan]}")]
)
async def test_behind_a_router_of_the_lab(routes: str, nat: str) -> None:
    """It is the gateway that the router names; without translation it needs to know the way back."""
    topology = parse_topology(BEHIND.format(routes=routes, nat=nat), source="behind")
    async with vnet.open_lab(topology, emulate=True) as lab, trio.open_nursery() as nursery:
        await lab.wait_up()
        assert lab.networks["out"].adapter.describe() == "user 10.0.2.1/24"
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, shout, [listener])
        assert await guest(lab, "pc").run(ask, "10.0.2.99", listener.socket.getsockname()[1]) == b"HELLO"
        nursery.cancel_scope.cancel()


async def test_many_changes_leave_nothing(tmp_path: Path) -> None:
    async with vnet.open_lab(TOPOLOGY, emulate=True) as lab:
        out, path = lab.networks["out"], tmp_path / "web.sock"
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(30):
            await out.forward(str(path), "web:80")
            assert path.exists()
            await out.rebind("none")
            assert not path.exists()
            await out.rebind("{user: {host: 10.0.2.99}}")
        assert len(os.listdir("/proc/self/fd")) == before
