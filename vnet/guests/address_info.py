"""``getaddrinfo`` and ``getnameinfo`` of a guest's programs (RFC 3493, section 6), as glibc has them.

What the guest knows, or finds by DNS, is a list of addresses; the C library makes entries of it, since with a number for a
host it asks nobody.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from ipaddress import ip_address
from typing import Final, Literal, TypeAlias

from vnet.guests.names import gai_error
from vnet.guests.socket_address import MAPPED, interface_of
from vnet.guests.socket_table import SocketTable
from vnet.stack.host import Host
from vnet.stack.resolver_answer import Outcome, Result
from vnet.wire import dns, ipv6

Resolved: TypeAlias = list[
    tuple[Literal[socket.AddressFamily.AF_INET], socket.SocketKind, int, str, tuple[str, int]]
    | tuple[
        Literal[socket.AddressFamily.AF_INET6],
        socket.SocketKind,
        int,
        str,
        tuple[str, int, int, int] | tuple[int, bytes],
    ]
]
"""What getaddrinfo returns."""

_OURS: Final = socket.AI_ADDRCONFIG | socket.AI_CANONNAME | socket.AI_V4MAPPED | socket.AI_ALL
"""Flags that are seen to here: the C library would ask what addresses the machine has, not the guest."""
_LINK: Final = 2
"""The scope of groups on one link (RFC 4291, 2.7)."""
_LOOPBACK_NUMBER: Final = 1
_LOOPBACK: Final = "lo"


async def get_addresses(
    table: SocketTable, host: bytes | None, port: bytes | str | int | None, family: int, type: int, proto: int, flags: int
) -> Resolved:
    """Look a host up for a program; raise socket.gaierror as glibc does, with what each server did."""
    others = flags & ~_OURS | socket.AI_NUMERICHOST
    if host is None:
        return _of_no_host(port, family, type, proto, others)
    name = host.decode("ascii", "replace")
    socket.getaddrinfo("127.0.0.1", port, 0, type, proto, others)  # raises for services and types that are not there
    if family not in (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6):
        raise socket.gaierror(socket.EAI_FAMILY, "ai_family not supported")
    result = await _find(table, name, family, flags)
    if result.outcome is not Outcome.FOUND:
        raise gai_error(name, result)
    entries: Resolved = []
    scope = table.numbered_scope(name)
    for address in result.addresses:
        entries += socket.getaddrinfo(f"{ip_address(address)}{scope}", port, 0, type, proto, others)
    if flags & socket.AI_CANONNAME:
        first = entries[0]
        canonical = dns.name_text(result.canonical) or name
        entries[0] = (*first[:3], canonical, first[4])
    return entries


async def get_name(table: SocketTable, where: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
    """Name a transport address for a program; raise socket.gaierror for no address, and if there must be a name."""
    number, service = _number_of(table, where, flags & ~socket.NI_NAMEREQD | socket.NI_NUMERICHOST)
    if flags & socket.NI_NUMERICHOST:
        return number, service
    address = ip_address(number.partition("%")[0])
    result = await table.names.name_of(address)
    if result.outcome is Outcome.FOUND:
        return dns.name_text(result.names[0]), service
    if flags & socket.NI_NAMEREQD:
        raise gai_error(number, replace(result, outcome=Outcome.NO_NAME))
    return number, service


def _of_no_host(port: bytes | str | int | None, family: int, type: int, proto: int, flags: int) -> Resolved:
    """Return the addresses of everything or of the guest itself, in glibc's order."""
    found: Resolved = []
    for text in ("0.0.0.0", "::") if flags & socket.AI_PASSIVE else ("::1", "127.0.0.1"):
        if family in (0, socket.AF_INET6 if ":" in text else socket.AF_INET):
            found += socket.getaddrinfo(text, port, 0, type, proto, flags)
    return found


def _number_of(table: SocketTable, where: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
    """Write an address; the C library does not see its scope, for which it would name an interface of the machine.

    As glibc does, a link's scope is the name of the interface, if there is one; any other scope is its number.
    """
    if len(where) == 2:
        return socket.getnameinfo(where, flags)
    scope = where[3] if len(where) > 3 else 0
    number, service = socket.getnameinfo((*where[:3], 0), flags)
    if not scope:
        return number, service
    name = ""
    address = ip_address(number)
    if address.is_link_local or (address.is_multicast and ipv6.scope(address.packed) == _LINK):
        interface = interface_of(table.host, scope)
        name = _LOOPBACK if scope == _LOOPBACK_NUMBER else interface.name if interface is not None else ""
    return f"{number}%{name or scope}", service


async def _find(table: SocketTable, name: str, family: int, flags: int) -> Result:
    names = table.names
    if flags & socket.AI_NUMERICHOST:
        return Result(outcome=Outcome.NO_NAME)  # trio looks at numbers itself
    if flags & socket.AI_ADDRCONFIG:
        family_left = _family_in_use(table.host, family)
        if family_left is None:
            return Result(outcome=Outcome.NO_NAME)
        family = family_left
    result = await names.find(name, family)
    if family != socket.AF_INET6 or not flags & socket.AI_V4MAPPED:
        return result
    if result.outcome is Outcome.FOUND and not flags & socket.AI_ALL:
        return result
    found = await names.find(name, socket.AF_INET)
    if found.outcome is not Outcome.FOUND:
        return result
    mapped = tuple(MAPPED + address for address in found.addresses)
    return replace(found, addresses=(*result.addresses, *mapped))


def _family_in_use(host: Host, family: int) -> int | None:
    """Narrow a family down to those that the guest has addresses of (AI_ADDRCONFIG), as glibc does; None if none is left."""
    four, six = bool(host.local), host.ipv6 is not None and bool(host.ipv6.local)
    if four == six:
        return family
    left = int(socket.AF_INET if four else socket.AF_INET6)
    return left if family in (socket.AF_UNSPEC, left) else None
