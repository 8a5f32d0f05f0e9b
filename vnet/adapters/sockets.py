"""Sockets that frames travel through: where they are made, and what is left of them.

Nothing here waits. A Unix socket that a dead process left in the way is removed; one that somebody listens on is not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias, final

from vnet.adapters.resources import FileResource, Ledger
from vnet.errors import HostError
from vnet.ports import Scheduler
from vnet.topology.adapter_kinds.sockets import SUN_PATH, SocketPlace
from vnet.units import MILLISECOND, SECOND, Duration

MAX_FRAME: Final = 4096 + 65536
"""QEMU's NET_BUFSIZE: what it would ever send or take. A larger length is not a frame but a mistake, or an attack."""
QUEUE_OCTETS: Final = 1024 * 1024
"""What waits in here for a peer that does not read; the rest is dropped.

It is about what Linux keeps for an interface (1000 frames). TCP's window between two virtual machines is half of it; with
a queue of half a window each flow lost frames again and again.
"""
FIRST_RETRY: Final[Duration] = 20 * MILLISECOND
LAST_RETRY: Final[Duration] = 1 * SECOND
"""How long after a vain attempt to reach a peer the next one follows: twice as long each time, up to this."""

Address: TypeAlias = "str | tuple[str, int]"
_BACKLOG: Final = 4


def placed(place: SocketPlace, directory: str) -> SocketPlace:
    """Complete a path by the lab's run directory; raise HostError where it gets too long for a socket."""
    if not place.path:
        return place
    path = os.path.join(directory, place.path)
    if len(os.fsencode(path)) > SUN_PATH:
        raise HostError(f"the path of socket {path} is longer than {SUN_PATH} octets: set VNET_RUN_DIR to a shorter one")
    return replace(place, path=path)


def address_of(place: SocketPlace) -> Address:
    """Give the address as the socket module wants it."""
    return place.path or (place.host, place.port)


def family_of(place: SocketPlace) -> socket.AddressFamily:
    """Give the address family."""
    if place.path:
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in place.host else socket.AF_INET


@final
class BoundSocket:
    """A socket bound to a place, for its owner alone; ``close`` takes its file away, and a sweep does after a crash.

    Raise HostError if the place cannot be had.
    """

    def __init__(self, place: SocketPlace, kind: socket.SocketKind, ledger: Ledger) -> None:
        self.place = place
        self._ledger = ledger
        self._resource: FileResource | None = None
        self.socket = socket.socket(family_of(place), kind)
        try:
            self.socket.setblocking(False)
            if place.path:
                remove_stale(place.path, kind)
            else:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(address_of(place))
            if place.path:
                os.chmod(place.path, 0o600)  # nobody can have connected yet: it does not listen
                self._resource = FileResource.of(place.path)
                ledger.add(self._resource)
            else:
                self.place = replace(place, port=self.socket.getsockname()[1])  # 0 leaves the choice to Linux
            if kind != socket.SOCK_DGRAM:
                self.socket.listen(_BACKLOG)
        except OSError as error:
            self.close()
            raise HostError(f"cannot make a socket at {place}: {error.strerror or error}") from error

    def accept(self, drops: Counter[str], *, has_peer: bool) -> socket.socket | None:
        """Take a connection, which will not block, or turn it away if there is a peer; None if none is to be had."""
        try:
            connection, _ = self.socket.accept()
        except OSError:
            return None  # gone again, or no descriptors left: whoever waits is still there the next time
        if has_peer:
            connection.close()
            drops["turned-away"] += 1
            return None
        connection.setblocking(False)
        return connection

    def close(self) -> None:
        """Close it, and remove its file; calling again does nothing."""
        self.socket.close()
        resource, self._resource = self._resource, None
        if resource is not None:
            resource.remove()
            self._ledger.done(resource)


@final
class Retry:
    """Has *action* done again in a while, until it is not in vain."""

    __slots__ = ("_alarm", "_pause", "_scheduler")

    def __init__(self, scheduler: Scheduler, action: Callable[[], None]) -> None:
        self._scheduler = scheduler
        self._alarm = scheduler.alarm(action)
        self._pause = FIRST_RETRY

    def later(self) -> None:
        """Try once more after a pause; the next one will be longer."""
        self._alarm.set(self._scheduler.now + self._pause)
        self._pause = min(2 * self._pause, LAST_RETRY)

    def begin_anew(self) -> None:
        """Let the next pause be the shortest: there was a peer."""
        self._pause = FIRST_RETRY

    def cancel(self) -> None:
        """Try no more."""
        self._alarm.set(None)


def remove_stale(path: str, kind: socket.SocketKind) -> None:
    """Remove a socket that nobody has open any more; raise OSError where something else is in the way."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "there is a file of that name")
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.setblocking(False)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except BlockingIOError:
                pass  # somebody listens, and does not keep up
