"""What the sockets of one guest have in common: the host, the ports that are bound, and the names they may use."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, final

from vnet.guests.names import LOOPBACK, Names, gai_error
from vnet.guests.socket_errors import os_error
from vnet.stack.host import Host
from vnet.stack.resolver import Outcome

Address: TypeAlias = tuple[str, int]
"""IPv4 address as text and port, as Python's sockets have it."""

ANY: Final = bytes(4)
_FIRST_NUMBER: Final = 1 << 30
"""Where the file numbers of guests' sockets begin: beyond every real descriptor, so that a system call on one fails."""


@final
@dataclass(slots=True, eq=False)
class Claim:
    """A bound port; *address* None stands for all of them."""

    protocol: int
    address: bytes | None
    port: int
    reuse: bool

    def excludes(self, other: Claim) -> bool:
        """Tell whether the two cannot be bound at once."""
        same = self.protocol == other.protocol and self.port == other.port
        overlap = self.address == other.address or self.address is None or other.address is None
        return same and overlap and not (self.reuse and other.reuse)


@final
class SocketTable:
    """The sockets of a guest, whose programs know other nodes by *names*."""

    def __init__(self, host: Host, names: Names) -> None:
        self.host = host
        self.names = names
        self._claims: list[Claim] = []
        self._numbers = 0
        self._open: dict[int, Callable[[], None]] = {}

    def opened(self, close: Callable[[], None]) -> int:
        """Note a socket, which is closed by *close*; return the number that stands for its file descriptor."""
        self._numbers += 1
        number = _FIRST_NUMBER + self._numbers
        self._open[number] = close
        return number

    def closed(self, number: int) -> None:
        """Forget a socket."""
        self._open.pop(number, None)

    def move(self, host: Host) -> None:
        """Close every socket, and let later ones be those of another host: the guest starts anew."""
        for close in tuple(self._open.values()):
            close()
        self._claims.clear()
        self.host = host

    def claim(self, claim: Claim) -> None:
        """Keep others from binding the same; raise OSError (EADDRINUSE) if somebody has."""
        if any(claim.excludes(other) for other in self._claims):
            raise os_error(errno.EADDRINUSE)
        self._claims.append(claim)

    def release(self, claim: Claim | None) -> None:
        """Let others bind it again; one that was released already is no error."""
        if claim in self._claims:
            self._claims.remove(claim)

    def check_local(self, address: bytes, *, groups: bool = False) -> bytes | None:
        """Pass an address to bind, None for the wildcard; raise OSError (EADDRNOTAVAIL) if it is not the guest's."""
        if address == ANY:
            return None
        if not self.host.is_local(address) and not (groups and self.host.is_group(address)):
            raise os_error(errno.EADDRNOTAVAIL)
        return address

    async def look_up(self, name: str, family: int = 0) -> list[bytes]:
        """Turn an address as text, or a name, into packed addresses of a family, or of both.

        Only what no guest knows by itself takes time: DNS is asked for it. Raise socket.gaierror: EAI_NONAME for an unknown
        name, EAI_NODATA for one without such an address, EAI_AGAIN if no server answers or a node has no address yet.
        """
        result = await self.names.find(name, family)
        if result.outcome is not Outcome.FOUND:
            raise gai_error(name, result)
        return list(result.addresses)

    async def resolve(self, address: object, *, local: bool) -> tuple[bytes, int]:
        """Turn what a program gave ``bind`` (*local*), ``connect`` or ``sendto`` into packed address and port.

        A name may take time, an address never does. Raise ValueError or TypeError for what is no address, as trio does, and
        socket.gaierror as ``look_up`` does.
        """
        if not isinstance(address, tuple) or len(address) != 2:
            raise ValueError("address should be a (host, port) tuple")
        host, port = address
        if isinstance(host, bytes | bytearray):
            host = bytes(host).decode("ascii", "replace")
        if host is not None and not isinstance(host, str):
            raise TypeError(f"host must be text, not {host!r}")
        if isinstance(port, str):
            try:
                port = int(port) if port.isascii() and port.isdigit() else socket.getservbyname(port)
            except OSError:
                raise socket.gaierror(socket.EAI_SERVICE, "Servname not supported for ai_socktype") from None
        if not isinstance(port, int):
            raise TypeError(f"port must be a number, not {port!r}")
        if not 0 <= port <= 0xFFFF:
            raise OverflowError("port must be 0-65535.")
        if host is None or host == "":
            return (ANY if local else LOOPBACK), port
        packed = _packed(host) or (await self.look_up(host, socket.AF_INET))[0]
        return (LOOPBACK if packed == ANY and not local else packed), port


def _packed(host: str) -> bytes | None:
    """Turn an address as text into a packed one, the short way, since each datagram that is sent comes by here."""
    if host == "<broadcast>":
        return b"\xff\xff\xff\xff"
    try:
        return socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return None


def text(address: bytes | None, port: int) -> Address:
    """Write an address as Python's sockets do."""
    return socket.inet_ntoa(address or ANY), port
