"""Guests' TCP connections to the outside: each ends in our stack and goes on through a host socket.

The host socket is connected first, and the guest's SYN answered when it is: so a guest sees what a program on the machine
would: refused, unreachable, or silence.
"""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from typing import Final, final

from vnet.adapters.user.dns import DNS_PORT, Resolvers
from vnet.adapters.user.outside import Outside
from vnet.adapters.user.splice import KEEP_ALIVE, Splice
from vnet.adapters.user.versions import version_of
from vnet.stack.interface import Interface
from vnet.stack.tcp.connection import TcpConnection
from vnet.stack.tcp.states import MASK, Segment
from vnet.units import MINUTE, Duration
from vnet.wire.tcp import ACK, RST, SYN

MAX_OPENING: Final = 4096
"""Host sockets that wait for their peer; SYNs beyond are dropped, and come again."""
BUFFERS: Final = 256 * 1024 * 1024
"""Octets that all connections may hold for each direction, together; each new one gets its share."""
COALESCED: Final = 8
"""Super-frames of one guest acknowledged together: each acknowledgment costs a system call, and wakes the guest."""
IDLE_LOOK: Final[Duration] = 10 * MINUTE
"""How often connections are looked through for guests that have been silent for ``KEEP_ALIVE``."""
SMALLEST_BUFFER: Final = 64 * 1024
LARGEST_BUFFER: Final = 1024 * 1024

_CONNECTING: Final = frozenset({errno.EINPROGRESS, errno.EALREADY})
_CONNECTED: Final = frozenset({0, errno.EISCONN})


@final
class _Opening:
    """A SYN that waits for what becomes of its host socket."""

    __slots__ = ("packet", "segment", "sock")

    def __init__(self, sock: socket.socket, packet: bytes, segment: Segment) -> None:
        self.sock = sock
        self.packet = packet
        self.segment = segment


@final
class TcpRelay:
    """All connections of one adapter, those that came in by forwards too."""

    def __init__(self, outside: Outside, resolvers: Resolvers) -> None:
        self._outside = outside
        self._resolvers = resolvers
        self._opening: dict[bytes, _Opening] = {}
        self._splices: dict[Splice, None] = {}
        self._looking = outside.scheduler.alarm(self._look)
        self._table = outside.host.tcp
        self._table.foreign = self._foreign
        self._table.settings.coalesced = COALESCED

    def __len__(self) -> int:
        return len(self._splices)

    @property
    def opening(self) -> int:
        """Count the connections whose far end has not answered."""
        return len(self._opening)

    def retire(self) -> None:
        """Reset everything."""
        self._table.foreign = None
        self._looking.set(None)
        for opening in self._opening.values():
            self._outside.close(opening.sock)
        self._opening.clear()
        for splice in list(self._splices):
            splice.abort()
        for connection in self._table.connections:
            connection.abort()

    def join(self, connection: TcpConnection, sock: socket.socket) -> None:
        """Pass on what the two sides send from now on."""
        self._splices[Splice(self._outside, connection, sock, self._splices.pop)] = None
        if self._looking.deadline is None:
            self._looking.set(self._outside.scheduler.now + IDLE_LOOK)

    def fit_buffers(self) -> None:
        """Let the next connection have its share of ``BUFFERS``."""
        share = max(SMALLEST_BUFFER, min(LARGEST_BUFFER, BUFFERS // (len(self._splices) + 1)))
        self._table.settings.send_buffer = self._table.settings.receive_buffer = share

    def _look(self) -> None:
        """Have those asked whether they are there who were silent for long; a timer for each would cost more."""
        now = self._outside.scheduler.now
        for splice in self._splices:
            connection = splice.connection
            if connection.keep_alive is None and now - connection.heard_at >= KEEP_ALIVE:
                connection.keep_alive = KEEP_ALIVE
        if self._splices:
            self._looking.set(now + IDLE_LOOK)

    def _foreign(self, interface: Interface, packet: bytes, key: bytes, segment: Segment) -> bool:
        """See to a segment of no connection."""
        flags = segment.flags
        opening = self._opening.get(key)
        if flags & RST:
            if opening is not None and segment.sequence == (opening.segment.sequence + 1) & MASK:  # RFC 5961, section 3
                del self._opening[key]
                self._outside.close(opening.sock)
            return True
        if flags & (SYN | ACK) != SYN:
            return False
        packet, segment = (
            packet[: version_of(packet).quote],
            segment._replace(payload=b""),
        )  # data comes again: it is not held here
        if opening is not None:
            opening.packet, opening.segment = packet, segment  # the guest may have begun anew
            return True
        outside = self._outside
        destination, port = key[len(key) // 2 - 2 : -4], key[-2] << 8 | key[-1]
        if destination in outside.own:
            if port != DNS_PORT or (target := self._resolvers.first()) is None:
                return False
        elif outside.expire(packet):
            return True
        else:
            address = outside.destinations.resolve(destination)
            if address is None or not port:
                outside.refuse(packet, "forbidden")
                return True
            target = address, port
        if len(self._opening) >= MAX_OPENING:
            outside.drops["tcp-opening-full"] += 1
            return True
        self._connect(target, packet, key, segment)
        return True

    def _connect(self, target: tuple[str, int], packet: bytes, key: bytes, segment: Segment) -> None:
        sock = self._outside.open(socket.SOCK_STREAM, family=socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
        if sock is None:
            return
        number = sock.connect_ex(target)
        if number == errno.EINPROGRESS:
            number = sock.connect_ex(target)  # what is near has answered by now: asking saves a turn of the poller
        if number in _CONNECTING:
            self._opening[key] = _Opening(sock, packet, segment)
            self._outside.poller.wants_write(sock.fileno(), partial(self._settled, key))
        else:
            self._decide(number, sock, packet, key, segment)

    def _settled(self, key: bytes) -> None:
        """The host socket knows."""
        opening = self._opening.pop(key, None)
        if opening is not None:
            sock = opening.sock
            self._outside.poller.wants_write(sock.fileno(), None)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._decide(number, sock, opening.packet, key, opening.segment)

    def _decide(self, number: int, sock: socket.socket, packet: bytes, key: bytes, segment: Segment) -> None:
        """Answer the guest as the outside answered us."""
        outside = self._outside
        if number in _CONNECTED:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.fit_buffers()
            connection = self._table.admit(key, segment)
            if connection is None:
                outside.drops["tcp-full"] += 1
                outside.reset(sock)
            else:
                self.join(connection, sock)
            return
        outside.close(sock)
        if number == errno.ECONNREFUSED:
            outside.drops["refused"] += 1
            self._table.refuse(key, segment)
        elif number in version_of(packet).codes:
            outside.refuse(packet, "unreachable", number)
        else:  # a guest hears as little as the machine did, and gives up by itself
            outside.drops[os.strerror(number).lower().replace(" ", "-")] += 1
