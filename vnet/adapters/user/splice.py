"""One connection of a guest, and the host socket that it goes on through: octets, ends and resets pass both ways.

What one side does not take is left with the other. Nothing is held in between, so each peer sees the window of the other.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final, final

from vnet.adapters.user.outside import Outside
from vnet.stack.tcp.connection import TcpConnection
from vnet.units import HOUR, Duration

BLOCK: Final = 64 * 1024
"""Octets read at a time: what the stack keeps without copying, and some more than a super-frame takes."""
READS_A_WAKE_UP: Final = 4
CHUNK: Final = 256 * 1024
"""Octets written at a time, at most."""
KEEP_ALIVE: Final[Duration] = 2 * HOUR
"""How long a guest may be silent before it is asked whether it is there: RFC 5382, REQ-5 wants no less."""


@final
class Splice:
    """Joins *connection* to *sock*, which is connected; *on_end* is called once, when neither is left to care for."""

    __slots__ = (
        "_connection", "_fd", "_is_full", "_is_reading", "_on_end", "_outside", "_shut", "_sock", "_taken_all",
    )  # fmt: skip

    def __init__(
        self, outside: Outside, connection: TcpConnection, sock: socket.socket, on_end: Callable[[Splice], None]
    ) -> None:
        self._outside = outside
        self._connection = connection
        self._sock: socket.socket | None = sock
        self._fd = sock.fileno()
        self._on_end = on_end
        self._is_full = False  # the socket takes no more; the poller will tell
        self._is_reading = False
        self._shut = False  # the guest's FIN went on
        self._taken_all = False  # the socket is at its end
        connection.no_delay = True  # the two ends chose their segments
        connection.on_change = self._on_change
        if connection.is_established:
            self._read(True)

    @property
    def connection(self) -> TcpConnection:
        """The guest's side."""
        return self._connection

    def abort(self) -> None:
        """Reset both sides."""
        self._connection.on_change = None
        self._connection.abort()
        self._end(reset=True)

    def _read(self, wanted: bool) -> None:
        if wanted is not self._is_reading:
            self._is_reading = wanted
            self._outside.poller.wants_read(self._fd, self._on_readable if wanted else None)

    def _on_change(self) -> None:
        """The guest's side has news."""
        connection = self._connection
        if connection.error is not None:
            self._end(reset=True)
            return
        if not connection.synchronized or self._sock is None:
            return
        if not self._is_full:
            self._push()
        if self._sock is None or self._is_reading or self._taken_all:
            return
        if connection.room >= connection.sender.capacity >> 1:
            self._read(True)

    def _push(self) -> None:
        """Give the socket what the guest sent."""
        connection, sock = self._connection, self._sock
        assert sock is not None, "it ends with the splice"
        while connection.receiver.ready:
            pieces = connection.pieces(CHUNK)
            offered = sum(map(len, pieces))
            try:
                count = sock.sendmsg(pieces)
            except BlockingIOError:
                count = 0
            except OSError:
                self.abort()
                return
            del pieces  # what is looked at cannot grow
            connection.consume(count)
            if count < offered:
                if not self._is_full:
                    self._is_full = True
                    self._outside.poller.wants_write(self._fd, self._on_writable)
                return
        if connection.at_end and not self._shut:
            self._shut = True
            if self._taken_all:
                self._end_well()
                return
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                self.abort()

    def _on_writable(self) -> None:
        if self._sock is None:
            return
        self._is_full = False
        self._push()
        if not self._is_full and self._sock is not None:
            self._outside.poller.wants_write(self._fd, None)

    def _on_readable(self) -> None:
        """The socket has something for the guest, or an error."""
        connection, sock = self._connection, self._sock
        if sock is None:
            return
        for _ in range(READS_A_WAKE_UP):
            room = connection.room
            if room < connection.sender.capacity >> 2:
                self._read(False)
                return
            try:
                data = sock.recv(min(room, BLOCK))
                is_last = len(data) < BLOCK and _is_at_end(sock, len(data))
            except BlockingIOError:
                return
            except OSError:
                self.abort()
                return
            connection.send(data, more=is_last)
            if is_last:
                self._taken_all = True
                self._read(False)
                connection.shutdown()
                if self._shut:
                    self._end_well()
                return
            if len(data) < BLOCK:
                return

    def _end_well(self) -> None:
        """Both directions are at their end."""
        self._connection.on_change = None
        self._connection.close()
        self._end(reset=False)

    def _end(self, *, reset: bool) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._connection.on_change = None
            if reset:
                self._outside.reset(sock)
            else:
                self._outside.close(sock)
            self._on_end(self)


def _is_at_end(sock: socket.socket, count: int) -> bool:
    """Tell whether nothing comes behind *count* octets: an end that is there already goes on in the same segment."""
    if not count:
        return True
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except OSError:
        return False  # nothing yet, or an error for the next read
