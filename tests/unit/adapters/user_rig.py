"""A guest and a user adapter on one cable, in real time: the far ends are sockets on the loopback of the machine."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface
from pathlib import Path

from vnet.adapters.base import AdapterContext
from vnet.adapters.resources import NoLedger
from vnet.adapters.user.gateway import UserAdapter
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.ports import Port, connect
from vnet.stack.host import Host
from vnet.stack.udp import UdpSocket
from vnet.topology.adapter_kinds.user import Forward, UserSpec
from vnet.units import SECOND
from vnet.wire import ipv6

GATEWAY, GUEST = IPv4Interface("10.0.2.1/24"), IPv4Interface("10.0.2.5/24")
MACHINE = IPv4Address("10.0.2.99")
"""The alias of the machine's loopback."""
GATEWAY6, MACHINE6 = IPv6Interface("fd00:2::1/64"), IPv6Address("fd00:2::99")
GUEST_MAC = bytes.fromhex("525400000005")
GUEST6 = IPv6Address(GATEWAY6.network.network_address.packed[:8] + ipv6.interface_id(GUEST_MAC))
"""What the guest makes of the adapter's prefix."""
PATIENCE = 10.0


class Loop:
    """A Poller and a clock that go on while somebody waits for something."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self._epoch = time.monotonic_ns()
        self._epoll = select.epoll()
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}
        self._watched: dict[int, int] = {}
        self.skipped = 0

    def register(self, fd: int, on_readable: Callable[[], None]) -> None:
        self.wants_read(fd, on_readable)

    def unregister(self, fd: int) -> None:
        self.readers.pop(fd, None)
        self.writers.pop(fd, None)
        self._watch(fd)

    def wants_read(self, fd: int, callback: Callable[[], None] | None) -> None:
        self._want(self.readers, fd, callback)

    def wants_write(self, fd: int, callback: Callable[[], None] | None) -> None:
        self._want(self.writers, fd, callback)

    def _want(self, table: dict[int, Callable[[], None]], fd: int, callback: Callable[[], None] | None) -> None:
        if callback is None:
            table.pop(fd, None)
        else:
            table[fd] = callback
        self._watch(fd)

    def _watch(self, fd: int) -> None:
        before = self._watched.pop(fd, 0)
        events = select.EPOLLIN * (fd in self.readers) | select.EPOLLOUT * (fd in self.writers)
        if before and not events:
            self._epoll.unregister(fd)
        elif events:
            (self._epoll.modify if before else self._epoll.register)(fd, events)
            self._watched[fd] = events

    def turn(self) -> None:
        """Take what is there within a millisecond, and run what is due."""
        ready = self._epoll.poll(0.001)
        self.timeline.now = time.monotonic_ns() - self._epoch + self.skipped
        for fd, events in ready:
            if events & select.EPOLLOUT and fd in self.writers:
                self.writers[fd]()
            if events & ~select.EPOLLOUT and fd in self.readers:
                self.readers[fd]()
        self.timeline.run_due(100_000)

    def until(self, condition: Callable[[], object], patience: float = PATIENCE) -> None:
        end = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < end, "it did not come to that"
            self.turn()

    def skip(self, duration: int) -> None:
        """Let time jump."""
        self.skipped += duration
        self.turn()

    def close(self) -> None:
        assert not self._watched, "nothing is watched any more"
        self._epoll.close()


class Rig:
    """The guest is ``guest``, the way out ``adapter``; both have the other's addresses of the IP *version* as bytes here.

    With version 6 the guest configures itself by the adapter's advertisements, and has IPv4 as well.
    """

    def __init__(self, directory: Path, forwards: tuple[Forward, ...] = (), *, version: int = 4, **options: object) -> None:
        self.version = version
        self.machine, self.gateway, self.own, self.loopback = (
            (MACHINE.packed, GATEWAY.ip.packed, GUEST.ip.packed, "127.0.0.1") if version == 4
            else (MACHINE6.packed, GATEWAY6.ip.packed, GUEST6.packed, "::1")
        )  # fmt: skip
        self.loop = Loop()
        streams = RandomStreams(1)
        port = Port("out:adapter", lambda frame, offload: None)
        context = AdapterContext(
            port=port, poller=self.loop, scheduler=self.loop.timeline, streams=lambda purpose: streams.stream("a", purpose),
            report=lambda kind, **fields: None, ledger=NoLedger(), directory=str(directory),
        )  # fmt: skip
        chosen = {"address": GATEWAY, "mac": bytes.fromhex("525400000001"), "host": MACHINE, "forwards": forwards}
        if version == 6:
            chosen |= {"address6": GATEWAY6, "host6": MACHINE6}
        self.spec = UserSpec(**{**chosen, **options})
        self.adapter = UserAdapter(self.spec, context)
        self.guest = Host("guest", self.loop.timeline, lambda purpose: streams.stream("guest", purpose))
        self.nic = self.guest.add_interface("eth0", GUEST_MAC)
        self.nic.add_address(GUEST)
        self.guest.routes.add(IPv4Network("0.0.0.0/0"), GATEWAY.ip.packed, self.nic)
        connect(self.nic.port, port, self.loop.timeline)
        self.adapter.start()
        if version == 6:
            self.nic.enable_ipv6().configure_itself()
            for _ in range(30):
                if self.own in self.guest.use_ipv6().local and self.adapter._outside.interface.ipv6.settled:
                    break
                self.loop.skip(SECOND // 2)
            else:
                raise AssertionError("the guest made no address of the adapter's prefix")

    def server(self, kind: int = socket.SOCK_STREAM, backlog: int = 16) -> socket.socket:
        """Open a socket on the loopback of the machine that does not wait."""
        return server(kind, backlog, self.loopback)

    def close(self) -> None:
        self.adapter.retire()
        self.adapter.stop()
        self.loop.close()


@contextmanager
def rig(directory: Path, forwards: tuple[Forward, ...] = (), *, version: int = 4, **options: object) -> Iterator[Rig]:
    made = Rig(directory, forwards, version=version, **options)
    try:
        yield made
    finally:
        made.close()


def server(kind: int = socket.SOCK_STREAM, backlog: int = 16, address: str = "127.0.0.1") -> socket.socket:
    """Open a socket on the loopback of the machine that does not wait."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.bind((address, 0))
    sock.setblocking(False)
    if kind == socket.SOCK_STREAM:
        sock.listen(backlog)
    return sock


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


class Asker:
    """A UDP socket of the guest."""

    def __init__(self, lab: Rig) -> None:
        self.lab = lab
        self.got: list[bytes] = []
        self.errors: list[str] = []
        self.socket: UdpSocket = lab.guest.udp_bind(on_datagram=self._take, both=True)
        self.socket.on_error = lambda destination, error: self.errors.append(error.text)

    def _take(self, payload: bytes, source: object) -> None:
        self.got.append(payload)

    def send(self, payload: bytes, port: int, address: bytes | None = None) -> None:
        self.socket.send_to(payload, (address or self.lab.machine, port))


def receive(lab: Rig, far: socket.socket) -> tuple[bytes, tuple[str, int]]:
    found = []

    def arrived() -> bool:
        try:
            found.append(far.recvfrom(65536))
        except BlockingIOError:
            return False
        return True

    lab.loop.until(arrived)
    return found[0]
