"""Neighbor discovery messages and their options (RFC 4861; recursive DNS servers of RFC 8106).

``decode`` checks a message as RFC 4861 demands of a receiver (sections 6.1, 7.1 and 8.1): a message that passes can be acted
upon. Options of other types are kept as they came; an option of length zero spoils the whole message (section 4.6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final, TypeAlias, final

from vnet.errors import WireError
from vnet.wire import icmpv6, ipv6
from vnet.wire.icmpv6 import Icmpv6

HOP_LIMIT: Final = 255
"""Of every message: one that a router passed on has less (RFC 4861, 11.2)."""
INFINITE: Final = 0xFFFFFFFF
"""A lifetime that never ends."""

SOURCE_LINK_LAYER: Final = 1
TARGET_LINK_LAYER: Final = 2
PREFIX_INFORMATION: Final = 3
REDIRECTED_HEADER: Final = 4
MTU: Final = 5
RECURSIVE_DNS: Final = 25

MAX_OPTIONS: Final = 64
"""Options in one message; what follows is not read."""

_ROUTER_FIELDS: Final = Struct("!II")
_PREFIX: Final = Struct("!BBIIxxxx16s")
_ON_LINK, _AUTONOMOUS = 0x80, 0x40
_MANAGED, _OTHER = 0x80, 0x40
_IS_ROUTER, _SOLICITED, _OVERRIDE = 0x80000000, 0x40000000, 0x20000000


@final
@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefix information option (section 4.6.2); lifetimes in seconds, ``INFINITE`` for ever."""

    prefix: bytes
    length: int
    on_link: bool = True
    autonomous: bool = True
    valid: int = 2592000
    preferred: int = 604800


