"""A poller and a clock that a test turns by hand: it never waits for a descriptor, and time stands until it is moved."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from vnet.adapters.base import AdapterContext
from vnet.adapters.resources import NoLedger
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.ports import NO_OFFLOAD, Port, connect

FRAME = bytes.fromhex("020000000001 020000000002 88b5") + bytes(46)


def frame(number: int, octets: int = 60) -> bytes:
    return FRAME[:14] + number.to_bytes(4, "big") + bytes(octets - 18)


def is_cut_off(connection: socket.socket) -> bool:
    """Tell whether the other end of a connection that does not block has closed it."""
    try:
        return connection.recv(1000) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


class Bench:
    """Where an adapter stands: its poller, its clock, and the far end of its cable, which keeps what arrives."""

    def __init__(self, directory: str) -> None:
        self.timeline = Timeline()
        self.directory = directory
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}
        self.arrived: list[bytes] = []
        self.events: list[tuple[str, dict[str, object]]] = []
        self.port = Port("net:adapter", lambda frame, offload: None)
        self.far = Port("switch:1", lambda frame, offload: self.arrived.append(frame))
        connect(self.port, self.far)

    @property
    def context(self) -> AdapterContext:
        return AdapterContext(
            port=self.port,
            poller=self,
            scheduler=self.timeline,
            streams=lambda purpose: RandomStreams(1).stream("net", purpose),
            report=lambda kind, **fields: self.events.append((kind, fields)),
            ledger=NoLedger(),
            directory=self.directory,
        )

    def register(self, fd: int, on_readable: Callable[[], None]) -> None:
        assert fd not in self.readers
        self.readers[fd] = on_readable

    def unregister(self, fd: int) -> None:
        self.readers.pop(fd, None)
        self.writers.pop(fd, None)

    def wants_write(self, fd: int, callback: Callable[[], None] | None) -> None:
        assert fd in self.readers
        if callback is None:
            self.writers.pop(fd, None)
        else:
            self.writers[fd] = callback

    def turn(self, times: int = 4) -> None:
        """Serve what is ready, and what is due."""
        for _ in range(times):
            poll = select.poll()
            for fd in self.readers:
                poll.register(fd, select.POLLIN | (select.POLLOUT if fd in self.writers else 0))
            for fd, events in poll.poll(0):
                if events & select.POLLOUT and fd in self.writers:
                    self.writers[fd]()
                if events & ~select.POLLOUT and fd in self.readers:
                    self.readers[fd]()
            self.timeline.run_due(1000)

    def pass_time(self, duration: int) -> None:
        self.timeline.now += duration
        self.turn()

    def send(self, frame: bytes, offload: bytes = NO_OFFLOAD) -> None:
        """Have the fabric send a frame into the adapter."""
        self.far.send(frame, offload)
