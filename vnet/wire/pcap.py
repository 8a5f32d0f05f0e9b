"""Capture files of the classic kind (draft-ietf-opsawg-pcap): one header, then records, one interface for all.

Written with timestamps in nanoseconds (magic A1B23C4D), read in both resolutions and both byte orders.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import Final, final

from vnet.errors import WireError
from vnet.units import SECOND, Instant

LINKTYPE_ETHERNET: Final = 1
MAX_RECORD: Final = 2**20
"""A longer record is taken for damage."""

_HEADER_OCTETS: Final = 24
_RECORD_OCTETS: Final = 16
_LINKTYPE, _FCS_PRESENT, _FCS_LENGTH = 0xFFFF, 0x0400_0000, 0xF000_0000
_KINDS: Final = {
    bytes.fromhex("a1b2c3d4"): (">", 1_000),
    bytes.fromhex("d4c3b2a1"): ("<", 1_000),
    bytes.fromhex("a1b23c4d"): (">", 1),
    bytes.fromhex("4d3cb2a1"): ("<", 1),
}
_WRITE_HEADER: Final = Struct("<IHHiIII")
_WRITE_RECORD: Final = Struct("<IIII")


@final
@dataclass(frozen=True, slots=True)
class Record:
    """One frame, the instant it was seen (nanoseconds), and its length before it was cut."""

    instant: Instant
    frame: bytes
    length: int


@final
@dataclass(frozen=True, slots=True)
class Capture:
    """A whole file; *has_fcs* tells that its header says that frames end in their FCS."""

    linktype: int
    records: tuple[Record, ...]
    has_fcs: bool = False


def is_pcap(data: bytes) -> bool:
    """Tell whether *data* begins like a classic capture file."""
    return data[:4] in _KINDS


def read(data: bytes) -> Capture:
    """Read a file; raise WireError if it is damaged or cut short."""
    if not is_pcap(data):
        raise WireError("not a pcap file: its magic number is wrong")
    if len(data) < _HEADER_OCTETS:
        raise WireError("the pcap header is cut short")
    order, unit = _KINDS[data[:4]]
    link = Struct(order + "I").unpack_from(data, 20)[0]
    record = Struct(order + "IIII")
    records: list[Record] = []
    position = _HEADER_OCTETS
    while position < len(data):
        if position + _RECORD_OCTETS > len(data):
            raise WireError("a pcap record header is cut short")
        seconds, fraction, captured, length = record.unpack_from(data, position)
        position += _RECORD_OCTETS
        if captured > MAX_RECORD:
            raise WireError(f"a pcap record cannot have {captured} octets")
        if position + captured > len(data):
            raise WireError("a pcap record is cut short")
        records.append(Record(seconds * SECOND + fraction * unit, data[position : position + captured], length))
        position += captured
    return Capture(link & _LINKTYPE, tuple(records), bool(link & _FCS_PRESENT and link & _FCS_LENGTH))


def header() -> bytes:
    """Begin a file of Ethernet frames with timestamps in nanoseconds."""
    return _WRITE_HEADER.pack(0xA1B23C4D, 2, 4, 0, 0, 262_144, LINKTYPE_ETHERNET)


def record(instant: Instant, frame: bytes) -> bytes:
    """Record a frame; *instant* counts from 1970 as far as readers are concerned, and must stay below 2^32 seconds."""
    seconds, nanoseconds = divmod(instant, SECOND)
    return _WRITE_RECORD.pack(seconds, nanoseconds, len(frame), len(frame)) + frame


def write(frames: Iterable[tuple[Instant, bytes]]) -> bytes:
    """Write a whole file from (instant, frame) pairs."""
    return header() + b"".join(record(instant, frame) for instant, frame in frames)
