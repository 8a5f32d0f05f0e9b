"""Linux on both sides of a router with NAT: real stacks, real programs, super-frames through the translation."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from rig import Pump, make_guests, needs, running

from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.guests.namespace import NamespaceGuest
from vnet.ports import connect
from vnet.services.nat.translator import NatConfig, PortForward
from vnet.services.router.router import Router

pytestmark = [pytest.mark.real, needs("ip", "ping")]

GUEST, SERVER, EXTERNAL = "10.77.0.1", "10.79.0.2", "10.79.0.254"
NAT = NatConfig(
    outside="outside",
    inside=("inside",),
    forwards=(PortForward(protocol="tcp", port=8080, address=IPv4Address(GUEST), to_port=80),),
)


class Clocked:
    """A poller that gives the router's timeline the real time, and runs what is due, at each wake-up."""

    def __init__(self, pump: Pump, timeline: Timeline) -> None:
        self.pump, self.timeline, self.start = pump, timeline, time.monotonic_ns()

    def register(self, fd: int, on_readable: Callable[[], None]) -> None:
        def wake() -> None:
            self.timeline.now = time.monotonic_ns() - self.start
            on_readable()
            self.timeline.run_due(1000)

        self.pump.register(fd, wake)

    def unregister(self, fd: int) -> None:
        self.pump.unregister(fd)

    def wants_read(self, fd: int, callback: Callable[[], None] | None) -> None:
        self.pump.wants_read(fd, callback)

    def wants_write(self, fd: int, callback: Callable[[], None] | None) -> None:
        self.pump.wants_write(fd, callback)


def run(guest: NamespaceGuest, *command: str, check: bool = True) -> str:
    done = subprocess.run(guest.exec_argv(command), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done.stdout


@contextmanager
def program(guest: NamespaceGuest, source: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program; it prints a line when it is ready."""
    process = subprocess.Popen(
        guest.exec_argv([sys.executable, "-c", source, *arguments]), stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def routed(directory: Path) -> Iterator[tuple[NamespaceGuest, NamespaceGuest, Router]]:
    """A guest inside, a server outside, and the router between them."""
    guests = make_guests(directory, 2)
    timeline, streams = Timeline(), RandomStreams()
    router = Router("router", timeline, lambda purpose: streams.stream("router", purpose))
    inside = router.add_interface("inside", bytes.fromhex("525400000001"), [IPv4Interface("10.77.0.254/24")])
    outside = router.add_interface("outside", bytes.fromhex("525400000002"), [IPv4Interface(f"{EXTERNAL}/24")])
    router.configure_nat(NAT)
    with running(guests) as (guest, server), Pump() as pump:
        run(guest, "ip", "route", "add", "default", "via", "10.77.0.254")
        run(server, "ip", "address", "flush", "dev", "eth0")
        run(server, "ip", "address", "add", f"{SERVER}/24", "dev", "eth0")
        connect(inside.port, guest.ports[0])
        connect(outside.port, server.ports[0])
        poller = Clocked(pump, timeline)
        guest.start(poller)
        server.start(poller)
        try:
            yield guest, server, router
        finally:
            guest.stop()
            server.stop()


DIGEST_SERVER = """
import hashlib, socket, sys
s = socket.create_server(("", int(sys.argv[1]))); print("ready", flush=True)
while True:
    c, peer = s.accept(); h = hashlib.sha256(); left = int(sys.argv[2])
    while left:
        data = c.recv(min(left, 1 << 20)); h.update(data); left -= len(data)
    c.sendall(f"{peer[0]} {h.hexdigest()}".encode()); c.close()
"""
DIGEST_CLIENT = """
import hashlib, random, socket, sys
data = random.Random(1).randbytes(int(sys.argv[3])); s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
s.sendall(data); seen, digest = s.makefile().read().split()
assert digest == hashlib.sha256(data).hexdigest(); print(seen)
"""
OCTETS = "20000000"


def test_tcp_through_nat_arrives_whole_and_shows_the_external_address(tmp_path: Path) -> None:
    with routed(tmp_path) as (guest, server, router), program(server, DIGEST_SERVER, "80", OCTETS):
        for _ in range(2):
            assert run(guest, sys.executable, "-c", DIGEST_CLIENT, SERVER, "80", OCTETS).strip() == EXTERNAL
        assert not router.drops
        # super-frames crossed whole: far fewer packets than 40 MB make on a wire
        assert router.forwarded < 40_000_000 / 1448 / 2
        assert {flow.state for flow in router.flows()} <= {"closed", "originator-closed", "responder-closed"}


def test_a_port_forward_reaches_linux_inside(tmp_path: Path) -> None:
    with routed(tmp_path) as (guest, server, router), program(guest, DIGEST_SERVER, "80", OCTETS):
        assert run(server, sys.executable, "-c", DIGEST_CLIENT, EXTERNAL, "8080", OCTETS).strip() == SERVER
        assert not router.drops


UDP_ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 7)); print("ready", flush=True)
while True:
    data, peer = s.recvfrom(65535); s.sendto(data + peer[0].encode(), peer)
"""
UDP_CLIENT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.connect((sys.argv[1], int(sys.argv[2])))
for size in (0, 1, 2, 700, 1472, 1473, 4000, 30000):
    s.send(b"x" * size)
    assert s.recv(65535) == b"x" * size + sys.argv[3].encode(), size
s.connect((sys.argv[1], 9)); s.send(b"nobody")
try:
    s.recv(1)
except ConnectionRefusedError:
    print("refused")
"""


def test_udp_fragments_and_errors_through_nat(tmp_path: Path) -> None:
    with routed(tmp_path) as (guest, server, router), program(server, UDP_ECHO):
        assert run(guest, sys.executable, "-c", UDP_CLIENT, SERVER, "7", EXTERNAL) == "refused\n"
        assert not router.drops


def test_ping_through_nat_and_nothing_comes_in(tmp_path: Path) -> None:
    with routed(tmp_path) as (guest, server, router):
        for size in ("0", "56", "1472", "4000"):
            assert ", 0% packet loss" in run(guest, "ping", "-c", "2", "-i", "0.05", "-w", "10", "-s", size, SERVER)
        assert "Time to live exceeded" in run(guest, "ping", "-c", "1", "-t", "1", SERVER, check=False)
        assert ", 0% packet loss" in run(server, "ping", "-c", "1", EXTERNAL)
        run(server, "ip", "route", "add", "10.77.0.0/24", "via", EXTERNAL)
        assert "100% packet loss" in run(server, "ping", "-c", "1", "-W", "1", GUEST, check=False)
        assert router.drops == {"ttl": 1, "unsolicited": 1}
