"""Listeners: handshakes under way, and connections that nobody took yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from vnet.stack.tcp.connection import TcpConnection
from vnet.stack.transport import overlap
from vnet.units import SECOND, Duration, Instant

if TYPE_CHECKING:
    from vnet.stack.tcp.tables import TcpTable

HALF_OPEN_GRACE: Final[Duration] = 1 * SECOND
"""How long a handshake is safe from giving way to another when the backlog is full."""


@final
class TcpListener:
    """Takes connections to a port of one address, or of all: None stands for all of IPv4, ``::`` for all of IPv6, and with
    *both* for all of either. Made by ``TcpTable.listen``.

    ``backlog`` bounds the handshakes under way and the connections not taken together: when it is full, the oldest handshake
    of more than a second gives way, else the SYN is dropped and will come again. ``on_ready`` is called when ``accept`` has
    something.
    """

    __slots__ = ("_pending", "_ready", "_table", "address", "backlog", "both", "is_closed", "on_ready", "port")

    def __init__(self, table: TcpTable, port: int, address: bytes | None, backlog: int, *, both: bool = False) -> None:
        self._table = table
        self.port = port
        self.address = address
        self.both = both
        self.backlog = max(1, backlog)
        self.on_ready: Callable[[], None] | None = None
        self.is_closed = False
        self._pending: dict[bytes, tuple[Instant, TcpConnection]] = {}
        self._ready: deque[TcpConnection] = deque()

    def accept(self) -> TcpConnection | None:
        """Take the next connection, or None; it may have failed since."""
        return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        """Listen no more; connections that nobody took are reset."""
        if not self.is_closed:
            self.is_closed = True
            self._table.unlisten(self)
            for connection in [*(pending for _, pending in self._pending.values()), *self._ready]:
                connection.abort()
            self._ready.clear()

    # For the table and its connections

    def takes(self, address: bytes) -> bool:
        """Tell whether connections to this address are for this listener."""
        return overlap(self.address, self.both, address, False)

    def admit(self, connection: TcpConnection, now: Instant) -> bool:
        """Begin a handshake if there is room.

        Its age counts from here: a peer that goes on repeating its SYN must not keep the whole backlog from giving way.
        """
        if len(self._pending) + len(self._ready) >= self.backlog:
            admitted_at, oldest = next(iter(self._pending.values()), (now, None))
            if oldest is None or now - admitted_at < HALF_OPEN_GRACE:
                return False
            oldest.fail("timed out")
        self._pending[connection.key] = now, connection
        return True

    def established(self, connection: TcpConnection) -> None:
        """Offer a connection to the user."""
        if self._pending.pop(connection.key, None) is not None:
            self._ready.append(connection)
            if self.on_ready is not None:
                self.on_ready()

    def forget(self, connection: TcpConnection) -> None:
        """Give up a handshake."""
        if self._pending.get(connection.key, (0, None))[1] is connection:
            del self._pending[connection.key]
