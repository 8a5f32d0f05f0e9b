"""What a program on a guest is told when a call on a socket fails: the errors of Linux, as Python raises them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from typing import Final

from vnet.stack.transport import IcmpError
from vnet.wire import icmpv4

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


def os_error(number: int, about: str = "") -> OSError:
    """Make the exception for an errno, of the right subclass, with the words of the system."""
    text = os.strerror(number)
    return OSError(number, f"{about}: {text}" if about else text)


def errno_of(reason: str) -> int:
    """Translate the words in which the stack says why something failed."""
    return _BY_REASON.get(reason, errno.EHOSTUNREACH)


def errno_of_icmp(error: IcmpError) -> int:
    """Translate an ICMP error about a datagram; 0 if a program is not told of it."""
    if error.kind != icmpv4.UNREACHABLE:
        return 0
    number, hard = _UNREACHABLE.get(error.code, (errno.EHOSTUNREACH, False))
    return number if hard else 0


def name_error(number: int, text: str) -> socket.gaierror:
    """Make the exception for a name that has no address."""
    return socket.gaierror(number, text)
