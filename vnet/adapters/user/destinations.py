"""What guests may reach through the machine's sockets: everything outside, and nothing of the machine itself.

Linux is asked what an address is to it (RTM_GETROUTE), so that all addresses of the machine count, those that come later
too, and whatever its routes make local beside.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from ipaddress import IPv4Network
from typing import Final, final

from vnet.adapters.netlink import RouteKind, Routes
from vnet.ports import Scheduler
from vnet.units import SECOND, Duration, Instant

LOOPBACK: Final = "127.0.0.1"
KNOWN_FOR: Final[Duration] = 1 * SECOND
"""How long an answer of Linux is good for."""
MAX_KNOWN: Final = 4096
_NEVER: Final = frozenset({0, 127, *range(224, 256)})
"""First octets: "this host", which Linux takes for its loopback (RFC 1122, 3.2.1.3); loopback; groups; the rest."""
_LINK_LOCAL: Final = bytes((169, 254))
"""Never forwarded (RFC 3927, section 7); clouds keep secrets there."""


@final
class Destinations:
    """Where what is sent to an address may go; the *own* networks of the lab are not outside, whatever the machine knows."""

    def __init__(self, own: Sequence[IPv4Network], alias: bytes | None, clock: Scheduler) -> None:
        self.alias = alias
        self._own = tuple((int(network.netmask), int(network.network_address)) for network in own)
        self._routes = Routes()
        self._clock = clock
        self._known: dict[bytes, str | None] = {}
        self._forget_at: Instant = 0

    def resolve(self, address: bytes) -> str | None:
        """Return the address to give to a socket, or None if guests may not get there."""
        if address == self.alias:
            return LOOPBACK
        if is_never(address):
            return None
        number = int.from_bytes(address, "big")
        if any(number & mask == network for mask, network in self._own):
            return None
        now = self._clock.now
        if now >= self._forget_at or len(self._known) >= MAX_KNOWN:
            self._known.clear()
            self._forget_at = now + KNOWN_FOR
        if address not in self._known:
            self._known[address] = self._ask(address)
        return self._known[address]

    def _ask(self, address: bytes) -> str | None:
        try:
            kind = self._routes.kind(address)
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
                return socket.inet_ntoa(address)  # the socket will be told the same
            return None
        return socket.inet_ntoa(address) if kind is RouteKind.UNICAST else None

    def close(self) -> None:
        """Ask no more."""
        self._routes.close()


def is_never(address: bytes) -> bool:
    """Tell whether no machine forwards packets to this address."""
    return address[0] in _NEVER or address[:2] == _LINK_LOCAL
