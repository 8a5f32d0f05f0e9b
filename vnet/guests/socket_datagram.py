"""The part of a guest's UDP socket that never waits; its shape is that of ``socket_stream``."""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, final

from vnet.errors import UsageError
from vnet.guests.socket_address import Address, SocketAddress, needs_scope, written
from vnet.guests.socket_errors import errno_of, errno_of_icmp, os_error
from vnet.guests.socket_groups import SocketGroups
from vnet.guests.socket_options import (
    BROADCAST,
    GROUP_HOPS,
    GROUP_INTERFACE6,
    GROUP_LOOP,
    GROUP_LOOP6,
    GROUP_TTL,
    HOPS,
    REUSE_ADDRESS,
    TOS,
    TRAFFIC_CLASS,
    TTL,
    Option,
    SocketOptions,
)
from vnet.guests.socket_table import ANY, ANY6, Claim, SocketTable, bound_address
from vnet.guests.sockets import QUEUE
from vnet.stack.interface import Interface
from vnet.stack.ipv6.udp import MAX_PAYLOAD as MAX_PAYLOAD6
from vnet.stack.transport import IcmpError, TransportAddress
from vnet.stack.udp import UdpSocket
from vnet.wire import ipv4, udp

if TYPE_CHECKING:
    from typing_extensions import Buffer

