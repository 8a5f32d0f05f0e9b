"""The part of a guest's TCP socket that never waits: what the kernel does behind a non-blocking socket.

Every call does its work or raises: BlockingIOError if it had to wait, else the error that Linux gives. ``on_change`` is
called from timeline events whenever ``is_readable`` or ``is_writable`` may have changed.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Final, final

from vnet.errors import UsageError
from vnet.guests.socket_address import Address, SocketAddress, is_wildcard, needs_scope, written
from vnet.guests.socket_errors import errno_of, os_error
from vnet.guests.socket_options import (
    KEEP_ALIVE,
    KEEP_IDLE,
    NO_DELAY,
    NO_PORT,
    REUSE_ADDRESS,
    Option,
    SocketOptions,
)
from vnet.guests.socket_table import ANY6, Claim, SocketTable
from vnet.stack.interface import Interface
from vnet.stack.tcp import TcpConnection, TcpListener
from vnet.units import SECOND

MAX_BACKLOG: Final = 4096
"""Connections that may wait to be accepted, whatever ``listen`` asks for: Linux's SOMAXCONN."""

_RECEIVE_FLAGS: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL | socket.MSG_MORE


@final
class StreamSocket:
    """One TCP socket: unconnected, listening, connecting or connected."""

    def __init__(self, table: SocketTable, on_change: Callable[[], None], options: SocketOptions) -> None:
        self.options = options
        self._table = table
        self._tcp = table.host.tcp
        self._on_change = on_change
        self._claim: Claim | None = None
        self._listener: TcpListener | None = None
        self._waiting: TcpConnection | None = None  # taken from the listener to see whether there is one
        self._connection: TcpConnection | None = None
        self._was_established = False
        self._was_told = False  # of the connection's error
        self._ahead = bytearray()  # read with MSG_PEEK
        self._shut_read = self._shut_write = False

    def adopt(self, connection: TcpConnection) -> None:
        """Be the socket of an accepted connection."""
        self._was_established = True
        self._use(connection)

    # -- what there is

    @property
    def is_connecting(self) -> bool:
        """Whether ``connect`` has not come to an end yet."""
        connection = self._connection
        if connection is None or self._was_established:
            return False
        self._was_established = connection.is_established
        return not self._was_established and connection.error is None

    @property
    def is_listening(self) -> bool:
        """Whether it takes connections."""
        return self._listener is not None

    @property
    def is_bound(self) -> bool:
        """Whether this end's address was chosen."""
        return self._claim is not None or self._connection is not None

    @property
    def is_readable(self) -> bool:
        """Whether ``receive`` or ``accept`` would not block."""
        if self._listener is not None:
            return self._peek() is not None
        connection = self._connection
        if connection is None:
            return True
        if self.is_connecting:
            return False
        ends = connection.at_end or self._shut_read or connection.error is not None
        return bool(self._ahead or connection.available or ends)

    @property
    def is_writable(self) -> bool:
        """Whether ``send`` takes a fair part: a third of the buffer has to be free, as in Linux.

        Otherwise a program would be woken for every segment that was acknowledged.
        """
        connection = self._connection
        if connection is None:
            return self._listener is None
        if self.is_connecting:
            return False
        return self._shut_write or connection.error is not None or 2 * connection.room >= max(connection.unsent, 1)

    def local(self) -> Address:
        """Return this end's address; that of all, and port 0, where none was chosen."""
        connection = self._connection
        if connection is not None:
            return self._written(*connection.local, connection.scope)
        return self._written(*((self._claim.address, self._claim.port) if self._claim is not None else (None, 0)))

    def remote(self) -> Address:
        """Return the peer's address; raise OSError (ENOTCONN)."""
        connection = self._connection
        if connection is None or self.is_connecting or connection.error is not None:
            raise os_error(errno.ENOTCONN)
        return self.peer_of(connection)

    def peer_of(self, connection: TcpConnection) -> Address:
        """Write the address of a connection's peer."""
        return self._written(*connection.remote, connection.scope)

    def _written(self, packed: bytes | None, port: int, interface: Interface | None = None) -> Address:
        return written(self.options.family, packed, port, self._table.scope_of(packed, interface))

    def take_error(self) -> int:
        """Return the errno of a failure that nobody was told of yet, or 0; a failed ``connect`` may be tried again."""
        connection = self._connection
        if connection is None or connection.error is None or self._was_told:
            return 0
        number = errno_of(connection.error)
        self._was_told = True
        if not self._was_established:
            self._drop_connection()
        return number

    # -- unconnected

    def bind(self, address: SocketAddress) -> None:
        """Choose this end's address; port 0 picks a free one, unless that is left to ``connect``."""
        if self._claim is not None or self._connection is not None or self._listener is not None:
            raise os_error(errno.EINVAL)
        if len(address.packed) == 4 and self.options.is_only_ipv6:
            raise os_error(errno.EINVAL)
        chosen, port = self._table.check_local(address), address.port
        reuse = bool(self.options[REUSE_ADDRESS])
        if port or not self.options[NO_PORT]:
            port = self._try_listening(chosen, port)
        claim = Claim(socket.IPPROTO_TCP, chosen, port, reuse, self._is_for_both(chosen))
        if port:
            self._table.claim(claim)
        self._claim = claim

    def _try_listening(self, address: bytes | None, port: int) -> int:
        """Find out whether a port is free, or which one is: by taking it, and giving it back before anybody can call."""
        try:
            listener = self._tcp.listen(port, address, both=self._is_for_both(address))
        except UsageError:
            raise os_error(errno.EADDRINUSE) from None
        listener.close()
        return listener.port

    def listen(self, backlog: int) -> None:
        """Take connections, at a port that is picked if none was bound."""
        if self._connection is not None:
            raise os_error(errno.EINVAL)
        if self._listener is not None:
            return
        everywhere = ANY6 if self.options.family == socket.AF_INET6 else None
        address, port = (self._claim.address, self._claim.port) if self._claim is not None else (everywhere, 0)
        both = self._is_for_both(address)
        try:
            listener = self._tcp.listen(port, address, backlog=min(max(backlog, 1), MAX_BACKLOG), both=both)
        except UsageError:
            raise os_error(errno.EADDRINUSE) from None
        if not port:
            self._claim = Claim(socket.IPPROTO_TCP, address, listener.port, bool(self.options[REUSE_ADDRESS]), both)
            self._table.claim(self._claim)
        self._listener = listener
        listener.on_ready = self._on_change

    def accept(self) -> TcpConnection:
        """Take the next connection."""
        if self._listener is None:
            raise os_error(errno.EINVAL)
        connection = self._peek()
        if connection is None:
            raise BlockingIOError
        self._waiting = None
        return connection

    def _peek(self) -> TcpConnection | None:
        if self._waiting is None and self._listener is not None:
            self._waiting = self._listener.accept()
        return self._waiting

    def connect(self, address: SocketAddress) -> None:
        """Begin to connect: always raises, BlockingIOError if all is well."""
        if self._listener is not None:
            raise os_error(errno.EISCONN)
        if self._connection is not None:
            raise os_error(errno.EALREADY if self.is_connecting else errno.EISCONN)
        source, port = (self._claim.address, self._claim.port) if self._claim is not None else (None, 0)
        remote, family = address.packed, self.options.family
        interface = self._table.scoped(family, address, source, only_ipv6=self.options.is_only_ipv6)
        if needs_scope(remote) and interface is None and remote[0] != 0xFF:
            raise os_error(errno.EINVAL)
        if is_wildcard(source):
            source = None
        elif len(remote) == 4 and source is not None and source[0] == 127 and not self._table.host.is_local(remote):
            raise os_error(errno.EINVAL)
        if not address.port:
            raise os_error(errno.ECONNREFUSED)  # nobody can listen there
        try:
            connection = self._tcp.connect(remote, address.port, source=source, source_port=port, interface=interface)
        except UsageError:
            raise os_error(errno.EADDRNOTAVAIL) from None
        self._was_established = self._was_told = False
        self._use(connection)
        raise BlockingIOError

    # -- connected

    def receive(self, limit: int, flags: int) -> tuple[bytes, Address | None]:
        """Take up to *limit* octets; none at the end of the stream. There is no address: the peer's is known."""
        connection = self._connection
        if flags & ~_RECEIVE_FLAGS:
            raise os_error(errno.EOPNOTSUPP)
        if connection is None:
            raise os_error(errno.ENOTCONN)
        if self.is_connecting:
            raise BlockingIOError
        return self._take(connection, limit, peek=bool(flags & socket.MSG_PEEK)), None

    def _take(self, connection: TcpConnection, limit: int, *, peek: bool) -> bytes:
        if limit == 0:
            return b""
        if self._ahead or (peek and connection.available):
            missing = limit - len(self._ahead)
            if missing > 0 and connection.available:
                self._ahead += connection.receive(missing)
            data = bytes(self._ahead[:limit])
            if not peek:
                del self._ahead[:limit]
            return data
        if connection.available:
            return connection.receive(limit)
        if connection.at_end or self._shut_read:
            return b""
        if connection.error is None:
            raise BlockingIOError
        number = self.take_error()
        if number:
            raise os_error(number)
        return b""  # told once; from then on it is the end

    def send(self, data: memoryview, flags: int) -> int:
        """Queue as much as there is room for; return how much that was."""
        if flags & ~_SEND_FLAGS:
            raise os_error(errno.EOPNOTSUPP)
        if self.is_connecting:
            raise BlockingIOError
        number = self.take_error()
        if number:
            raise os_error(number)
        connection = self._connection
        if connection is None or self._shut_write or connection.error is not None:
            raise os_error(errno.EPIPE)
        if not data:
            return 0
        room = connection.room
        taken = connection.send(bytes(data[:room])) if room else 0
        if not taken:
            raise BlockingIOError
        return taken

    def send_to(self, data: memoryview, flags: int, address: SocketAddress) -> int:
        """Send; the address of a stream is that of its peer."""
        if self._connection is None:
            raise os_error(errno.EPIPE)
        return self.send(data, flags)

    def shutdown(self, how: int) -> None:
        """End one direction or both."""
        connection = self._connection
        if how not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            raise os_error(errno.EINVAL)
        if connection is None or self.is_connecting or connection.error is not None:
            raise os_error(errno.ENOTCONN)
        if how != socket.SHUT_WR:
            self._shut_read = True
        if how != socket.SHUT_RD and not self._shut_write:
            self._shut_write = True
            connection.shutdown()
        self._on_change()

    def close(self) -> None:
        """End everything; what is queued is still sent."""
        if self._listener is not None:
            self._listener.on_ready = None
            if self._waiting is not None:
                self._waiting.abort()
            self._listener.close()
            self._listener = None
        connection = self._connection
        if connection is not None:
            connection.on_change = None
            if connection.error is None:
                if self.options.linger == 0 or self._ahead:
                    connection.abort()
                else:
                    connection.close()
        self._drop_connection()
        self._table.release(self._claim)

    def option_changed(self, option: Option) -> None:
        """Apply an option that was set."""
        if self._connection is not None and option in (NO_DELAY, KEEP_ALIVE, KEEP_IDLE):
            self._apply(self._connection)

    def _is_for_both(self, address: bytes | None) -> bool:
        return self.options.is_both and address == ANY6

    def _use(self, connection: TcpConnection) -> None:
        self._connection = connection
        self._apply(connection)
        connection.on_change = self._on_change

    def _apply(self, connection: TcpConnection) -> None:
        connection.no_delay = bool(self.options[NO_DELAY])
        connection.keep_alive = self.options[KEEP_IDLE] * SECOND if self.options[KEEP_ALIVE] else None

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.on_change = None
            self._connection = None
