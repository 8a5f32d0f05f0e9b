"""Addresses of guests' sockets: what programs write and read, and what the stack has.

A socket of AF_INET6 that is not for IPv6 alone talks IPv4 too: to programs those addresses are ``::ffff:a.b.c.d`` (RFC 3493,
3.7), down here they have four octets. A link-local address means something on one link only: programs name it by the number
of an interface, 2 for the first NIC and so on, because 1 is the loopback interface's on Linux, or as ``fe80::1%eth0``.
"""

from __future__ import annotations

import socket
from typing import Final, NamedTuple, TypeAlias

from vnet.guests.socket_errors import name_error
from vnet.stack.host import Host
from vnet.stack.interface import Interface
from vnet.wire import ipv4, ipv6

Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""An address as Python's sockets have it: text and port, over IPv6 also flow label and the number of an interface."""

FIRST_NUMBER: Final = 2
"""Of the first NIC."""
MAPPED: Final = bytes(10) + b"\xff\xff"
"""The prefix of IPv4-mapped addresses (RFC 4291, 2.5.5.2)."""


class SocketAddress(NamedTuple):
    """What a program's address means: four or sixteen octets, the port, and the number of an interface or 0."""

    packed: bytes
    port: int
    scope: int = 0


class Literal(NamedTuple):
    """An address that was written as text; *scope* is what stood behind its percent sign."""

    packed: bytes
    scope: str = ""


def literal(text: str) -> Literal | None:
    """Read an address; None if the text is none. Each datagram that a program sends comes by here."""
    try:
        return Literal(socket.inet_pton(socket.AF_INET, text))
    except (OSError, ValueError):
        pass
    address, percent, scope = text.partition("%")
    try:
        packed = socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return None
    return None if percent and not scope else Literal(packed, scope)


def unmapped(packed: bytes) -> bytes:
    """Turn an IPv4-mapped address into the IPv4 address."""
    return packed[12:] if packed[:12] == MAPPED else packed


def written(family: int, packed: bytes | None, port: int, scope: int = 0) -> Address:
    """Write an address as the sockets of a family do; None stands for all of IPv4, or for none."""
    if family == socket.AF_INET:
        return socket.inet_ntoa(packed or ipv4.ANY), port
    if packed is None:
        packed = ipv6.ANY
    elif len(packed) == 4:
        packed = MAPPED + packed
    return socket.inet_ntop(socket.AF_INET6, packed), port, 0, scope if needs_scope(packed) else 0


def needs_scope(packed: bytes) -> bool:
    """Tell whether an address means something on one link only (RFC 4007)."""
    if len(packed) == 4:
        return False
    return ipv6.is_link_local(packed) or (ipv6.is_multicast(packed) and ipv6.scope(packed) <= 2)


def is_wildcard(packed: bytes | None) -> bool:
    """Tell whether a bound address stands for all of an IP version."""
    return packed is None or packed == ipv6.ANY


# Interfaces by number


def number_of(host: Host, interface: Interface | None) -> int:
    """Return the number of an interface, 0 for None."""
    return 0 if interface is None else FIRST_NUMBER + list(host.interfaces.values()).index(interface)


def interface_of(host: Host, number: int) -> Interface | None:
    """Find an interface by its number."""
    found = list(host.interfaces.values())
    return found[number - FIRST_NUMBER] if 0 <= number - FIRST_NUMBER < len(found) else None


def interface_named(host: Host, scope: str) -> Interface | None:
    """Find an interface by its name or number, as it stands behind the percent sign of an address."""
    if scope in host.interfaces:
        return host.interfaces[scope]
    return interface_of(host, int(scope)) if scope.isascii() and scope.isdigit() else None


def number_named(host: Host, scope: str) -> int:
    """Read a scope, the name or number of an interface; 0 if there is none. Raise socket.gaierror for an unknown one."""
    found = interface_named(host, scope)
    if scope and found is None:
        raise name_error(socket.EAI_NONAME, f"{scope}: Name or service not known")
    return number_of(host, found)
