"""Frames over a stream socket, as QEMU's ``-netdev stream`` and ``-netdev socket`` speak: four octets of length, big-endian,
and the frame.

``FrameStream`` is one connection, ``StreamAdapter`` the way out that has one at a time: it listens, or dials, again and
again. Super-frames are cut up before, since the framing has no place for a virtio-net header.

What one wake-up brings is written in one go: that halves the system calls here, and the wake-ups of QEMU. A peer
that does not read (a paused VM) fills a bounded queue; what does not fit is dropped, and the fabric never waits.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Callable
from struct import Struct
from typing import Final, final

from vnet.adapters.base import AdapterContext, Poller, cut_up
from vnet.adapters.one_peer import OnePeer
from vnet.adapters.sockets import MAX_FRAME, QUEUE_OCTETS
from vnet.ports import NO_OFFLOAD, Port, ReportLimit, Scheduler
from vnet.topology.adapter_kinds.sockets import StreamSpec
from vnet.wire.ethernet import MIN_FRAME

READ_OCTETS: Final = 64 * 1024
"""Read at a time. From 128 KiB on malloc(3) fetches fresh pages for every read, which makes it four times as slow."""
KEEPALIVE_SECONDS: Final = 10

_LENGTH: Final = Struct(">I")


@final
class FrameStream:
    """One connection with a peer, from ``start`` until ``close``; *on_end* is told why it ended by itself.

    ``drops`` counts what the peer sent that is no frame, and what did not fit into the queue.
    """

    __slots__ = (
        "_drops", "_fd", "_is_flushing", "_on_end", "_out", "_poller", "_port", "_queue", "_queued", "_rest", "_scheduler",
        "_socket",
    )  # fmt: skip

    def __init__(
        self,
        connection: socket.socket,
        poller: Poller,
        scheduler: Scheduler,
        port: Port,
        drops: Counter[str],
        on_end: Callable[[str], None],
    ) -> None:
        self._socket = connection
        self._fd = connection.fileno()
        self._poller = poller
        self._scheduler = scheduler
        self._port = port
        self._drops = drops
        self._on_end = on_end
        self._rest = b""
        self._queue: list[bytes] = []
        self._out = memoryview(b"")
        self._queued = 0
        self._is_flushing = False

    @property
    def queued(self) -> int:
        """Octets that wait for the peer."""
        return self._queued

    def start(self) -> None:
        """Begin to read."""
        self._poller.register(self._fd, self.on_readable)

    def close(self) -> None:
        """Close the connection; calling again does nothing."""
        if self._fd >= 0:
            self._poller.unregister(self._fd)
            self._fd = -1
            self._socket.close()
            self._rest = b""
            self._queue.clear()
            self._out = memoryview(b"")

    def _end(self, reason: str) -> None:
        if self._fd >= 0:
            self.close()
            self._on_end(reason)

    def on_readable(self) -> None:
        """Pass on what the peer has sent, one read of it."""
        try:
            data = self._socket.recv(READ_OCTETS)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error.strerror or "error")
            return
        if not data:
            self._end("closed by the peer")
            return
        if self._rest:
            data = self._rest + data
        at, available = 0, len(data)
        send, plain, length_at = self._port.send, NO_OFFLOAD, _LENGTH.unpack_from
        while available - at >= 4:
            (octets,) = length_at(data, at)
            if octets > MAX_FRAME:
                self._end(f"a frame of {octets} octets")
                return
            end = at + 4 + octets
            if end > available:
                break
            if octets >= MIN_FRAME:
                send(data[at + 4 : end], plain)
            else:
                self._drops["runt"] += 1
            at = end
        if self._fd >= 0:
            self._rest = data[at:]

    def send(self, frame: bytes) -> None:
        """Queue a frame, which goes out at the end of this instant; drop it if too much waits already."""
        octets = len(frame)
        queued = self._queued + 4 + octets
        if queued > QUEUE_OCTETS:
            self._drops["queue-full"] += 1
            return
        self._queued = queued
        self._queue.append(_LENGTH.pack(octets))
        self._queue.append(frame)
        if not self._is_flushing:
            self._is_flushing = True
            self._scheduler.soon(self._flush)

    def _flush(self) -> None:
        """Write what waits, or as much of it as the socket takes."""
        if self._fd < 0:
            return
        while self._queued:
            if not self._out:
                self._out = memoryview(b"".join(self._queue))
                self._queue.clear()
            try:
                sent = self._socket.send(self._out)
            except BlockingIOError:
                self._poller.wants_write(self._fd, self._on_writable)
                return
            except OSError as error:
                self._end(error.strerror or "error")
                return
            self._out = self._out[sent:]
            self._queued -= sent
        self._is_flushing = False

    def _on_writable(self) -> None:
        self._poller.wants_write(self._fd, None)
        self._flush()


@final
class StreamAdapter:
    """A way out by a stream socket; raise HostError if it cannot listen.

    One peer at a time: who comes while another is there is turned away, and may come again.
    """

    def __init__(self, spec: StreamSpec, context: AdapterContext) -> None:
        self.drops: Counter[str] = Counter()
        self.on_change: Callable[[bool], None] | None = None
        """Told when a peer has come or gone."""
        self._context = context
        self._peer = OnePeer(
            spec.place, listens=spec.listens, context=context, drops=self.drops, on_connected=self._connected
        )
        self.place = self._peer.place
        self._stream: FrameStream | None = None
        self._limit = ReportLimit(context.report)
        context.port.set_handler(self._deliver)

    @property
    def is_connected(self) -> bool:
        """Tell whether a peer is there."""
        return self._peer.is_connected

    @property
    def problem(self) -> str:
        """Nothing passes without a peer."""
        peer = self._peer
        if peer.is_connected or not peer.is_open:
            return ""
        if peer.listens:
            return f"nobody has connected to {self.place}"
        return f"{self.place} cannot be reached" + (f" ({peer.trouble})" if peer.trouble else "")

    def start(self) -> None:
        """Begin to take a peer's connection, or dial."""
        self._peer.start()

    def stop(self) -> None:
        """Close everything; calling again does nothing."""
        self._peer.stop()
        self._peer.close()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close(self) -> None:
        """There is nothing left to give back."""

    def details(self) -> dict[str, object]:
        """Tell the place, and whether a peer is there."""
        return {
            "socket": str(self.place), "connected": self.is_connected,
            "queued_octets": self._stream.queued if self._stream is not None else 0,
        }  # fmt: skip

    def _deliver(self, frame: bytes, offload: bytes) -> None:
        stream = self._stream
        if stream is None:
            self.drops["not-connected"] += 1
        elif offload == NO_OFFLOAD:
            stream.send(frame)
        else:
            for each in cut_up(frame, offload, self.drops):
                stream.send(each)

    def _connected(self, connection: socket.socket) -> None:
        if not self.place.path:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a peer whose machine died makes room
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
        context = self._context
        self._stream = FrameStream(connection, context.poller, context.scheduler, context.port, self.drops, self._ended)
        self._stream.start()
        self._limit.report(context.scheduler.now, "peer-connected", socket=str(self.place))
        if self.on_change is not None:
            self.on_change(True)

    def _ended(self, reason: str) -> None:
        self._stream = None
        self._limit.report(self._context.scheduler.now, "peer-gone", socket=str(self.place), reason=reason)
        self._peer.lost()
        if self.on_change is not None:
            self.on_change(False)
