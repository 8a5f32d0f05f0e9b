"""The multicast groups of a guest's UDP socket: ``IP_ADD_MEMBERSHIP`` and its kin (RFC 1112; Linux's ip(7))."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final, final

from vnet.errors import UsageError
from vnet.guests.socket_errors import os_error
from vnet.guests.socket_options import Option
from vnet.stack.host import Host
from vnet.stack.interface import Interface
from vnet.wire import ipv4

if TYPE_CHECKING:
    from typing_extensions import Buffer

JOIN: Final[Option] = (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP)
LEAVE: Final[Option] = (socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP)
SEND_BY: Final[Option] = (socket.IPPROTO_IP, socket.IP_MULTICAST_IF)
GROUP_OPTIONS: Final = frozenset({JOIN, LEAVE, SEND_BY})
"""Those whose value is an address, not a number."""

MAX_MEMBERSHIPS: Final = 20
"""Groups that one socket may listen to: Linux's igmp_max_memberships."""
_MREQ_OCTETS: Final = 8
_MREQN_OCTETS: Final = 12


@final
class SocketGroups:
    """What one socket listens to, and by which interface it sends to groups."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._memberships: list[tuple[bytes, Interface]] = []
        self.send_by: Interface | None = None

    def set(self, option: Option, value: int | Buffer) -> None:
        """Apply one of ``GROUP_OPTIONS``.

        Raise OSError: EINVAL for what is no group, ENODEV for an unknown interface, EADDRINUSE for a group that the socket
        listens to already, EADDRNOTAVAIL to leave one that it does not, ENOBUFS for too many.
        """
        octets = value.to_bytes(4, "little", signed=True) if isinstance(value, int) else bytes(value)
        if option == SEND_BY:
            self._choose(octets)
            return
        if len(octets) < _MREQ_OCTETS:
            raise os_error(errno.EINVAL)
        group = octets[:4]
        if not ipv4.is_multicast(group):
            raise os_error(errno.EINVAL)
        if option == JOIN:
            self._join(group, octets)
        else:
            self._leave(group, octets)

    def close(self) -> None:
        """Leave every group."""
        while self._memberships:
            group, interface = self._memberships.pop()
            self._host.groups.leave(interface, group)

    def _join(self, group: bytes, request: bytes) -> None:
        interface = self._interface(group, request)
        if interface is None:
            raise os_error(errno.ENODEV)
        if (group, interface) in self._memberships:
            raise os_error(errno.EADDRINUSE)
        if len(self._memberships) >= MAX_MEMBERSHIPS:
            raise os_error(errno.ENOBUFS)
        try:
            self._host.groups.join(interface, group)
        except UsageError:
            raise os_error(errno.ENOBUFS) from None
        self._memberships.append((group, interface))

    def _leave(self, group: bytes, request: bytes) -> None:
        wanted = None if request[4:8] == ipv4.ANY else self._interface(group, request)
        for membership in self._memberships:
            if membership[0] == group and wanted in (None, membership[1]):
                self._memberships.remove(membership)
                self._host.groups.leave(membership[1], group)
                return
        raise os_error(errno.EADDRNOTAVAIL)

    def _choose(self, octets: bytes) -> None:
        if len(octets) < 4:
            raise os_error(errno.EINVAL)
        address = octets[4:8] if len(octets) >= _MREQ_OCTETS else octets[:4]
        if address == ipv4.ANY:
            self.send_by = None
            return
        found = self._host.local.get(address)
        if found is None:
            raise os_error(errno.EADDRNOTAVAIL)
        self.send_by = found

    def _interface(self, group: bytes, request: bytes) -> Interface | None:
        """Find the interface that a request names by its address, or else the one by which the group is reached.

        Guests' interfaces have no numbers: a request that names one finds nothing.
        """
        if len(request) >= _MREQN_OCTETS and any(request[8:12]):
            return None
        if request[4:8] != ipv4.ANY:
            return self._host.local.get(request[4:8])
        hop = self._host.next_hop(group, self.send_by)
        return hop[0] if hop is not None else None
