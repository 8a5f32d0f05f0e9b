"""A guest and a user adapter on one cable, in real time: the far ends are sockets on the loopback of the machine."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from vnet.adapters.base import AdapterContext
from vnet.adapters.resources import NoLedger
from vnet.adapters.user.gateway import UserAdapter
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.ports import Port, connect
from vnet.stack.host import Host
from vnet.topology.adapter_kinds.user import Forward, UserSpec

GATEWAY, GUEST = IPv4Interface("10.0.2.1/24"), IPv4Interface("10.0.2.5/24")
MACHINE = IPv4Address("10.0.2.99")
"""The alias of the machine's loopback."""
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
    """The guest is ``guest``, the way out ``adapter``."""

    def __init__(self, directory: Path, forwards: tuple[Forward, ...] = (), **options: object) -> None:
        self.loop = Loop()
        streams = RandomStreams(1)
        port = Port("out:adapter", lambda frame, offload: None)
        context = AdapterContext(
            port=port, poller=self.loop, scheduler=self.loop.timeline, streams=lambda purpose: streams.stream("a", purpose),
            report=lambda kind, **fields: None, ledger=NoLedger(), directory=str(directory),
        )  # fmt: skip
        chosen = {"address": GATEWAY, "mac": bytes.fromhex("525400000001"), "host": MACHINE, "forwards": forwards}
        self.spec = UserSpec(**{**chosen, **options})
        self.adapter = UserAdapter(self.spec, context)
        self.guest = Host("guest", self.loop.timeline, lambda purpose: streams.stream("guest", purpose))
        self.nic = self.guest.add_interface("eth0", bytes.fromhex("525400000005"))
        self.nic.add_address(GUEST)
        self.guest.routes.add(IPv4Network("0.0.0.0/0"), GATEWAY.ip.packed, self.nic)
        connect(self.nic.port, port, self.loop.timeline)
        self.adapter.start()

    def close(self) -> None:
        self.adapter.retire()
        self.adapter.stop()
        self.loop.close()


@contextmanager
def rig(directory: Path, forwards: tuple[Forward, ...] = (), **options: object) -> Iterator[Rig]:
    made = Rig(directory, forwards, **options)
    try:
        yield made
    finally:
        made.close()


def server(kind: int = socket.SOCK_STREAM, backlog: int = 16) -> socket.socket:
    """Open a socket on the loopback of the machine that does not wait."""
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    if kind == socket.SOCK_STREAM:
        sock.listen(backlog)
    return sock


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port
