"""What the errors of host sockets are to a guest: the ICMP message that it would have got from the outside itself.

Sockets with IP_RECVERR keep each ICMP error they were told of, with who said so, until it is read (ip(7)).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from vnet.wire import icmpv4

IP_RECVERR: Final = 11
MSG_ERRQUEUE: Final = 0x2000
IP_BIND_ADDRESS_NO_PORT: Final = 24
ERRORS_A_LOOK: Final = 16
"""Errors read from one socket before others have their turn; the rest is still there."""
_ICMP: Final = 2
"""SO_EE_ORIGIN_ICMP: somebody said so, and it is not our own finding."""
_EXTENDED: Final = Struct("=IBBBxII")
"""struct sock_extended_err: errno, origin, type, code, info, data; a sockaddr of who said so follows."""
_CONTROL_OCTETS: Final = 512

UNREACHABLE: Final = {
    errno.ENETUNREACH: icmpv4.NET_UNREACHABLE,
    errno.ENETDOWN: icmpv4.NET_UNREACHABLE,
    errno.EHOSTUNREACH: icmpv4.HOST_UNREACHABLE,
    errno.EHOSTDOWN: icmpv4.HOST_UNREACHABLE,
    errno.EACCES: icmpv4.COMMUNICATION_PROHIBITED,
    errno.EPERM: icmpv4.COMMUNICATION_PROHIBITED,
    errno.ECONNREFUSED: icmpv4.PORT_UNREACHABLE,
    errno.ENOPROTOOPT: icmpv4.PROTOCOL_UNREACHABLE,
}
"""Codes of "destination unreachable" (RFC 1122, 3.2.2.1; RFC 1812, 5.2.7.1) by the error of a socket."""


class Told(NamedTuple):
    """An ICMP error that a socket was told of: its type and code, whose it is, and the start of what it is about."""

    kind: int
    code: int
    reporter: bytes | None
    about: bytes


def told(sock: socket.socket) -> Iterator[Told]:
    """Read the ICMP errors that wait at a socket with IP_RECVERR."""
    for _ in range(ERRORS_A_LOOK):
        try:
            about, control, _, _ = sock.recvmsg(576, _CONTROL_OCTETS, MSG_ERRQUEUE)
        except OSError:
            return
        for level, kind, data in control:
            if level != socket.IPPROTO_IP or kind != IP_RECVERR or len(data) < _EXTENDED.size:
                continue
            _, origin, icmp_type, code, _, _ = _EXTENDED.unpack_from(data)
            if origin == _ICMP:
                who = data[_EXTENDED.size + 4 : _EXTENDED.size + 8]
                reporter = who if len(who) == 4 and who != bytes(4) else None
                yield Told(icmp_type, code, reporter, about)
