"""IGMP messages (RFC 1112, RFC 2236, RFC 3376): what hosts say of the groups that they listen to, and who asks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Final, final

from vnet.errors import WireError
from vnet.wire.checksum import checksum, is_valid

QUERY: Final = 0x11
REPORT_V1: Final = 0x12
REPORT_V2: Final = 0x16
LEAVE: Final = 0x17
REPORT_V3: Final = 0x22

IS_EXCLUDE: Final = 2
TO_INCLUDE: Final = 3
TO_EXCLUDE: Final = 4
"""Kinds of group records (RFC 3376, 4.2.12). With no sources listed: listening; listening no more; listening from now on."""

ALL_ROUTERS: Final = b"\xe0\x00\x00\x02"
ALL_IGMPV3_ROUTERS: Final = b"\xe0\x00\x00\x16"
ROUTER_ALERT: Final = b"\x94\x04\x00\x00"
"""The IP option that all of these carry (RFC 2113), which have a TTL of 1 besides."""
INTERNETWORK_CONTROL: Final = 0xC0
"""The TOS octet of version 3 (RFC 3376, section 4)."""

HEADER_OCTETS: Final = 8
RECORD_OCTETS: Final = 8
_QUERY_V3_OCTETS: Final = 12
_HEADER: Final = Struct("!BBH4s")
_RECORD: Final = Struct("!BBH4s")
_REPORT_V3: Final = Struct("!BBHHH")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Igmp:
    """A message of any version.

    ``version`` is that of a query, by its length (RFC 3376, 7.1), else 0. ``code`` is Max Resp Code; ``groups`` holds the
    group of the message, or those of all records of a version 3 report; 0.0.0.0 in a query asks for all.
    """

    kind: int
    version: int = 0
    code: int = 0
    groups: tuple[bytes, ...]

    @property
    def response_ms(self) -> int:
        """How long hosts may take to answer a query, in milliseconds (RFC 3376, 4.1.1; RFC 2236, section 4)."""
        if self.version == 1:
            return 10_000
        if self.version == 3 and self.code >= 128:
            return (((self.code & 0x0F) | 0x10) << (self.code >> 4 & 0x07) + 3) * 100
        return self.code * 100


def decode(message: bytes) -> Igmp:
    """Read a message; raise WireError if it is cut off or its checksum is wrong. Sources are not looked at."""
    if len(message) < HEADER_OCTETS:
        raise WireError("IGMP message cut off")
    if not is_valid(message):
        raise WireError("IGMP checksum is wrong")
    kind, code, _, group = _HEADER.unpack_from(message)
    if kind == REPORT_V3:
        return Igmp(kind=kind, groups=_record_groups(message))
    version = 0
    if kind == QUERY:
        version = 3 if len(message) >= _QUERY_V3_OCTETS else 2 if code else 1
    return Igmp(kind=kind, version=version, code=code, groups=(group,))


def _record_groups(message: bytes) -> tuple[bytes, ...]:
    groups = []
    at = HEADER_OCTETS
    for _ in range(_REPORT_V3.unpack_from(message)[4]):
        if at + RECORD_OCTETS > len(message):
            raise WireError("IGMP group record cut off")
        _, auxiliary, sources, group = _RECORD.unpack_from(message, at)
        groups.append(group)
        at += RECORD_OCTETS + 4 * (auxiliary + sources)
    return tuple(groups)


def simple(kind: int, group: bytes, code: int = 0) -> bytes:
    """Write a message of version 1 or 2, checksum included."""
    draft = _HEADER.pack(kind, code, 0, group)
    return _HEADER.pack(kind, code, checksum(draft), group)


def query_v3(group: bytes, code: int) -> bytes:
    """Write a query of version 3 for all groups (0.0.0.0) or one, robustness 2, an interval of 125 s, and no sources."""
    tail = bytes((2, 125, 0, 0))
    draft = _HEADER.pack(QUERY, code, 0, group) + tail
    return _HEADER.pack(QUERY, code, checksum(draft), group) + tail


def report_v3(records: Iterable[tuple[int, bytes]]) -> bytes:
    """Write a version 3 report of (kind of record, group), none with sources."""
    body = b"".join(_RECORD.pack(kind, 0, 0, group) for kind, group in records)
    count = len(body) // RECORD_OCTETS
    value = checksum(_REPORT_V3.pack(REPORT_V3, 0, 0, 0, count) + body)
    return _REPORT_V3.pack(REPORT_V3, 0, value, 0, count) + body
