"""What the sockets of one guest have in common: the host, the ports that are bound, and the names they may use."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from vnet.guests.names import LOOPBACK, LOOPBACK6, Names, gai_error
from vnet.guests.socket_address import (
    SocketAddress,
    interface_of,
    is_wildcard,
    literal,
    needs_scope,
    number_named,
    number_of,
    unmapped,
)
from vnet.guests.socket_errors import name_error, os_error
from vnet.stack.host import Host
from vnet.stack.interface import Interface
from vnet.stack.resolver_answer import Outcome
from vnet.stack.transport import overlap
from vnet.wire import ipv6

ANY: Final = bytes(4)
ANY6: Final = ipv6.ANY
MOST_FLOWS: Final = 0xFFFFF
"""A flow label has 20 bits."""
_FIRST_NUMBER: Final = 1 << 30
"""Where the file numbers of guests' sockets begin: beyond every real descriptor, so that a system call on one fails."""


@final
@dataclass(slots=True, eq=False)
class Claim:
    """A bound port; *address* None stands for all of IPv4, ``::`` for all of IPv6, and with *both* for all of either."""

    protocol: int
    address: bytes | None
    port: int
    reuse: bool
    both: bool = False

    def excludes(self, other: Claim) -> bool:
        """Tell whether the two cannot be bound at once."""
        same = self.protocol == other.protocol and self.port == other.port
        return same and overlap(self.address, self.both, other.address, other.both) and not (self.reuse and other.reuse)


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

    # -- own addresses

    def claim(self, claim: Claim) -> None:
        """Keep others from binding the same; raise OSError (EADDRINUSE) if somebody has."""
        if any(claim.excludes(other) for other in self._claims):
            raise os_error(errno.EADDRINUSE)
        self._claims.append(claim)

    def release(self, claim: Claim | None) -> None:
        """Let others bind it again; one that was released already is no error."""
        if claim in self._claims:
            self._claims.remove(claim)

    def check_local(self, address: SocketAddress, *, groups: bool = False) -> bytes | None:
        """Pass an address to bind, None for the wildcard of IPv4.

        Raise OSError: EADDRNOTAVAIL if it is not the guest's, EINVAL for a link-local one without an interface, ENODEV for
        one of an unknown interface.
        """
        packed = address.packed
        if packed == ANY:
            return None
        if packed == ANY6:
            return packed
        if len(packed) == 4:
            if not self.host.is_local(packed) and not (groups and self.host.is_group(packed)):
                raise os_error(errno.EADDRNOTAVAIL)
            return packed
        if ipv6.is_multicast(packed) and not groups:
            raise os_error(errno.EINVAL)
        interface = interface_of(self.host, address.scope)
        if needs_scope(packed) and interface is None:
            raise os_error(errno.ENODEV if address.scope else errno.EINVAL)
        if not ipv6.is_multicast(packed) and packed != LOOPBACK6:
            found = self.interface_with(packed)
            if found is None or (needs_scope(packed) and found is not interface):
                raise os_error(errno.EADDRNOTAVAIL)
        return packed

    def interface_with(self, packed: bytes) -> Interface | None:
        """Find the interface that has an IPv6 address."""
        side = None if self.host.ipv6 is None else self.host.ipv6.local.get(packed)
        return None if side is None else side.interface

    def scope_of(self, packed: bytes | None, interface: Interface | None) -> int:
        """Return the number that goes with a link-local address on the link of *interface*, or of whoever has it; else 0."""
        if packed is None or not needs_scope(packed):
            return 0
        return number_of(self.host, interface or self.interface_with(packed))

    def source_for(self, address: bytes, interface: Interface | None) -> bytes | None:
        """Choose the address to talk to another from, or None if that cannot be reached."""
        if len(address) == 4:
            return self.host.source_for(address)
        found = self.host.use_ipv6().route(address, interface)
        return None if isinstance(found, str) else found

    def scoped(self, family: int, address: SocketAddress, own: bytes | None, *, only_ipv6: bool) -> Interface | None:
        """Check the destination of a socket bound to *own*; return the interface that it names, if it does.

        Raise OSError: ENETUNREACH or EAFNOSUPPORT where the IP versions differ, ENETUNREACH for an unknown interface.
        """
        if family == socket.AF_INET6 and len(address.packed) == 4 and (only_ipv6 or (own and len(own) == 16 and any(own))):
            raise os_error(errno.ENETUNREACH)
        if len(address.packed) == 4:
            return None
        if own is not None and len(own) == 4:
            raise os_error(errno.EAFNOSUPPORT)
        if not needs_scope(address.packed):
            return None
        if not address.scope:
            return self.interface_with(own) if own is not None and needs_scope(own) else None
        found = interface_of(self.host, address.scope)
        if found is None or found.ipv6 is None:
            raise os_error(errno.ENETUNREACH)
        return found

    # -- addresses as programs write them

    async def look_up(self, name: str, family: int = 0) -> list[bytes]:
        """Turn an address as text, or a name, into packed addresses of a family, or of both.

        Only what no guest knows by itself takes time: DNS is asked for it. Raise socket.gaierror: EAI_NONAME for an unknown
        name, EAI_NODATA for one without such an address, EAI_AGAIN if no server answers or a node has no address yet.
        """
        result = await self.names.find(name, family)
        if result.outcome is not Outcome.FOUND:
            raise gai_error(name, result)
        return list(result.addresses)

    def numbered_scope(self, name: str) -> str:
        """Write the scope of an address as a number behind a percent sign; nothing if it has none."""
        found = literal(name)
        number = number_named(self.host, found.scope) if found is not None else 0
        return f"%{number}" if number else ""

    async def resolve(
        self, address: object, *, local: bool, family: int = socket.AF_INET, only_ipv6: bool = False
    ) -> SocketAddress:
        """Turn what a program gave ``bind`` (*local*), ``connect`` or ``sendto`` into packed address, port and scope.

        For a socket of AF_INET6 an IPv4-mapped address is an IPv4 address, and so is a name that has none of IPv6, unless
        the socket is for IPv6 alone. Raise ValueError or TypeError for what is no address, as trio does, and socket.gaierror
        for an unknown name and for an address of another family.
        """
        is_v6 = family == socket.AF_INET6
        if not isinstance(address, tuple) or not (2 <= len(address) <= 4 if is_v6 else len(address) == 2):
            form = "(host, port, [flowinfo, [scopeid]])" if is_v6 else "(host, port)"
            raise ValueError(f"address should be a {form} tuple")
        host, port = address[:2]
        if isinstance(host, bytes | bytearray):
            host = bytes(host).decode("ascii", "replace")
        if host is not None and not isinstance(host, str):
            raise TypeError(f"host must be text, not {host!r}")
        if isinstance(port, str):
            try:
                port = int(port) if port.isascii() and port.isdigit() else socket.getservbyname(port)
            except OSError:
                raise socket.gaierror(socket.EAI_SERVICE, "Servname not supported for ai_socktype") from None
        if not isinstance(port, int) or not all(isinstance(each, int) for each in address[2:]):
            raise TypeError(f"port, flow label and scope must be numbers, not {address[1:]!r}")
        if not 0 <= port <= 0xFFFF:
            raise OverflowError("port must be 0-65535.")
        if len(address) > 2 and not 0 <= address[2] <= MOST_FLOWS:
            raise OverflowError(f"flowinfo must be 0-{MOST_FLOWS}.")
        anything, loopback = (ANY6, LOOPBACK6) if is_v6 else (ANY, LOOPBACK)
        if host is None or host == "":
            return SocketAddress(anything if local else loopback, port)
        if host == "<broadcast>":
            host = "255.255.255.255"
        written = literal(host)
        packed = await self._packed(host, is_v6=is_v6, only_ipv6=only_ipv6) if written is None else written.packed
        packed = self._fitting(packed, is_v6=is_v6, only_ipv6=only_ipv6)
        if not local and packed in (ANY, ANY6):
            packed = LOOPBACK if packed == ANY else LOOPBACK6
        scope = 0 if written is None else number_named(self.host, written.scope)
        return SocketAddress(packed, port, address[3] if len(address) == 4 else scope)

    async def _packed(self, name: str, *, is_v6: bool, only_ipv6: bool) -> bytes:
        """Look a name up for a socket of a family; one for both IP versions falls back to IPv4."""
        try:
            return (await self.look_up(name, socket.AF_INET6 if is_v6 else socket.AF_INET))[0]
        except socket.gaierror as error:
            if not is_v6 or only_ipv6 or error.errno == socket.EAI_AGAIN:
                raise
            return (await self.look_up(name, socket.AF_INET))[0]

    def _fitting(self, packed: bytes, *, is_v6: bool, only_ipv6: bool) -> bytes:
        """Pass an address that a socket can use."""
        if is_v6 == (len(packed) == 16):
            return unmapped(packed) if is_v6 else packed
        if is_v6 and not only_ipv6:
            return packed
        raise name_error(socket.EAI_ADDRFAMILY, "Address family for hostname not supported")


def bound_address(address: bytes | None, *, both: bool) -> bytes | None:
    """Write a bound address as the UDP sockets of the stack do: without address they are for IPv4, or for both."""
    return None if both and is_wildcard(address) else address
