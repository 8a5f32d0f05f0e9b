"""The order in which a name's addresses are tried (RFC 6724, section 6), by the sources that a host would talk to them from.

All rules but 4 and 7 decide, which are about mobility and tunnels. IPv4 takes part as the addresses ::ffff:0:0/96. The table
is that of the RFC: it has IPv4 before unique local addresses (fc00::/7), where glibc has all of IPv6 before IPv4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from vnet.stack.ipv6.addresses import AddressState, common_prefix
from vnet.wire import ipv6

if TYPE_CHECKING:
    from vnet.stack.host import Host

_LINK_LOCAL: Final = 2
_GLOBAL: Final = 14
"""Scopes as IPv6 numbers them."""
_MAPPED: Final = bytes(10) + b"\xff\xff"
_POLICY: Final = (
    (bytes(15) + b"\x01", 128, 50, 0),
    (bytes(10) + b"\xff\xff", 96, 35, 4),
    (bytes(12), 96, 1, 3),
    (b"\x20\x01\0\0", 32, 5, 5),
    (b"\x20\x02", 16, 30, 2),
    (b"\x3f\xfe", 16, 1, 12),
    (b"\xfe\xc0", 10, 1, 11),
    (b"\xfc", 7, 3, 13),
    (b"", 0, 40, 1),
)  # fmt: skip
"""Prefix, its length, precedence and label (RFC 6724, 2.1); the first that fits is the longest."""


def by_preference(host: Host, destinations: Iterable[bytes]) -> list[bytes]:
    """Sort packed addresses, of 4 or 16 octets, so that the best comes first; each is there once."""
    return sorted(dict.fromkeys(destinations), key=lambda each: _rank(host, each))


def source_for(host: Host, destination: bytes) -> bytes | None:
    """Return the address from which the host would talk to a destination, None if it cannot."""
    if len(destination) == 4:
        return host.source_for(destination)
    if destination == ipv6.LOOPBACK:
        return destination
    found = None if host.ipv6 is None else host.ipv6.route(destination)
    return found if isinstance(found, bytes) else None


def _rank(host: Host, destination: bytes) -> tuple[bool, bool, bool, bool, int, int, int]:
    """Make a key of the rules in their order; the smallest is the best."""
    source = source_for(host, destination)
    precedence, label = _policy(destination)
    scope = _scope(destination)
    if source is None:
        return True, True, True, True, -precedence, scope, 0
    shared = common_prefix(source, destination) if len(destination) == 16 else 0
    return (
        False, scope != _scope(source), _is_deprecated(host, source), label != _policy(source)[1], -precedence, scope,
        -min(shared, 64),
    )  # fmt: skip


def _scope(address: bytes) -> int:
    if len(address) == 16:
        return ipv6.scope(address)
    return _LINK_LOCAL if address[0] == 127 or address[:2] == b"\xa9\xfe" else _GLOBAL  # RFC 6724, 3.2


def _policy(address: bytes) -> tuple[int, int]:
    whole = int.from_bytes(address if len(address) == 16 else _MAPPED + address, "big")
    for prefix, length, precedence, label in _POLICY:
        if whole >> (128 - length) == int.from_bytes(prefix.ljust(16, b"\0"), "big") >> (128 - length):
            return precedence, label
    raise AssertionError("the last line fits everything")


def _is_deprecated(host: Host, source: bytes) -> bool:
    side = None if len(source) == 4 or host.ipv6 is None else host.ipv6.local.get(source)
    found = () if side is None else side.addresses
    return any(own.address == source and own.state is AddressState.DEPRECATED for own in found)
