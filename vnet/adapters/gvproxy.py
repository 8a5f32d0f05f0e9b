"""A socket in place of gvproxy's, for VM programs that know gvproxy: vfkit, libkrun, HyperKit, BESS and others.

One VM at a time: who connects while another is there is turned away, and may come again. What goes to the VM is written at
the end of the instant; a VM that does not read fills a bounded queue, what does not fit is dropped, and nobody waits.
Super-frames are cut up before, since no framing has a place for a virtio-net header.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, final

from vnet.adapters.base import FRAMES_A_WAKE_UP, AdapterContext, cut_up
from vnet.adapters.framings import FRAMINGS, LARGEST_FRAME, VFKIT_HELLO, Deframer, Greeting
from vnet.adapters.sockets import QUEUE_OCTETS, BoundSocket, placed
from vnet.errors import WireError
from vnet.ports import NO_OFFLOAD, ReportLimit
from vnet.topology.adapter_kinds.gvproxy import GvproxySpec
from vnet.units import MILLISECOND, SECOND, Duration
from vnet.wire.ethernet import MIN_FRAME

READ_OCTETS: Final = 128 * 1024
GREETING_TIME: Final[Duration] = 10 * SECOND
"""How long a connection may take over its greeting, as it keeps others out."""
RETRY: Final[Duration] = 1 * MILLISECOND
"""When to write again to a datagram socket that is full: poll(2) looks at our own end only, and says nothing of it."""
SOCKET_OCTETS: Final = 1 << 20


@final
class Outbox:
    """What waits for a socket: packets, or with *joined* the octets of a stream; at most ``QUEUE_OCTETS``."""

    __slots__ = ("_joined", "_pieces", "octets")

    def __init__(self, joined: bool) -> None:
        self._joined = joined
        self._pieces: deque[bytes] = deque()
        self.octets = 0

    def put(self, piece: bytes) -> bool:
        """Take something more; tell whether there was room."""
        if self.octets + len(piece) > QUEUE_OCTETS:
            return False
        self._pieces.append(piece)
        self.octets += len(piece)
        return True

    def write(self, send: Callable[[bytes], int]) -> bool:
        """Write until nothing is left, or no more is taken: then return False. Raise OSError for what else may be."""
        pieces = self._pieces
        if self._joined and len(pieces) > 1:
            joined = b"".join(pieces)
            pieces.clear()
            pieces.append(joined)
        while pieces:
            try:
                written = send(pieces[0])
            except BlockingIOError:
                return False
            self.octets -= written
            piece = pieces.popleft()
            if written < len(piece):
                pieces.appendleft(piece[written:])
        return True

    def clear(self) -> None:
        """Forget what waits."""
        self._pieces.clear()
        self.octets = 0


class _Plug:
    """What all protocols share: the listening socket, and the way of a frame to the VM and from it."""

    def __init__(self, spec: GvproxySpec, context: AdapterContext) -> None:
        place = placed(spec.place, context.directory)
        framing = FRAMINGS[spec.protocol]
        self.place = place
        self.drops: Counter[str] = Counter()
        self.on_change: Callable[[bool], None] | None = None
        """Told when a VM has come or gone."""
        self.is_connected = False
        self._protocol = spec.protocol
        self._framing = framing
        self._context = context
        self._poller = context.poller
        self._outbox = Outbox(framing.length is not None)
        self._is_flushing = False
        self._limit = ReportLimit(context.report)
        self._is_started = False
        self._listener = BoundSocket(place, framing.socket_kind, context.ledger)
        self._listening = self._listener.socket
        context.port.set_handler(self._deliver)

    @property
    def problem(self) -> str:
        """Nothing passes without a VM."""
        return "" if self.is_connected else f"nobody has connected to {self.place}"

    def start(self) -> None:
        """Begin to take connections."""
        self._is_started = True
        self._poller.register(self._listening.fileno(), self._listened)

    def stop(self) -> None:
        """Stop passing frames."""
        if self._is_started:
            self._is_started = False
            self._poller.unregister(self._listening.fileno())
        self._disconnect()

    def close(self) -> None:
        """Remove the socket."""
        self._listener.close()

    def details(self) -> dict[str, object]:
        """Tell the socket, and whether a VM is there."""
        return {
            "socket": str(self.place), "protocol": self._protocol, "connected": self.is_connected,
            "queued_octets": self._outbox.octets,
        }  # fmt: skip

    def _deliver(self, frame: bytes, offload: bytes) -> None:
        if not self.is_connected:
            self.drops["not-connected"] += 1
            return
        frames = [frame] if offload == NO_OFFLOAD else cut_up(frame, offload, self.drops)
        length = self._framing.length
        for each in frames:
            if len(each) > LARGEST_FRAME:
                self.drops["oversize"] += 1
            else:
                self._put(each if length is None else length.pack(len(each)) + each)

    def _put(self, piece: bytes) -> None:
        if not self._outbox.put(piece):
            self.drops["queue-full"] += 1
        elif not self._is_flushing:
            self._is_flushing = True
            self._context.scheduler.soon(self._flush)

    def _flush(self) -> None:
        try:
            self._is_flushing = not self._outbox.write(self._send)
        except OSError as error:
            self._end(error.strerror or "error")
            return
        if self._is_flushing:
            self._flush_later()

    def _arrived(self, frame: bytes) -> None:
        if MIN_FRAME <= len(frame) <= LARGEST_FRAME:
            self._context.port.send(frame, NO_OFFLOAD)
        else:
            self.drops["malformed"] += 1

    def _connected(self) -> None:
        self.is_connected = True
        self._limit.report(self._context.scheduler.now, "peer-connected", socket=str(self.place))
        if self.on_change is not None:
            self.on_change(True)

    def _end(self, reason: str) -> None:
        was_connected = self.is_connected
        self._disconnect()
        self._limit.report(self._context.scheduler.now, "peer-gone", socket=str(self.place), reason=reason)
        if was_connected and self.on_change is not None:
            self.on_change(False)

    def _disconnect(self) -> None:
        self.is_connected = False
        self._is_flushing = False
        self._outbox.clear()

    def _listened(self) -> None:
        raise NotImplementedError

    def _send(self, octets: bytes) -> int:
        raise NotImplementedError

    def _flush_later(self) -> None:
        raise NotImplementedError


@final
class GvproxyConnections(_Plug):
    """hyperkit, stdio and bess, whose VMs connect; raise HostError if it cannot listen."""

    def __init__(self, spec: GvproxySpec, context: AdapterContext) -> None:
        super().__init__(spec, context)
        self._socket: socket.socket | None = None
        self._deframer: Deframer | None = None
        self._greeting: Greeting | None = None
        self._patience = context.scheduler.alarm(self._lose_patience)

    def _listened(self) -> None:
        connection = self._listener.accept(self.drops, has_peer=self._socket is not None)
        if connection is None:
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_OCTETS)
        self._socket = connection
        self._poller.register(connection.fileno(), self._readable)
        framing = self._framing
        self._deframer = None if framing.length is None else Deframer(framing.length)
        if framing.greets:
            self._greeting = Greeting(self._context.port.name, self._context.mtu)
            self._patience.set(self._context.scheduler.now + GREETING_TIME)
        else:
            self._connected()

    def _readable(self) -> None:
        """Read once from a stream, or a few packets."""
        try:
            for _ in range(1 if self._deframer else FRAMES_A_WAKE_UP):
                if self._socket is None:
                    return
                data = self._socket.recv(READ_OCTETS if self._deframer else LARGEST_FRAME + 1)
                if not data:
                    self._end("closed by the peer")
                    return
                self._take(data)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error.strerror or "error")
        except WireError as error:
            self.drops["bad-message"] += 1
            self._end(str(error))

    def _take(self, data: bytes) -> None:
        if self._greeting is not None:
            answer, data = self._greeting.feed(data)
            if answer:
                self._put(answer)
            if not self._greeting.is_over:
                return
            self._greeting = None
            self._patience.set(None)
            self._connected()
        for frame in [data] if self._deframer is None else self._deframer.feed(data):
            self._arrived(frame)

    def _lose_patience(self) -> None:
        self._end("no greeting in time")

    def _disconnect(self) -> None:
        super()._disconnect()
        self._patience.set(None)
        self._greeting = self._deframer = None
        connection, self._socket = self._socket, None
        if connection is not None:
            self._poller.unregister(connection.fileno())
            connection.close()

    def _send(self, octets: bytes) -> int:
        assert self._socket is not None, "there is a connection, or else nothing to write"
        return self._socket.send(octets)

    def _flush_later(self) -> None:
        if self._socket is not None:
            self._poller.wants_write(self._socket.fileno(), self._writable)

    def _writable(self) -> None:
        if self._socket is not None:
            self._poller.wants_write(self._socket.fileno(), None)
            self._flush()


@final
class GvproxyDatagrams(_Plug):
    """vfkit, whose VMs send datagrams from a socket of their own; raise HostError if there can be no socket.

    Who says something first is the VM, until its socket is gone or another one says hello.
    """

    def __init__(self, spec: GvproxySpec, context: AdapterContext) -> None:
        super().__init__(spec, context)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_OCTETS)
        self._address = ""
        self._again = context.scheduler.alarm(self._flush)

    def _listened(self) -> None:
        for _ in range(FRAMES_A_WAKE_UP):
            try:
                data, address = self._listening.recvfrom(LARGEST_FRAME + 1)
            except OSError:
                return
            if not isinstance(address, str) or not address:
                self.drops["no-address"] += 1  # there is no way back to who has none
                continue
            if address != self._address and (not self.is_connected or data == VFKIT_HELLO):
                if self.is_connected:
                    self._end("another one has come")
                self._address = address
                self._connected()
            if address != self._address:
                self.drops["turned-away"] += 1
            elif data != VFKIT_HELLO:
                self._arrived(data)

    def _disconnect(self) -> None:
        super()._disconnect()
        self._address = ""
        self._again.set(None)

    def _send(self, octets: bytes) -> int:
        try:
            return self._listening.sendto(octets, self._address)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self.drops["no-buffers"] += 1
            return len(octets)

    def _flush_later(self) -> None:
        self._again.set(self._context.scheduler.now + RETRY)
