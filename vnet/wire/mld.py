"""Multicast listener discovery, version 2 (RFC 3810): queries and reports.

Messages go out with hop limit 1 from a link-local address, behind a hop-by-hop header with a router alert (section 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, final

from vnet.errors import WireError
from vnet.wire import icmpv6, ipv6
from vnet.wire.icmpv6 import Icmpv6

HOP_LIMIT: Final = 1
ROUTER_ALERT: Final = b"\x05\x02\x00\x00"
"""The router alert option with the value "MLD" (RFC 2711, section 2.1)."""

IS_INCLUDE: Final = 1
IS_EXCLUDE: Final = 2
TO_INCLUDE: Final = 3
TO_EXCLUDE: Final = 4
ALLOW_NEW: Final = 5
BLOCK_OLD: Final = 6
"""Types of multicast address records (section 5.2.12)."""

MAX_RECORDS: Final = 512
"""Records in one report that are read: more do not fit 9000 octets with sources."""

_QUERY: Final = Struct("!16sBBH")
_RECORD: Final = Struct("!BBH16s")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query (section 5.1): general with ``group`` zero. ``max_response`` is in milliseconds; ``version`` 1 or 2."""

    group: bytes = ipv6.ANY
    max_response: int = 10_000
    sources: tuple[bytes, ...] = ()
    robustness: int = 2
    interval: int = 125
    version: int = 2

    def encode(self) -> Icmpv6:
        """Turn it into an ICMPv6 message; times are rounded down to what their codes can say."""
        if self.version == 1:
            return Icmpv6(icmpv6.MLD_QUERY, 0, min(self.max_response, 0xFFFF) << 16, self.group)
        body = _QUERY.pack(self.group, self.robustness & 7, _code(self.interval, 4), len(self.sources))
        return Icmpv6(icmpv6.MLD_QUERY, 0, _code(self.max_response, 12) << 16, body + b"".join(self.sources))


@final
@dataclass(frozen=True, slots=True)
class Record:
    """A multicast address record (section 5.2)."""

    kind: int
    group: bytes
    sources: tuple[bytes, ...] = ()
    auxiliary: bytes = b""


@final
@dataclass(frozen=True, slots=True)
class Report:
    """A version 2 report (section 5.2)."""

    records: tuple[Record, ...]

    def encode(self) -> Icmpv6:
        """Turn it into an ICMPv6 message."""
        body = b""
        for each in self.records:
            auxiliary = each.auxiliary + bytes(-len(each.auxiliary) % 4)
            body += _RECORD.pack(each.kind, len(auxiliary) >> 2, len(each.sources), each.group)
            body += b"".join(each.sources) + auxiliary
        return Icmpv6(icmpv6.MLDV2_REPORT, 0, len(self.records), body)


def decode_query(message: Icmpv6) -> Query:
    """Read a query of version 1 or 2 (section 8.1); raise WireError if it is neither."""
    body, maximum = message.body, message.rest >> 16
    if len(body) == 16:
        return Query(group=body, max_response=maximum, robustness=0, interval=0, version=1)
    if len(body) < _QUERY.size:
        raise WireError("an MLD query that is cut off")
    group, flags, interval, count = _QUERY.unpack_from(body)
    end = _QUERY.size + 16 * count
    if len(body) < end:
        raise WireError("an MLD query that is cut off")
    sources = tuple(body[at : at + 16] for at in range(_QUERY.size, end, 16))
    return Query(
        group=group, max_response=_value(maximum, 12), sources=sources, robustness=flags & 7, interval=_value(interval, 4)
    )


def decode_report(message: Icmpv6) -> Report:
    """Read a version 2 report; raise WireError if it is cut off."""
    body, records, at = message.body, [], 0
    for _ in range(min(message.rest & 0xFFFF, MAX_RECORDS)):
        if len(body) < at + _RECORD.size:
            raise WireError("an MLD report that is cut off")
        kind, words, count, group = _RECORD.unpack_from(body, at)
        start = at + _RECORD.size
        middle = start + 16 * count
        end = middle + 4 * words
        if len(body) < end:
            raise WireError("an MLD report that is cut off")
        sources = tuple(body[place : place + 16] for place in range(start, middle, 16))
        records.append(Record(kind, group, sources, body[middle:end]))
        at = end
    return Report(tuple(records))


def packet(source: bytes, destination: bytes, message: Icmpv6) -> bytes:
    """Write the whole IPv6 packet, with its hop-by-hop header."""
    octets = message.encode(source, destination)
    extension = bytes((ipv6.PROTOCOL_ICMPV6, 0)) + ROUTER_ALERT + b"\x01\x00"  # PadN of two octets
    head = ipv6.build(source, destination, ipv6.HOP_BY_HOP, len(extension) + len(octets), hop_limit=HOP_LIMIT)
    return head + extension + octets


def _value(code: int, mantissa_bits: int) -> int:
    """Read a time that may be a floating point number (sections 5.1.3 and 5.1.9)."""
    top = 1 << (mantissa_bits + 3)
    if code < top:
        return code
    exponent = code >> mantissa_bits & 7
    return (code & ((1 << mantissa_bits) - 1) | 1 << mantissa_bits) << (exponent + 3)


def _code(value: int, mantissa_bits: int) -> int:
    top = 1 << (mantissa_bits + 3)
    if value < top:
        return value
    shift = max(value.bit_length() - mantissa_bits - 1, 3)
    if shift > 10:
        return (top << 1) - 1  # the largest there is
    return top | (shift - 3) << mantissa_bits | (value >> shift) & ((1 << mantissa_bits) - 1)
