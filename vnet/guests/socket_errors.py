"""What a program on a guest is told when a call on a socket fails: the errors of Linux, as Python raises them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from typing import Final

from vnet.stack.transport import IcmpError
from vnet.wire import icmpv4, icmpv6, ipv6

_BY_REASON: Final[Mapping[str, int]] = {
    "refused": errno.ECONNREFUSED,
    "reset": errno.ECONNRESET,
    "timed out": errno.ETIMEDOUT,
    "no answer": errno.ETIMEDOUT,
    "no route": errno.ENETUNREACH,
    "no address": errno.ENETUNREACH,
    "net unreachable": errno.ENETUNREACH,
    "protocol unreachable": errno.ENOPROTOOPT,
    "port unreachable": errno.ECONNREFUSED,
    "message too long": errno.EMSGSIZE,
    "no route to destination": errno.ENETUNREACH,
    "administratively prohibited": errno.EACCES,
    "source address failed policy": errno.EACCES,
    "reject route to destination": errno.EACCES,
    "unrecognized next header": errno.EPROTO,
    "aborted": errno.ECONNABORTED,
}
"""The stack's words; every other reason is a destination that cannot be reached."""

_UNREACHABLE: Final[Mapping[int, tuple[int, bool]]] = {
    0: (errno.ENETUNREACH, False),
    1: (errno.EHOSTUNREACH, False),
    2: (errno.ENOPROTOOPT, True),
    3: (errno.ECONNREFUSED, True),
    4: (errno.EMSGSIZE, False),
    5: (errno.EOPNOTSUPP, False),
    6: (errno.ENETUNREACH, True),
    7: (errno.EHOSTDOWN, True),
    8: (errno.ENONET, True),
    9: (errno.ENETUNREACH, True),
    10: (errno.EHOSTUNREACH, True),
    11: (errno.ENETUNREACH, False),
    12: (errno.EHOSTUNREACH, False),
    13: (errno.EHOSTUNREACH, True),
    14: (errno.EHOSTUNREACH, True),
    15: (errno.EHOSTUNREACH, True),
}
"""By ICMP code: the number, and whether a connected UDP socket is told; soft errors may pass (RFC 1122, 4.2.3.9). The
division is that of Linux."""


_UNREACHABLE6: Final[Mapping[int, tuple[int, bool]]] = {
    icmpv6.NO_ROUTE: (errno.ENETUNREACH, False),
    icmpv6.PROHIBITED: (errno.EACCES, True),
    icmpv6.BEYOND_SCOPE: (errno.EHOSTUNREACH, False),
    icmpv6.ADDRESS_UNREACHABLE: (errno.EHOSTUNREACH, False),
    icmpv6.PORT_UNREACHABLE: (errno.ECONNREFUSED, True),
    5: (errno.EACCES, True),
    6: (errno.EACCES, True),
}
"""The same by ICMPv6 code."""


def os_error(number: int, about: str = "") -> OSError:
    """Make the exception for an errno, of the right subclass, with the words of the system."""
    text = os.strerror(number)
    return OSError(number, f"{about}: {text}" if about else text)


def errno_of(reason: str) -> int:
    """Translate the words in which the stack says why something failed."""
    return _BY_REASON.get(reason, errno.EHOSTUNREACH)


def errno_of_icmp(error: IcmpError) -> int:
    """Translate an ICMP error about a datagram; 0 if a program is not told of it."""
    if len(error.reporter) == 16:
        if error.kind == icmpv6.PARAMETER_PROBLEM:
            return errno.EPROTO if error.code == ipv6.UNKNOWN_NEXT_HEADER else 0
        known, unreachable = _UNREACHABLE6, icmpv6.UNREACHABLE
    else:
        known, unreachable = _UNREACHABLE, icmpv4.UNREACHABLE
    if error.kind != unreachable:
        return 0
    number, hard = known.get(error.code, (errno.EHOSTUNREACH, False))
    return number if hard else 0


def name_error(number: int, text: str) -> socket.gaierror:
    """Make the exception for a name that has no address."""
    return socket.gaierror(number, text)
