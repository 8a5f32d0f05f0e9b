"""The back-end of a vhost-user network device: a VM's frames are taken from, and put into, its own memory.

The VM program is the front-end, and may listen or dial, as may we. One front-end at a time: who comes while another is
there is turned away, and may come again. If it goes, by whatever kind of death, all that it shared is given back, and
the next may come; a listening lab is dialled again (QEMU: ``reconnect``), a listening VM program we dial again.

What a message says is in ``vhost_session``, how frames pass in ``vhost_rings``, and what a guest may do in ``virtqueue``.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from typing import final

from vnet.adapters import _linux
from vnet.adapters.base import AdapterContext
from vnet.adapters.one_peer import OnePeer
from vnet.adapters.vhost_rings import RECEIVE, TRANSMIT
from vnet.adapters.vhost_session import Session
from vnet.errors import HostError
from vnet.ports import ReportLimit
from vnet.topology.adapter_kinds.vhost_user import VhostUserSpec


@final
class VhostUserAdapter:
    """A way out into a VM's memory; raise HostError if it cannot listen."""

    def __init__(self, spec: VhostUserSpec, context: AdapterContext) -> None:
        if not _linux.is_little_endian():
            raise HostError("vhost-user needs a little-endian machine: virtio-net headers are not converted")
        self.drops: Counter[str] = Counter()
        self.on_change: Callable[[bool], None] | None = None
        """Told when a front-end has come or gone."""
        self._context = context
        self._peer = OnePeer(
            spec.place, listens=spec.listens, context=context, drops=self.drops, on_connected=self._connected
        )
        self.place = self._peer.place
        self._session: Session | None = None
        self._limit = ReportLimit(context.report)
        context.port.set_handler(self._deliver)

    @property
    def is_connected(self) -> bool:
        """Tell whether a front-end is there."""
        return self._peer.is_connected

    @property
    def problem(self) -> str:
        """Nothing passes before there is a front-end and its guest's driver is ready."""
        session = self._session
        if session is None:
            return f"nobody has connected to {self.place}" if self._peer.listens else f"{self.place} cannot be reached"
        if session.device.broken:
            return session.device.broken
        return "" if session.device.is_running else "the guest has no driver at work"

    def start(self) -> None:
        """Begin to take a front-end's connection, or dial."""
        self._peer.start()

    def stop(self) -> None:
        """Close the connection, and give the guest's memory back."""
        self._peer.stop()
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def close(self) -> None:
        """Remove the socket."""
        self._peer.close()

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

    def _connected(self, connection: socket.socket) -> None:
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
        self._peer.lost(got_somewhere=session is not None and session.features != 0)
        if self.on_change is not None:
            self.on_change(False)

    def _tell(self, kind: str, **fields: str) -> None:
        self._limit.report(self._context.scheduler.now, kind, socket=str(self.place), **fields)
