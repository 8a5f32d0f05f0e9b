"""The multicast groups of a guest's UDP socket: ``IP_ADD_MEMBERSHIP``, ``IPV6_JOIN_GROUP`` and their kin.

RFC 1112; RFC 3493, 5.2; Linux's ip(7) and ipv6(7).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from vnet.errors import UsageError
from vnet.guests.socket_address import interface_of
from vnet.guests.socket_errors import os_error
from vnet.guests.socket_options import GROUP_INTERFACE6, Option
from vnet.stack.host import Host
from vnet.stack.interface import Interface
from vnet.wire import ipv4, ipv6

if TYPE_CHECKING:
    from typing_extensions import Buffer

JOIN: Final[Option] = (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP)
LEAVE: Final[Option] = (socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP)
SEND_BY: Final[Option] = (socket.IPPROTO_IP, socket.IP_MULTICAST_IF)
JOIN6: Final[Option] = (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP)
LEAVE6: Final[Option] = (socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP)
GROUP_OPTIONS: Final = frozenset({JOIN, LEAVE, SEND_BY})
"""Those whose value is an address, not a number."""
GROUP_OPTIONS6: Final = frozenset({JOIN6, LEAVE6, GROUP_INTERFACE6})
"""The same for IPv6, where interfaces go by their number."""

MAX_MEMBERSHIPS: Final = 20
"""Groups of both IP versions that one socket may listen to: Linux's igmp_max_memberships."""
_MREQ_OCTETS: Final = 8
_MREQN_OCTETS: Final = 12
_MREQ6_OCTETS: Final = 20


@final
class SocketGroups:
    """What one socket listens to, and by which interface it sends to groups."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._memberships: list[tuple[bytes, Interface]] = []
        self.send_by: Interface | None = None

    def set(self, option: Option, value: int | Buffer) -> None:
        """Apply one of ``GROUP_OPTIONS`` or ``GROUP_OPTIONS6``.

        Raise OSError: EINVAL for what is no group, ENODEV for an unknown interface, EADDRINUSE for a group that the socket
        listens to already, EADDRNOTAVAIL to leave one that it does not, ENOBUFS for too many.
        """
        octets = value.to_bytes(4, "little", signed=True) if isinstance(value, int) else bytes(value)
        if option in GROUP_OPTIONS6:
            self._set6(option, octets)
            return
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
            self._left(*self._memberships.pop())

    def _left(self, group: bytes, interface: Interface) -> None:
        if len(group) == 4:
            self._host.groups.leave(interface, group)
        elif interface.ipv6 is not None:
            interface.ipv6.leave(group)

    def _set6(self, option: Option, octets: bytes) -> None:
        """Do the same for IPv6; number 0 leaves the choice of the interface to us."""
        if option == GROUP_INTERFACE6:
            if len(octets) < 4:
                raise os_error(errno.EINVAL)
            number = int.from_bytes(octets[:4], "little")
            found = interface_of(self._host, number)
            if number and found is None:
                raise os_error(errno.ENODEV)
            self.send_by = found
            return
        group, number = octets[:16], int.from_bytes(octets[16:20], "little")
        if len(octets) < _MREQ6_OCTETS or not ipv6.is_multicast(group):
            raise os_error(errno.EINVAL)
        found = interface_of(self._host, number)
        if option == LEAVE6:
            self._forget(group, lambda interface: not number or interface is found)
            return
        if not number:
            found = next((each for each in self._host.interfaces.values() if each.ipv6 is not None), None)
        if found is None or found.ipv6 is None:
            raise os_error(errno.ENODEV)
        self._check(group, found)
        found.ipv6.join(group)
        self._memberships.append((group, found))

    def _forget(self, group: bytes, fits: Callable[[Interface], bool]) -> None:
        for membership in self._memberships:
            if membership[0] == group and fits(membership[1]):
                self._memberships.remove(membership)
                self._left(*membership)
                return
        raise os_error(errno.EADDRNOTAVAIL)

    def _check(self, group: bytes, interface: Interface) -> None:
        if (group, interface) in self._memberships:
            raise os_error(errno.EADDRINUSE)
        if len(self._memberships) >= MAX_MEMBERSHIPS:
            raise os_error(errno.ENOBUFS)

    def _join(self, group: bytes, request: bytes) -> None:
        interface = self._interface(group, request)
        if interface is None:
            raise os_error(errno.ENODEV)
        self._check(group, interface)
        try:
            self._host.groups.join(interface, group)
        except UsageError:
            raise os_error(errno.ENOBUFS) from None
        self._memberships.append((group, interface))

    def _leave(self, group: bytes, request: bytes) -> None:
        wanted = None if request[4:8] == ipv4.ANY else self._interface(group, request)
        self._forget(group, lambda interface: wanted in (None, interface))

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
        """Find the interface that a request names by number or address, or else the one by which the group is reached."""
        if len(request) >= _MREQN_OCTETS and any(request[8:12]):
            return interface_of(self._host, int.from_bytes(request[8:12], "little"))
        if request[4:8] != ipv4.ANY:
            return self._host.local.get(request[4:8])
        hop = self._host.next_hop(group, self.send_by)
        return hop[0] if hop is not None else None
