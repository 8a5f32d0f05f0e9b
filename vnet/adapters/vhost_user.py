"""The back-end of a vhost-user network device: a VM's frames are taken from, and put into, its own memory.

The VM program is the front-end, and may listen or dial, as may we. One front-end at a time: who comes while another is
there is turned away, and may come again. If it goes, by whatever kind of death, all that it shared is given back, and
the next may come; a listening lab is dialled again (QEMU: ``reconnect``), a listening VM program we dial again.

What a message says is in ``vhost_session``, how frames pass in ``vhost_rings``, and what a guest may do in ``virtqueue``.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Callable
from typing import Final, final

from vnet.adapters import _linux
from vnet.adapters.base import AdapterContext
from vnet.adapters.sockets import BoundSocket, placed
from vnet.adapters.vhost_rings import RECEIVE, TRANSMIT
from vnet.adapters.vhost_session import Session
from vnet.errors import HostError
from vnet.ports import ReportLimit
from vnet.topology.adapter_kinds.vhost_user import VhostUserSpec
from vnet.units import MILLISECOND, SECOND, Duration

FIRST_RETRY: Final[Duration] = 20 * MILLISECOND
LAST_RETRY: Final[Duration] = 1 * SECOND
"""How long after a vain attempt to dial the next one follows: twice as long each time, up to this."""


@final
class VhostUserAdapter:
    """A way out into a VM's memory; raise HostError if it cannot listen."""

    def __init__(self, spec: VhostUserSpec, context: AdapterContext) -> None:
        if not _linux.is_little_endian():
            raise HostError("vhost-user needs a little-endian machine: virtio-net headers are not converted")
        self.place = placed(spec.place, context.directory)
        self.drops: Counter[str] = Counter()
        self.on_change: Callable[[bool], None] | None = None
        """Told when a front-end has come or gone."""
        self._context = context
        self._poller = context.poller
        self._listener = BoundSocket(self.place, socket.SOCK_STREAM, context.ledger) if spec.listens else None
        self._session: Session | None = None
        self._retry = context.scheduler.alarm(self._dial)
        self._pause = FIRST_RETRY
        self._limit = ReportLimit(context.report)
        self._is_started = False
        context.port.set_handler(self._deliver)

    @property
    def is_connected(self) -> bool:
        """Tell whether a front-end is there."""
        return self._session is not None

    @property
    def problem(self) -> str:
        """Nothing passes before there is a front-end and its guest's driver is ready."""
        session = self._session
        if session is None:
            return f"nobody has connected to {self.place}" if self._listener else f"{self.place} cannot be reached"
        if session.device.broken:
            return session.device.broken
        return "" if session.device.is_running else "the guest has no driver at work"

    def start(self) -> None:
        """Begin to take a front-end's connection, or dial."""
        self._is_started = True
        if self._listener is not None:
            self._poller.register(self._listener.socket.fileno(), self._accept)
        else:
            self._dial()

    def stop(self) -> None:
        """Close the connection, and give the guest's memory back."""
        was_started, self._is_started = self._is_started, False
        self._retry.set(None)
        if was_started and self._listener is not None:
            self._poller.unregister(self._listener.socket.fileno())
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def close(self) -> None:
        """Remove the socket."""
        if self._listener is not None:
            self._listener.close()

    def details(self) -> dict[str, object]:
        """Tell the socket, and the state of the front-end."""
        found: dict[str, object] = {"socket": str(self.place), "connected": self.is_connected}
        if self._session is not None:
            rings = self._session.device.rings
            found["features"] = f"{self._session.features:#x}"
            found["rings"] = {"receive": rings[RECEIVE].size, "transmit": rings[TRANSMIT].size}
        return found

    def _deliver(self, frame: bytes, offload: bytes) -> None:
        session = self._session
        if session is None:
            self.drops["not-connected"] += 1
        else:
            session.device.deliver(frame, offload)

    def _accept(self) -> None:
        assert self._listener is not None, "it is registered"
        try:
            connection, _ = self._listener.socket.accept()
        except OSError:
            return  # gone again, or no descriptors left: whoever waits is still there the next time
        if self._session is not None:
            connection.close()
            self.drops["turned-away"] += 1
        else:
            self._connected(connection)

    def _dial(self) -> None:
        dialling = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        dialling.setblocking(False)
        if dialling.connect_ex(self.place.path) in (0, errno.EISCONN):
            self._connected(dialling)
        else:  # a Unix socket is connected at once or not at all: nobody listens, or too many wait already
            dialling.close()
            self._dial_again()

    def _dial_again(self) -> None:
        self._retry.set(self._context.scheduler.now + self._pause)
        self._pause = min(2 * self._pause, LAST_RETRY)

    def _connected(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._session = Session(connection, self._context, self.drops, self._ended, self._broken)
        self._session.start()
        self._tell("peer-connected")
        if self.on_change is not None:
            self.on_change(True)

    def _broken(self, why: str) -> None:
        self._tell("driver-broken", problem=why)

    def _ended(self, reason: str) -> None:
        session, self._session = self._session, None
        self._tell("peer-gone", reason=reason)
        if session is not None and session.features:
            self._pause = FIRST_RETRY  # it got somewhere: not one that hangs up on everybody
        if self.on_change is not None:
            self.on_change(False)
        if self._is_started and self._listener is None:
            self._dial_again()

    def _tell(self, kind: str, **fields: str) -> None:
        self._limit.report(self._context.scheduler.now, kind, socket=str(self.place), **fields)
