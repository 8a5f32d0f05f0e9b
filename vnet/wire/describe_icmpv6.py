"""The part of ``describe`` for ICMPv6: errors, neighbor discovery, multicast listeners.

As there, each function yields pieces and may end in an IndexError or struct.error where the octets run out.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address
from struct import unpack_from
from typing import Final, TypeAlias

from vnet.addresses import format_mac
from vnet.errors import WireError
from vnet.wire import icmpv6, ndp

Pieces: TypeAlias = Iterator[str]

_KINDS: Final = {
    1: "unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem", 128: "echo request",
    129: "echo reply", 130: "multicast listener query", 131: "multicast listener report", 132: "multicast listener done",
    133: "router solicitation", 134: "router advertisement", 135: "neighbor solicitation", 136: "neighbor advertisement",
    137: "redirect", 143: "multicast listener report v2",
}  # fmt: skip
_PROTOCOLS: Final = {6: "TCP", 17: "UDP", 44: "fragment", 58: "ICMPv6"}
_RECORDS: Final = {1: "is-include", 2: "is-exclude", 3: "to-include", 4: "to-exclude", 5: "allow", 6: "block"}


def icmp6(data: bytes) -> Pieces:
    """Describe an ICMPv6 message."""
    kind = data[0]
    if kind in (1, 3, 4):
        yield "ICMPv6 " + icmpv6.describe(kind, data[1])
    else:
        yield "ICMPv6 " + _KINDS.get(kind, f"type {kind} code {data[1]}")
    if kind in (128, 129):
        yield f"id {_half(data, 4)}"
        yield f"seq {_half(data, 6)}"
    elif kind in (1, 2, 3, 4):
        if kind == 2:
            yield f"mtu {unpack_from('>I', data, 4)[0]}"
        if kind == 4:
            yield f"at {unpack_from('>I', data, 4)[0]}"
        if len(data) > 8:
            yield "about " + " ".join(_quoted(data[8:]))
    elif kind in (130, 131, 132):
        group = ipv6_text(data, 8)
        yield "general" if group == "::" else f"group {group}"
    elif kind == 143:
        yield from _records(data)
    elif 133 <= kind <= 137:
        yield from _neighbor_discovery(kind, data)
    yield f"length {len(data)}"


def _neighbor_discovery(kind: int, data: bytes) -> Pieces:
    if kind == 134:
        yield f"lifetime {_half(data, 6)}"
        flags = [name for bit, name in ((0x80, "managed"), (0x40, "other")) if data[5] & bit]
        if flags:
            yield " ".join(flags)
    elif kind in (135, 136):
        yield f"target {ipv6_text(data, 8)}"
        flags = [name for bit, name in ((0x80, "router"), (0x40, "solicited"), (0x20, "override")) if data[4] & bit]
        if kind == 136 and flags:
            yield " ".join(flags)
    elif kind == 137:
        yield f"{ipv6_text(data, 24)} by {ipv6_text(data, 8)}"
    try:
        for option, body in ndp.each_option(data[{133: 8, 134: 16, 137: 40}.get(kind, 24) :]):
            yield from _option(option, body)
    except WireError:
        raise IndexError from None


def _option(kind: int, body: bytes) -> Pieces:
    if kind in (ndp.SOURCE_LINK_LAYER, ndp.TARGET_LINK_LAYER) and len(body) == 6:
        yield f"{'from' if kind == ndp.SOURCE_LINK_LAYER else 'is-at'} {format_mac(body)}"
    elif kind == ndp.PREFIX_INFORMATION:
        flags = "".join(f" {name}" for bit, name in ((0x80, "on-link"), (0x40, "auto")) if body[1] & bit)
        yield f"prefix {ipv6_text(body, 14)}/{body[0]}{flags} valid {_seconds(body, 2)} preferred {_seconds(body, 6)}"
    elif kind == ndp.MTU:
        yield f"mtu {unpack_from('>I', body, 2)[0]}"
    elif kind == ndp.RECURSIVE_DNS:
        yield "dns " + " ".join(ipv6_text(body, at) for at in range(6, len(body) - 15, 16))


def _seconds(data: bytes, position: int) -> str:
    value: int = unpack_from(">I", data, position)[0]
    return "for ever" if value == ndp.INFINITE else str(value)


def _records(data: bytes) -> Pieces:
    position = 8
    for _ in range(_half(data, 6)):
        sources = _half(data, position + 2)
        group = ipv6_text(data, position + 4)
        yield f"{_RECORDS.get(data[position], f'record {data[position]}')} {group}" + (f" ({sources})" if sources else "")
        position += 20 + 16 * sources + 4 * data[position + 1]


def _quoted(data: bytes) -> Pieces:
    """Name the packet that an error carries, of which only the first octets may be there."""
    protocol = data[6]
    ports = (f".{_half(data, 40)}", f".{_half(data, 42)}") if protocol in (6, 17) else ("", "")
    name = _PROTOCOLS.get(protocol, f"protocol {protocol}")
    yield f"{name} {ipv6_text(data, 8)}{ports[0]} > {ipv6_text(data, 24)}{ports[1]}"


def _half(data: bytes, position: int) -> int:
    return data[position] << 8 | data[position + 1]


def ipv6_text(data: bytes, position: int) -> str:
    """Read an address; raise struct.error where it is cut off."""
    high, low = unpack_from(">QQ", data, position)
    return str(IPv6Address(high << 64 | low))
