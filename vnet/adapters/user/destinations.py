"""What guests may reach through the machine's sockets: everything outside, and nothing of the machine itself.

Linux is asked what an address is to it (RTM_GETROUTE), so that all addresses of the machine count, those that come later
too, and whatever its routes make local beside.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Final, final

from vnet.adapters.netlink import RouteKind, Routes
from vnet.ports import Scheduler
from vnet.units import SECOND, Duration, Instant
from vnet.wire import ipv6

LOOPBACK: Final = {4: "127.0.0.1", 16: "::1"}
"""What an alias stands for, by the octets of an address."""
KNOWN_FOR: Final[Duration] = 1 * SECOND
"""How long an answer of Linux is good for."""
MAX_KNOWN: Final = 4096
_NEVER: Final = frozenset({0, 127, *range(224, 256)})
"""First octets: "this host", which Linux takes for its loopback (RFC 1122, 3.2.1.3); loopback; groups; the rest."""
_LINK_LOCAL: Final = bytes((169, 254))
"""Never forwarded (RFC 3927, section 7); clouds keep secrets there."""
_SERVICES: Final = b"\xfd\x00\x0e\xc2"
"""fd00:ec2::/32: where AWS has over IPv6 what it has at link-local addresses over IPv4, secrets among it."""
_SECRETS: Final = frozenset(
    IPv6Address(each).packed for each in ("fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42", "fd00:100::100:200")
)
"""The same of Google, Oracle, Scaleway and Alibaba."""
_6TO4: Final = b"\x20\x02"


@final
class Destinations:
    """Where what is sent to an address may go; the *own* networks of the lab are not outside, whatever the machine knows."""

    def __init__(self, own: Sequence[IPv4Network | IPv6Network], aliases: Sequence[bytes], clock: Scheduler) -> None:
        self.aliases: Mapping[bytes, str] = {alias: LOOPBACK[len(alias)] for alias in aliases}
        self._own = {
            octets: tuple((int(each.netmask), int(each.network_address)) for each in own if each.max_prefixlen == 8 * octets)
            for octets in LOOPBACK
        }
        self._routes = Routes()
        self._clock = clock
        self._known: dict[bytes, str | None] = {}
        self._forget_at: Instant = 0

    def resolve(self, address: bytes) -> str | None:
        """Return the address to give to a socket, or None if guests may not get there."""
        if address in self.aliases:
            return self.aliases[address]
        if is_never(address):
            return None
        number = int.from_bytes(address, "big")
        if any(number & mask == network for mask, network in self._own[len(address)]):
            return None
        now = self._clock.now
        if now >= self._forget_at or len(self._known) >= MAX_KNOWN:
            self._known.clear()
            self._forget_at = now + KNOWN_FOR
        if address not in self._known:
            self._known[address] = self._ask(address)
        return self._known[address]

    def _ask(self, address: bytes) -> str | None:
        if len(address) == 16 and address[:2] == _6TO4 and self.resolve(address[2:6]) is None:
            return None  # a machine that speaks 6to4 would send it there (RFC 3056, section 9)
        text = socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
        try:
            kind = self._routes.kind(address)
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
                return text  # the socket will be told the same
            return None
        return text if kind is RouteKind.UNICAST else None

    def close(self) -> None:
        """Ask no more."""
        self._routes.close()


def is_never(address: bytes) -> bool:
    """Tell whether no machine forwards packets to this address, or only to be led to an IPv4 address by it.

    For IPv6 these are all of ::/8: nobody's, loopback, and each form that has an IPv4 address within (::127.0.0.1 and
    ::ffff:127.0.0.1 of RFC 4291, 64:ff9b::127.0.0.1 of RFC 6052, its neighbors of RFC 8215 and RFC 2765), which Linux or a
    translator might take for that one; groups; what means something on one link only; and what clouds have in place of that.
    """
    if len(address) == 4:
        return address[0] in _NEVER or address[:2] == _LINK_LOCAL
    if address[:4] == _SERVICES or address in _SECRETS:
        return True
    return not address[0] or ipv6.is_multicast(address) or ipv6.is_link_local(address)
