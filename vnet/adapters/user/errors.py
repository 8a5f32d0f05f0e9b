"""What host sockets are told of what they sent: ICMP errors, to be passed on to a guest as if they had come all the way.

Sockets with IP_RECVERR or IPV6_RECVERR keep each ICMP error they were told of, with who said so, until it is read (ip(7)).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, NamedTuple

from vnet.adapters.user.versions import IPV4, IPV6

MSG_ERRQUEUE: Final = 0x2000
IP_BIND_ADDRESS_NO_PORT: Final = 24
ERRORS_A_LOOK: Final = 16
"""Errors read from one socket before others have their turn; the rest is still there."""
_EXTENDED: Final = Struct("=IBBBxII")
"""struct sock_extended_err: errno, origin, type, code, info, data; a sockaddr of who said so follows."""
_CONTROL_OCTETS: Final = 512
_QUOTED: Final = 1280
"""Octets of what an error is about that are read: all that its message can have (RFC 4443, 2.4 (c))."""
_KINDS: Final = {(version.level, version.errors_option): version for version in (IPV4, IPV6)}


class Told(NamedTuple):
    """An ICMP error that a socket was told of: its type and code, whose it is, the start of what it is about, and the MTU
    that it says a packet may have, if it does."""

    kind: int
    code: int
    reporter: bytes | None
    about: bytes
    mtu: int = 0


def send_anew(sock: socket.socket, octets: bytes, tell: Callable[[], bool]) -> None:
    """Send, once more if all that failed is an earlier datagram, as ``tell()`` says; raise OSError for this one."""
    try:
        sock.send(octets)
    except BlockingIOError:
        raise
    except OSError:
        if not tell():
            raise
        sock.send(octets)


def told(sock: socket.socket) -> Iterator[Told]:
    """Read the ICMP errors that wait at a socket."""
    for _ in range(ERRORS_A_LOOK):
        try:
            about, control, _, _ = sock.recvmsg(_QUOTED, _CONTROL_OCTETS, MSG_ERRQUEUE)
        except OSError:
            return
        for level, kind, data in control:
            version = _KINDS.get((level, kind))
            if version is None or len(data) < _EXTENDED.size:
                continue
            _, origin, icmp_type, code, info, _ = _EXTENDED.unpack_from(data)
            if origin == version.origin:  # somebody said so, and it is not Linux's own finding
                who = data[_EXTENDED.size :][version.reporter]
                whole = len(who) == version.source.stop - version.source.start
                reporter = who if whole and any(who) else None
                yield Told(icmp_type, code, reporter, about, info if (icmp_type, code) == version.too_big else 0)
