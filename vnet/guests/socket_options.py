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
_OCTETS: Final = frozenset({GROUP_TTL, GROUP_LOOP})
"""Those whose value may be a single octet, as in BSD."""
_RANGES: Final[Mapping[Option, range]] = {
    TTL: range(1, 256),
    TOS: range(256),
    KEEP_IDLE: range(1, 32768),
    GROUP_TTL: range(256),
}


@final
class SocketOptions:
    """The options of one socket."""

    def __init__(self, kind: int) -> None:
        self._values = {**_COMMON, **(_STREAM if kind == socket.SOCK_STREAM else _DATAGRAM)}
        self._fixed = {
            (socket.SOL_SOCKET, socket.SO_TYPE): kind,
            (socket.SOL_SOCKET, socket.SO_DOMAIN): int(socket.AF_INET),
            (socket.SOL_SOCKET, socket.SO_PROTOCOL): (
                socket.IPPROTO_TCP if kind == socket.SOCK_STREAM else socket.IPPROTO_UDP
            ),
        }
        self.linger: int | None = None
        """Seconds that closing may wait for the peer; 0 resets the connection."""

    def __getitem__(self, option: Option) -> int:
        """Return a value that may be set; raise OSError (ENOPROTOOPT) for an unknown option."""
        found = self._values.get(option, self._fixed.get(option))
        if found is None:
            raise os_error(errno.ENOPROTOOPT)
        return found

    def copy(self) -> SocketOptions:
        """Return the same for an accepted connection."""
        other = SocketOptions(self._fixed[socket.SOL_SOCKET, socket.SO_TYPE])
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
        if option == GROUP_TTL and number == -1:
            number = 1  # the default
        if option == GROUP_LOOP:
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
