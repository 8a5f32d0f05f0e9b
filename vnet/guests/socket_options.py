"""Options of guests' sockets: which there are, their defaults, and their octets.

An option that the stack has no use for, such as ``SO_SNDBUF``, is kept and told, so that programs that set it run; an option
that would promise something is refused with ENOPROTOOPT.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, final

from vnet.guests.socket_errors import os_error

if TYPE_CHECKING:
    from typing_extensions import Buffer

Option: TypeAlias = tuple[int, int]
"""Level and name."""

REUSE_ADDRESS: Final[Option] = (socket.SOL_SOCKET, socket.SO_REUSEADDR)
KEEP_ALIVE: Final[Option] = (socket.SOL_SOCKET, socket.SO_KEEPALIVE)
BROADCAST: Final[Option] = (socket.SOL_SOCKET, socket.SO_BROADCAST)
LINGER: Final[Option] = (socket.SOL_SOCKET, socket.SO_LINGER)
ERROR: Final[Option] = (socket.SOL_SOCKET, socket.SO_ERROR)
LISTENING: Final[Option] = (socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
NO_DELAY: Final[Option] = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
KEEP_IDLE: Final[Option] = (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
TTL: Final[Option] = (socket.IPPROTO_IP, socket.IP_TTL)
TOS: Final[Option] = (socket.IPPROTO_IP, socket.IP_TOS)
GROUP_TTL: Final[Option] = (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL)
GROUP_LOOP: Final[Option] = (socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP)
ONLY_IPV6: Final[Option] = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
HOPS: Final[Option] = (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
TRAFFIC_CLASS: Final[Option] = (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
GROUP_HOPS: Final[Option] = (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS)
GROUP_LOOP6: Final[Option] = (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP)
GROUP_INTERFACE6: Final[Option] = (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF)
NO_PORT: Final[Option] = (socket.IPPROTO_IP, 24)
"""IP_BIND_ADDRESS_NO_PORT, which Python names from 3.12 on: leave the choice of a port to ``connect``."""

_NUMBER: Final = struct.Struct("i")
_OCTET: Final = struct.Struct("B")
_LINGER: Final = struct.Struct("ii")

_COMMON: Final[Mapping[Option, int]] = {
    REUSE_ADDRESS: 0,
    KEEP_ALIVE: 0,
    BROADCAST: 0,
    (socket.SOL_SOCKET, socket.SO_REUSEPORT): 0,
    (socket.SOL_SOCKET, socket.SO_SNDBUF): 212_992,
    (socket.SOL_SOCKET, socket.SO_RCVBUF): 212_992,
    (socket.SOL_SOCKET, socket.SO_PRIORITY): 0,
    (socket.SOL_SOCKET, socket.SO_OOBINLINE): 0,
    TTL: 64,
    TOS: 0,
    NO_PORT: 0,
}
_STREAM: Final[Mapping[Option, int]] = {
    NO_DELAY: 0,
    KEEP_IDLE: 7200,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 75,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 9,
    (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT): -1,
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 0,
    (socket.IPPROTO_TCP, socket.TCP_QUICKACK): 1,
    (socket.IPPROTO_TCP, socket.TCP_CORK): 0,
}
_DATAGRAM: Final[Mapping[Option, int]] = {
    GROUP_TTL: 1,
    GROUP_LOOP: 1,
    (socket.IPPROTO_IP, 49): 1,  # IP_MULTICAST_ALL: a bound socket gets what any other joined
}
_COMMON6: Final[Mapping[Option, int]] = {ONLY_IPV6: 0, HOPS: 64, TRAFFIC_CLASS: 0, GROUP_LOOP6: 1}
_DATAGRAM6: Final[Mapping[Option, int]] = {
    GROUP_HOPS: 1,
    GROUP_INTERFACE6: 0,
    (socket.IPPROTO_IPV6, 29): 1,  # IPV6_MULTICAST_ALL, as above
}
_DEFAULTED: Final[Mapping[Option, int]] = {GROUP_TTL: 1, GROUP_HOPS: 1, HOPS: 64, TRAFFIC_CLASS: 0}
"""What -1 stands for."""
_OCTETS: Final = frozenset({GROUP_TTL, GROUP_LOOP})
"""Those whose value may be a single octet, as in BSD."""
_RANGES: Final[Mapping[Option, range]] = {
    TTL: range(1, 256),
    TOS: range(256),
    KEEP_IDLE: range(1, 32768),
    GROUP_TTL: range(256),
    HOPS: range(256),
    TRAFFIC_CLASS: range(256),
    GROUP_HOPS: range(256),
    GROUP_LOOP6: range(2),
}


@final
class SocketOptions:
    """The options of one socket."""

    def __init__(self, kind: int, family: int = socket.AF_INET) -> None:
        is_stream = kind == socket.SOCK_STREAM
        self._values = {**_COMMON, **(_STREAM if is_stream else _DATAGRAM)}
        if family == socket.AF_INET6:
            self._values |= {**_COMMON6, **({} if is_stream else _DATAGRAM6)}
        self.family = family
        self._fixed = {
            (socket.SOL_SOCKET, socket.SO_TYPE): kind,
            (socket.SOL_SOCKET, socket.SO_DOMAIN): family,
            (socket.SOL_SOCKET, socket.SO_PROTOCOL): socket.IPPROTO_TCP if is_stream else socket.IPPROTO_UDP,
        }
        self.linger: int | None = None
        """Seconds that closing may wait for the peer; 0 resets the connection."""

    def __getitem__(self, option: Option) -> int:
        """Return a value that may be set; raise OSError (ENOPROTOOPT) for an unknown option."""
        found = self._values.get(option, self._fixed.get(option))
        if found is None:
            raise os_error(errno.ENOPROTOOPT)
        return found

    @property
    def is_both(self) -> bool:
        """Whether the socket is for both IP versions."""
        return self.family == socket.AF_INET6 and not self._values[ONLY_IPV6]

    @property
    def is_only_ipv6(self) -> bool:
        """Whether the socket is for IPv6 alone."""
        return self.family == socket.AF_INET6 and bool(self._values[ONLY_IPV6])

    def __contains__(self, option: Option) -> bool:
        """Tell whether the socket has such an option that may be set."""
        return option in self._values

    def copy(self) -> SocketOptions:
        """Return the same for an accepted connection."""
        other = SocketOptions(self._fixed[socket.SOL_SOCKET, socket.SO_TYPE], self.family)
        other._values.update(self._values)
        other.linger = self.linger
        return other

    def encoded(self, option: Option, length: int) -> bytes:
        """Return an option as getsockopt with a buffer does, cut to *length* octets."""
        if option == LINGER:
            return _LINGER.pack(self.linger is not None, self.linger or 0)[:length]
        return _NUMBER.pack(self[option])[:length]

    def set(self, option: Option, value: int | Buffer) -> int:
        """Set an option and return its value; raise OSError (ENOPROTOOPT, EINVAL)."""
        if option == LINGER:
            return self._set_linger(value)
        if option not in self._values:
            raise os_error(errno.ENOPROTOOPT)
        number = value if isinstance(value, int) else _first(_OCTET if _is_octet(option, value) else _NUMBER, value)
        if number == -1 and option in _DEFAULTED:
            number = _DEFAULTED[option]
        if option in (GROUP_LOOP, ONLY_IPV6):
            number = int(bool(number))
        if option in _RANGES and number not in _RANGES[option]:
            raise os_error(errno.EINVAL)
        self._values[option] = number
        return number

    def _set_linger(self, value: int | Buffer) -> int:
        if isinstance(value, int):
            raise os_error(errno.EINVAL)
        on = _first(_LINGER, value)
        self.linger = int(_LINGER.unpack_from(value)[1]) if on else None
        return on


def _is_octet(option: Option, value: Buffer) -> bool:
    return option in _OCTETS and len(memoryview(value)) < _NUMBER.size


def _first(form: struct.Struct, value: Buffer) -> int:
    try:
        return int(form.unpack_from(value)[0])
    except struct.error:
        raise os_error(errno.EINVAL) from None