@final
@dataclass(frozen=True, slots=True)
class DnsServers:
    """A recursive DNS server option (RFC 8106, section 5.1); the lifetime in seconds."""

    servers: tuple[bytes, ...]
    lifetime: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a message; ``others`` are (type, octets behind type and length)."""

    source_mac: bytes | None = None
    target_mac: bytes | None = None
    prefixes: tuple[Prefix, ...] = ()
    mtu: int | None = None
    dns: tuple[DnsServers, ...] = ()
    others: tuple[tuple[int, bytes], ...] = ()

    def encode(self) -> bytes:
        """Write them, padded to units of eight octets."""
        found = b""
        if self.source_mac is not None:
            found += _option(SOURCE_LINK_LAYER, self.source_mac)
        if self.target_mac is not None:
            found += _option(TARGET_LINK_LAYER, self.target_mac)
        if self.mtu is not None:
            found += _option(MTU, b"\0\0" + self.mtu.to_bytes(4, "big"))
        for each in self.prefixes:
            flags = (_ON_LINK if each.on_link else 0) | (_AUTONOMOUS if each.autonomous else 0)
            body = _PREFIX.pack(each.length, flags, each.valid, each.preferred, each.prefix)
            found += _option(PREFIX_INFORMATION, body)
        for servers in self.dns:
            body = b"\0\0" + servers.lifetime.to_bytes(4, "big") + b"".join(servers.servers)
            found += _option(RECURSIVE_DNS, body)
        return found + b"".join(_option(kind, body) for kind, body in self.others)


NO_OPTIONS: Final = Options()


@final
@dataclass(frozen=True, slots=True)
class RouterSolicitation:
    """Section 4.1."""

    options: Options = NO_OPTIONS


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RouterAdvertisement:
    """Section 4.2; ``lifetime`` in seconds, ``reachable`` and ``retransmit`` in milliseconds, 0 for "not specified"."""

    hop_limit: int = 64
    managed: bool = False
    other: bool = False
    lifetime: int = 1800
    reachable: int = 0
    retransmit: int = 0
    options: Options = NO_OPTIONS


@final
@dataclass(frozen=True, slots=True)
class NeighborSolicitation:
    """Section 4.3."""

    target: bytes
    options: Options = NO_OPTIONS


@final
@dataclass(frozen=True, slots=True)
class NeighborAdvertisement:
    """Section 4.4."""

    target: bytes
    is_router: bool = False
    solicited: bool = False
    override: bool = False
    options: Options = NO_OPTIONS


@final
@dataclass(frozen=True, slots=True)
class Redirect:
    """Section 4.5."""

    target: bytes
    destination: bytes
    options: Options = NO_OPTIONS


Message: TypeAlias = RouterSolicitation | RouterAdvertisement | NeighborSolicitation | NeighborAdvertisement | Redirect


def encode(message: Message) -> Icmpv6:
    """Turn a message into an ICMPv6 message, whose checksum wants the addresses."""
    options = message.options.encode()
    match message:
        case RouterSolicitation():
            return Icmpv6(icmpv6.ROUTER_SOLICITATION, 0, 0, options)
        case RouterAdvertisement():
            flags = (_MANAGED if message.managed else 0) | (_OTHER if message.other else 0)
            rest = message.hop_limit << 24 | flags << 16 | message.lifetime
            times = _ROUTER_FIELDS.pack(message.reachable, message.retransmit)
            return Icmpv6(icmpv6.ROUTER_ADVERTISEMENT, 0, rest, times + options)
        case NeighborSolicitation():
            return Icmpv6(icmpv6.NEIGHBOR_SOLICITATION, 0, 0, message.target + options)
        case NeighborAdvertisement():
            rest = _IS_ROUTER if message.is_router else 0
            rest |= (_SOLICITED if message.solicited else 0) | (_OVERRIDE if message.override else 0)
            return Icmpv6(icmpv6.NEIGHBOR_ADVERTISEMENT, 0, rest, message.target + options)
        case Redirect():
            return Icmpv6(icmpv6.REDIRECT, 0, 0, message.target + message.destination + options)


def decode(message: Icmpv6, source: bytes, destination: bytes, hop_limit: int) -> Message:
    """Read a neighbor discovery message from an IPv6 packet with these addresses; raise WireError if it must be ignored."""
    if hop_limit != HOP_LIMIT:
        raise WireError("a neighbor discovery message that came through a router")
    if message.code:
        raise WireError("a neighbor discovery message whose code is not 0")
    match message.kind:
        case icmpv6.ROUTER_SOLICITATION:
            options = _options(message.body)
            if source == ipv6.ANY and options.source_mac is not None:
                raise WireError("a link-layer address of nobody")
            return RouterSolicitation(options)
        case icmpv6.ROUTER_ADVERTISEMENT:
            return _router_advertisement(message, source)
        case icmpv6.NEIGHBOR_SOLICITATION:
            target, options = _target(message.body), _options(message.body[16:])
            if source == ipv6.ANY and (destination != ipv6.solicited_node(target) or options.source_mac is not None):
                raise WireError("a solicitation for duplicates that is not one")
            return NeighborSolicitation(target, options)
        case icmpv6.NEIGHBOR_ADVERTISEMENT:
            solicited = bool(message.rest & _SOLICITED)
            if solicited and ipv6.is_multicast(destination):
                raise WireError("an answer to everybody")
            target, options = _target(message.body), _options(message.body[16:])
            router, override = bool(message.rest & _IS_ROUTER), bool(message.rest & _OVERRIDE)
            return NeighborAdvertisement(target, router, solicited, override, options)
        case icmpv6.REDIRECT:
            target = _target(message.body)
            if len(message.body) < 32 or not ipv6.is_link_local(source):
                raise WireError("a redirect that is cut off, or not from a router")
            redirected = message.body[16:32]
            if ipv6.is_multicast(redirected) or not (ipv6.is_link_local(target) or target == redirected):
                raise WireError("a redirect to what is neither a router nor the destination")
            return Redirect(target, redirected, _options(message.body[32:]))
    raise WireError(f"ICMPv6 type {message.kind} is no neighbor discovery")


def _router_advertisement(message: Icmpv6, source: bytes) -> RouterAdvertisement:
    if not ipv6.is_link_local(source):
        raise WireError("a router advertisement that is not from a link-local address")
    if len(message.body) < _ROUTER_FIELDS.size:
        raise WireError("a router advertisement that is cut off")
    reachable, retransmit = _ROUTER_FIELDS.unpack_from(message.body)
    flags = message.rest >> 16
    return RouterAdvertisement(
        hop_limit=message.rest >> 24, managed=bool(flags & _MANAGED), other=bool(flags & _OTHER),
        lifetime=message.rest & 0xFFFF, reachable=reachable, retransmit=retransmit,
        options=_options(message.body[_ROUTER_FIELDS.size :]),
    )  # fmt: skip


def _target(body: bytes) -> bytes:
    if len(body) < 16:
        raise WireError("a neighbor discovery message that is cut off")
    if ipv6.is_multicast(body[:16]):
        raise WireError("a neighbor that is a group")
    return body[:16]


def _option(kind: int, body: bytes) -> bytes:
    body += bytes(-(len(body) + 2) % 8)
    return bytes((kind, (len(body) + 2) >> 3)) + body


def each_option(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Go through (type, octets behind type and length); raise WireError where an option is cut off or has no length."""
    at = 0
    for _ in range(MAX_OPTIONS):
        if at >= len(data):
            return
        length = data[at + 1] * 8 if at + 1 < len(data) else 0
        if length == 0 or at + length > len(data):
            raise WireError("a neighbor discovery option that is cut off")
        yield data[at], data[at + 2 : at + length]
        at += length


def _options(data: bytes) -> Options:
    source_mac = target_mac = None
    mtu: int | None = None
    prefixes: list[Prefix] = []
    dns: list[DnsServers] = []
    others: list[tuple[int, bytes]] = []
    for kind, body in each_option(data):
        if kind == SOURCE_LINK_LAYER and len(body) == 6 and source_mac is None:
            source_mac = body
        elif kind == TARGET_LINK_LAYER and len(body) == 6 and target_mac is None:
            target_mac = body
        elif kind == MTU and len(body) == 6 and mtu is None:
            mtu = int.from_bytes(body[2:], "big")
        elif kind == PREFIX_INFORMATION and len(body) == _PREFIX.size and body[0] <= 128:
            length, flags, valid, preferred, prefix = _PREFIX.unpack(body)
            on_link, autonomous = bool(flags & _ON_LINK), bool(flags & _AUTONOMOUS)
            prefixes.append(Prefix(prefix, length, on_link, autonomous, valid, preferred))
        elif kind == RECURSIVE_DNS and len(body) >= 22 and len(body) % 16 == 6:
            servers = tuple(body[at : at + 16] for at in range(6, len(body), 16))
            dns.append(DnsServers(servers, int.from_bytes(body[2:6], "big")))
        else:
            others.append((kind, body))
    return Options(
        source_mac=source_mac, target_mac=target_mac, prefixes=tuple(prefixes), mtu=mtu, dns=tuple(dns), others=tuple(others)
    )
