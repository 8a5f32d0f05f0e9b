"""Frames over a datagram socket, one in each, as QEMU's ``-netdev dgram`` speaks.

QEMU's side is a plain unconnected socket, so ours does the minding. What was learned the hard way: a Unix datagram socket
has room for ten datagrams (net.unix.max_dgram_qlen), and only a *connected* one tells by POLLOUT that the peer has room
again. A connected one, though, takes nothing from a peer that was started anew. So there are two: one bound, which
anybody who may enter the directory can send to, and one connected, for sending, which is connected anew when the peer is.
UDP has one socket, connected to the peer from the beginning, so that nobody else is heard.
"""

from __future__ import annotations

import socket
from collections import Counter, deque
from typing import final

from vnet.adapters.base import FRAMES_A_WAKE_UP, AdapterContext, cut_up
from vnet.adapters.sockets import MAX_FRAME, QUEUE_OCTETS, BoundSocket, Retry, address_of, family_of, placed
from vnet.errors import HostError
from vnet.ports import NO_OFFLOAD, ReportLimit
from vnet.topology.adapter_kinds.sockets import DgramSpec
from vnet.wire.ethernet import MIN_FRAME


@final
class DgramAdapter:
    """A way out by datagrams; raise HostError if the local place cannot be had."""

    def __init__(self, spec: DgramSpec, context: AdapterContext) -> None:
        self.local, self.remote = placed(spec.local, context.directory), placed(spec.remote, context.directory)
        self.drops: Counter[str] = Counter()
        self._context = context
        self._poller = context.poller
        self._bound = BoundSocket(self.local, socket.SOCK_DGRAM, context.ledger)
        self._out: socket.socket | None = None
        if not self.remote.path:
            try:
                self._bound.socket.connect(address_of(self.remote))
            except OSError as error:
                self._bound.close()
                raise HostError(f"cannot send to {self.remote}: {error.strerror}") from error
            self._out = self._bound.socket
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._is_waiting = False
        self._retry = Retry(context.scheduler, self._connect)
        self._limit = ReportLimit(context.report)
        self._is_open = False
        context.port.set_handler(self._deliver)

    @property
    def problem(self) -> str:
        """Nothing goes out while the peer is not there."""
        return "" if self._out is not None or not self._is_open else f"nobody is at {self.remote}"

    def start(self) -> None:
        """Begin to pass frames."""
        self._is_open = True
        self._poller.register(self._bound.socket.fileno(), self._on_readable)
        if self._out is None:
            self._connect()

    def stop(self) -> None:
        """Close everything; calling again does nothing."""
        if self._is_open:
            self._is_open = False
            self._retry.cancel()
            self._disconnect()
            self._poller.unregister(self._bound.socket.fileno())
        self._bound.close()
        self._out = None

    def close(self) -> None:
        """There is nothing left to give back."""

    def details(self) -> dict[str, object]:
        """Tell both places."""
        return {"socket": str(self.local), "peer": str(self.remote), "queued_octets": self._queued}

    # -- the peer

    def _connect(self) -> None:
        """Look whether the peer is there (again)."""
        out = socket.socket(family_of(self.remote), socket.SOCK_DGRAM)
        out.setblocking(False)
        if out.connect_ex(address_of(self.remote)):
            out.close()
            self._retry.later()
            return
        self._retry.begin_anew()
        self._out = out
        self._poller.register(out.fileno(), lambda: None)
        self._limit.report(self._context.scheduler.now, "peer-connected", socket=str(self.remote))

    def _disconnect(self) -> None:
        """Let go of a Unix peer; what waits for it is lost."""
        out = self._out
        if out is None or out is self._bound.socket:
            return
        self._out = None
        self._poller.unregister(out.fileno())
        out.close()
        self._queue.clear()
        self._queued = 0
        self._is_waiting = False

    def _peer_gone(self) -> None:
        self._disconnect()
        self._limit.report(self._context.scheduler.now, "peer-gone", socket=str(self.remote))
        self._retry.later()

    # -- frames

    def _on_readable(self) -> None:
        receive, send = self._bound.socket.recv, self._context.port.send
        for _ in range(FRAMES_A_WAKE_UP):
            try:
                frame = receive(MAX_FRAME + 1)
            except BlockingIOError:
                return
            except OSError:  # UDP: an ICMP error for something that we sent
                self.drops["refused"] += 1
                return
            if not MIN_FRAME <= len(frame) <= MAX_FRAME:
                self.drops["runt" if len(frame) < MIN_FRAME else "oversize"] += 1
            else:
                send(frame, NO_OFFLOAD)

    def _deliver(self, frame: bytes, offload: bytes) -> None:
        if self._out is None:
            self.drops["not-connected"] += 1
            return
        if offload == NO_OFFLOAD:
            self._send(frame)
            return
        for each in cut_up(frame, offload, self.drops):
            self._send(each)

    def _send(self, frame: bytes) -> None:
        if self._is_waiting:
            self._keep(frame)
            return
        if self._out is None:
            self.drops["not-connected"] += 1
            return
        if not self._write(self._out, frame):
            self._keep(frame)
            self._is_waiting = True
            self._poller.wants_write(self._out.fileno(), self._on_writable)

    def _keep(self, frame: bytes) -> None:
        if self._queued + len(frame) > QUEUE_OCTETS:
            self.drops["queue-full"] += 1
            return
        self._queue.append(frame)
        self._queued += len(frame)

    def _write(self, out: socket.socket, frame: bytes) -> bool:
        """Send a frame, or lose it to an error; return False if there is no room for it now."""
        try:
            out.send(frame)
        except BlockingIOError:
            return False
        except OSError as error:
            self.drops["refused" if isinstance(error, ConnectionError) else "unsendable"] += 1
            if isinstance(error, ConnectionError) and out is not self._bound.socket:
                self._peer_gone()
        return True

    def _on_writable(self) -> None:
        while self._queue and self._out is not None:
            if not self._write(self._out, self._queue[0]):
                return
            if self._queue:  # the peer may be gone, and with it the queue
                self._queued -= len(self._queue.popleft())
        if self._out is not None:
            self._is_waiting = False
            self._poller.wants_write(self._out.fileno(), None)