_RECEIVE_FLAGS: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL | socket.MSG_TRUNC
_SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_APPLIED: Final[Mapping[Option, str]] = {
    TTL: "ttl", TOS: "tos", GROUP_TTL: "group_ttl", GROUP_LOOP: "group_loop", HOPS: "hop_limit",
    TRAFFIC_CLASS: "traffic_class", GROUP_HOPS: "group_hop_limit", GROUP_LOOP6: "group_loop6",
}  # fmt: skip
"""Options and what they are to the stack's socket."""


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
        self._peer: SocketAddress | None = None
        self._by: Interface | None = None  # the link of a link-local peer
        self._waiting: deque[tuple[bytes, TransportAddress, Interface | None]] = deque()
        self._error = 0
        self._groups = SocketGroups(table.host)
        self._shut_read = self._shut_write = False

    @property
    def is_bound(self) -> bool:
        """Whether this end's address was chosen."""
        return self._socket is not None

    @property
    def is_readable(self) -> bool:
        """Whether ``receive`` would not block."""
        return bool(self._waiting or self._error or self._shut_read)

    def local(self) -> Address:
        """Return this end's address; that of a connected socket is the one its datagrams come from."""
        if self._socket is None or self._claim is None:
            return self._written(None, 0)
        address = self._claim.address
        if address in (None, ANY6) and self._peer is not None:
            address = self._table.source_for(self._peer.packed, self._by)
        return self._written(address, self._socket.port, self._by)

    def remote(self) -> Address:
        """Return the peer's address; raise OSError (ENOTCONN)."""
        if self._peer is None:
            raise os_error(errno.ENOTCONN)
        return self._written(self._peer.packed, self._peer.port, self._by)

    def _written(self, packed: bytes | None, port: int, interface: Interface | None = None) -> Address:
        return written(self.options.family, packed, port, self._table.scope_of(packed, interface))

    def take_error(self) -> int:
        """Return the errno of an ICMP error that nobody was told of yet, or 0."""
        number, self._error = self._error, 0
        return number

    def bind(self, address: SocketAddress) -> None:
        """Choose this end's address; port 0 picks a free one."""
        if self._socket is not None:
            raise os_error(errno.EINVAL)
        if len(address.packed) == 4 and self.options.is_only_ipv6:
            raise os_error(errno.EINVAL)
        chosen, port = self._table.check_local(address, groups=True), address.port
        both = self.options.is_both and chosen == ANY6
        claim = Claim(socket.IPPROTO_UDP, chosen, port, bool(self.options[REUSE_ADDRESS]), both)
        if port:
            self._table.claim(claim)
        try:
            bound = self._table.host.udp_bind(
                port, bound_address(chosen, both=both), on_datagram=self._arrived, shared=claim.reuse, both=both
            )
        except UsageError:
            self._table.release(claim)
            raise os_error(errno.EADDRINUSE) from None
        if not port:
            claim.port = bound.port
            self._table.claim(claim)
        bound.on_error = self._failed
        self._socket, self._claim = bound, claim
        for option in _APPLIED:
            self.option_changed(option)
        bound.group_interface = self._groups.send_by

    def listen(self, backlog: int) -> None:
        """Refuse: only streams listen."""
        raise os_error(errno.EOPNOTSUPP)

    def connect(self, address: SocketAddress) -> None:
        """Talk to one peer from now on, and be told of errors."""
        interface = self._check_destination(address)
        if needs_scope(address.packed) and interface is None:
            if address.packed[0] != 0xFF or self._groups.send_by is None:
                raise os_error(errno.EINVAL)
            interface = self._groups.send_by
        if self._table.source_for(address.packed, interface) is None:
            raise os_error(errno.ENETUNREACH)
        self._bound()
        self._peer, self._by = address, interface

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
        payload, source, by = self._waiting[0] if flags & socket.MSG_PEEK else self._waiting.popleft()
        return payload[:limit], self._written(*source, by)

    def send(self, data: memoryview, flags: int) -> int:
        """Send a datagram to the peer."""
        if self._peer is None:
            raise os_error(errno.EDESTADDRREQ)
        return self.send_to(data, flags, self._peer)

    def send_to(self, data: memoryview, flags: int, address: SocketAddress) -> int:
        """Send a datagram."""
        if flags & ~_SEND_FLAGS:
            raise os_error(errno.EOPNOTSUPP)
        number = self.take_error()
        if number:
            raise os_error(number)
        if self._shut_write:
            raise os_error(errno.EPIPE)
        if not address.port:
            raise os_error(errno.EINVAL)
        if len(data) > (udp.MAX_PAYLOAD if len(address.packed) == 4 else MAX_PAYLOAD6):
            raise os_error(errno.EMSGSIZE)
        interface = self._by if address is self._peer else self._check_destination(address)
        bound = self._bound()
        if interface is None:
            problem = bound.send_to(bytes(data), address[:2])
        else:
            problem = bound.send_by(interface, bytes(data), address[:2])
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
        attribute = _APPLIED.get(option)
        if self._socket is not None and attribute is not None and option in self.options:
            setattr(self._socket, attribute, self.options[option])

    def set_group_option(self, option: Option, value: int | Buffer) -> None:
        """Listen to a group or no more, or choose the interface that groups are sent to by: see ``SocketGroups.set``."""
        self._groups.set(option, value)
        if option == GROUP_INTERFACE6:
            self.options.set(option, value)
        if self._socket is not None:
            self._socket.group_interface = self._groups.send_by

    def _bound(self) -> UdpSocket:
        if self._socket is None:
            self.bind(SocketAddress(ANY6 if self.options.family == socket.AF_INET6 else ANY, 0))
        assert self._socket is not None, "bound just now"
        return self._socket

    def _check_destination(self, address: SocketAddress) -> Interface | None:
        """Raise OSError for what may not be sent to; return the interface that the address names."""
        host, packed = self._table.host, address.packed
        own = self._claim.address if self._claim is not None else None
        everything = self._claim is None or (own is None and self.options.family == socket.AF_INET)
        named = self._table.scoped(
            self.options.family, address, None if everything else own or ANY, only_ipv6=self.options.is_only_ipv6
        )
        if len(packed) == 16:
            return named
        is_broadcast = packed == ipv4.LIMITED_BROADCAST or (not ipv4.is_multicast(packed) and host.is_group(packed))
        if is_broadcast and not self.options[BROADCAST]:
            raise os_error(errno.EACCES)
        if own is not None and own[0] == 127 and not host.is_local(packed):
            raise os_error(errno.EINVAL)
        return None

    def _arrived(self, payload: bytes, source: TransportAddress) -> None:
        by = self._socket.arrived_by if self._socket is not None and needs_scope(source[0]) else None
        if self._peer is not None and (source != self._peer[:2] or by is not self._by):
            self._table.host.drop("udp-peer")
        elif len(self._waiting) >= QUEUE:
            self._table.host.drop("udp-queue-full")
        elif not self._shut_read:
            self._waiting.append((payload, source, by))
            self._on_change()

    def _failed(self, destination: TransportAddress, error: IcmpError) -> None:
        number = errno_of_icmp(error)
        if number and self._peer is not None and destination == self._peer[:2]:
            self._error = number
            self._on_change()
