"""The part of a guest's UDP socket that never waits; its shape is that of ``socket_stream``."""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from vnet.errors import UsageError
from vnet.guests.socket_errors import errno_of, errno_of_icmp, os_error
from vnet.guests.socket_groups import SocketGroups
from vnet.guests.socket_options import (
    BROADCAST,
    GROUP_LOOP,
    GROUP_TTL,
    REUSE_ADDRESS,
    TOS,
    TTL,
    Option,
    SocketOptions,
)
from vnet.guests.socket_table import Address, Claim, SocketTable, text
from vnet.guests.sockets import QUEUE
from vnet.stack.transport import IcmpError, TransportAddress
from vnet.stack.udp import UdpSocket
from vnet.wire import ipv4, udp

if TYPE_CHECKING:
    from typing_extensions import Buffer

_RECEIVE_FLAGS: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL | socket.MSG_TRUNC
_SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


@final
class DatagramSocket:
    """One UDP socket: unbound, bound, or connected to a peer. At most ``QUEUE`` datagrams wait in it."""

    is_connecting = False
    is_listening = False
    is_writable = True

    def __init__(self, table: SocketTable, on_change: Callable[[], None], options: SocketOptions) -> None:
        self.options = options
        self._table = table
        self._on_change = on_change
        self._claim: Claim | None = None
        self._socket: UdpSocket | None = None
        self._peer: TransportAddress | None = None
        self._waiting: deque[tuple[bytes, TransportAddress]] = deque()
        self._error = 0
        self._groups = SocketGroups(table.host)
        self._shut_read = self._shut_write = False

    @property
    def is_readable(self) -> bool:
        """Whether ``receive`` would not block."""
        return bool(self._waiting or self._error or self._shut_read)

    def local(self) -> Address:
        """Return this end's address; that of a connected socket is the one its datagrams come from."""
        if self._socket is None:
            return text(None, 0)
        address = self._socket.address
        if address is None and self._peer is not None:
            address = self._table.host.source_for(self._peer[0])
        return text(address, self._socket.port)

    def remote(self) -> Address:
        """Return the peer's address; raise OSError (ENOTCONN)."""
        if self._peer is None:
            raise os_error(errno.ENOTCONN)
        return text(*self._peer)

    def take_error(self) -> int:
        """Return the errno of an ICMP error that nobody was told of yet, or 0."""
        number, self._error = self._error, 0
        return number

    def bind(self, address: TransportAddress) -> None:
        """Choose this end's address; port 0 picks a free one."""
        if self._socket is not None:
            raise os_error(errno.EINVAL)
        chosen, port = self._table.check_local(address[0], groups=True), address[1]
        claim = Claim(socket.IPPROTO_UDP, chosen, port, bool(self.options[REUSE_ADDRESS]))
        if port:
            self._table.claim(claim)
        try:
            bound = self._table.host.udp_bind(port, chosen, on_datagram=self._arrived, shared=claim.reuse)
        except UsageError:
            self._table.release(claim)
            raise os_error(errno.EADDRINUSE) from None
        if not port:
            claim.port = bound.port
            self._table.claim(claim)
        bound.on_error = self._failed
        self._socket, self._claim = bound, claim
        for option in (TTL, TOS, GROUP_TTL, GROUP_LOOP):
            self.option_changed(option)
        bound.group_interface = self._groups.send_by

    def listen(self, backlog: int) -> None:
        """Refuse: only streams listen."""
        raise os_error(errno.EOPNOTSUPP)

    def connect(self, address: TransportAddress) -> None:
        """Talk to one peer from now on, and be told of errors."""
        self._check_destination(address[0])
        if self._table.host.source_for(address[0]) is None:
            raise os_error(errno.ENETUNREACH)
        self._bound()
        self._peer = address

    def receive(self, limit: int, flags: int) -> tuple[bytes, Address | None]:
        """Take the next datagram, of which *limit* octets are kept, and where it came from."""
        if flags & ~_RECEIVE_FLAGS:
            raise os_error(errno.EOPNOTSUPP)
        number = self.take_error()
        if number:
            raise os_error(number)
        if not self._waiting:
            if self._shut_read:
                return b"", None
            raise BlockingIOError
        payload, source = self._waiting[0] if flags & socket.MSG_PEEK else self._waiting.popleft()
        return payload[:limit], text(*source)

    def send(self, data: memoryview, flags: int) -> int:
        """Send a datagram to the peer."""
        if self._peer is None:
            raise os_error(errno.EDESTADDRREQ)
        return self.send_to(data, flags, self._peer)

    def send_to(self, data: memoryview, flags: int, address: TransportAddress) -> int:
        """Send a datagram."""
        if flags & ~_SEND_FLAGS:
            raise os_error(errno.EOPNOTSUPP)
        number = self.take_error()
        if number:
            raise os_error(number)
        if self._shut_write:
            raise os_error(errno.EPIPE)
        if not address[1]:
            raise os_error(errno.EINVAL)
        if len(data) > udp.MAX_PAYLOAD:
            raise os_error(errno.EMSGSIZE)
        self._check_destination(address[0])
        problem = self._bound().send_to(bytes(data), address)
        if problem is not None:
            raise os_error(errno_of(problem))
        return len(data)

    def shutdown(self, how: int) -> None:
        """End one direction or both, of a connected socket."""
        if how not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            raise os_error(errno.EINVAL)
        if self._peer is None:
            raise os_error(errno.ENOTCONN)
        self._shut_read |= how != socket.SHUT_WR
        self._shut_write |= how != socket.SHUT_RD
        self._on_change()

    def close(self) -> None:
        """Free the port."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._groups.close()
        self._waiting.clear()
        self._table.release(self._claim)

    def option_changed(self, option: Option) -> None:
        """Apply an option that was set."""
        if self._socket is not None and option == TTL:
            self._socket.ttl = self.options[TTL]
        if self._socket is not None and option == TOS:
            self._socket.tos = self.options[TOS]
        if self._socket is not None and option == GROUP_TTL:
            self._socket.group_ttl = self.options[GROUP_TTL]
        if self._socket is not None and option == GROUP_LOOP:
            self._socket.group_loop = bool(self.options[GROUP_LOOP])

    def set_group_option(self, option: Option, value: int | Buffer) -> None:
        """Listen to a group or no more, or choose the interface that groups are sent to by: see ``SocketGroups.set``."""
        self._groups.set(option, value)
        if self._socket is not None:
            self._socket.group_interface = self._groups.send_by

    def _bound(self) -> UdpSocket:
        if self._socket is None:
            self.bind((bytes(4), 0))
        assert self._socket is not None, "bound just now"
        return self._socket

    def _check_destination(self, address: bytes) -> None:
        host = self._table.host
        is_broadcast = address == ipv4.LIMITED_BROADCAST or (not ipv4.is_multicast(address) and host.is_group(address))
        if is_broadcast and not self.options[BROADCAST]:
            raise os_error(errno.EACCES)
        own = self._socket.address if self._socket is not None else None
        if own is not None and own[0] == 127 and not host.is_local(address):
            raise os_error(errno.EINVAL)

    def _arrived(self, payload: bytes, source: TransportAddress) -> None:
        if self._peer is not None and source != self._peer:
            self._table.host.drop("udp-peer")
        elif len(self._waiting) >= QUEUE:
            self._table.host.drop("udp-queue-full")
        elif not self._shut_read:
            self._waiting.append((payload, source))
            self._on_change()

    def _failed(self, destination: TransportAddress, error: IcmpError) -> None:
        number = errno_of_icmp(error)
        if number and destination == self._peer:
            self._error = number
            self._on_change()
