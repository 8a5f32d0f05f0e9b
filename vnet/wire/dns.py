"""DNS messages (RFC 1035, 4): questions and records, names with their compression, EDNS's one record (RFC 6891).

A name is a tuple of its labels without the root. What a record holds stays octets, except that names within it are written
out in full, since their pointers mean nothing outside the message.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import pack, unpack_from
from typing import Final, TypeAlias, final

from vnet.errors import WireError

Name: TypeAlias = tuple[bytes, ...]

MAX_NAME: Final = 255
MAX_LABEL: Final = 63
"""Octets of a name as it is written, and of a label (RFC 1035, 2.3.4)."""
MAX_RECORDS: Final = 1024
"""Questions and records of a message that are read; a longer one is refused, as nothing here asks for so many."""

A, NS, CNAME, SOA, PTR, AAAA, OPT, ANY = 1, 2, 5, 6, 12, 28, 41, 255
INTERNET: Final = 1
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR, NOT_IMPLEMENTED, REFUSED, BAD_VERSION = 0, 1, 2, 3, 4, 5, 16

RESPONSE: Final = 0x8000
AUTHORITATIVE: Final = 0x0400
TRUNCATED: Final = 0x0200
RECURSION_DESIRED: Final = 0x0100
OPCODE: Final = 0x7800

_HEADER: Final = 12
_POINTER: Final = 0xC0
_HOLD_A_NAME: Final = frozenset({NS, CNAME, PTR})


@final
@dataclass(frozen=True, slots=True)
class Question:
    """What is asked."""

    name: Name
    kind: int
    record_class: int = INTERNET


@final
@dataclass(frozen=True, slots=True)
class Record:
    """A resource record; ``ttl`` in seconds."""

    name: Name
    kind: int
    ttl: int
    data: bytes
    record_class: int = INTERNET


@final
@dataclass(frozen=True, slots=True)
class Message:
    """A message; ``flags`` are the header's second word, with opcode and response code."""

    identifier: int
    flags: int
    questions: tuple[Question, ...] = ()
    answers: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()


def parse_name(text: str) -> Name:
    """Read a name as people write it, in ASCII, with or without the dot at its end; raise ValueError for what is none."""
    labels = tuple(label.encode("ascii") for label in text.removesuffix(".").split(".")) if text not in ("", ".") else ()
    if any(not 0 < len(label) <= MAX_LABEL for label in labels):
        raise ValueError(f"{text!r} has a label of no or of more than {MAX_LABEL} characters")
    if sum(len(label) + 1 for label in labels) + 1 > MAX_NAME:
        raise ValueError(f"{text[:40]!r}... is longer than a name can be")
    return labels


def folded(name: Name) -> Name:
    """Return the form in which names are compared: ASCII letters are the same in either case (RFC 4343)."""
    return tuple(label.lower() for label in name)


def name_text(name: Name) -> str:
    """Write a name as people do, without the dot at its end; what is no printable ASCII, dots and backslashes within labels
    are escaped (RFC 1035, 5.1)."""
    return ".".join("".join(map(_character, label)) for label in name)


def _character(octet: int) -> str:
    if not 0x21 <= octet <= 0x7E:
        return f"\\{octet:03}"
    return f"\\{octet:c}" if octet in b".\\" else chr(octet)


def reverse_name(address: IPv4Address | IPv6Address) -> Name:
    """Return the name under which an address has its PTR record (RFC 1035, 3.5; RFC 3596, 2.5)."""
    return parse_name(address.reverse_pointer)


# -- reading


def decode(data: bytes) -> Message:
    """Read a message; raise WireError, and nothing else, for octets that are none. What follows it is ignored."""
    try:
        identifier, flags, *counts = unpack_from(">6H", data)
        if sum(counts) > MAX_RECORDS:
            raise WireError("DNS message of too many records")
        position = _HEADER
        questions = []
        for _ in range(counts[0]):
            name, position = _read_name(data, position)
            questions.append(Question(name, *unpack_from(">HH", data, position)))
            position += 4
        sections: list[tuple[Record, ...]] = []
        for count in counts[1:]:
            records = []
            for _ in range(count):
                record, position = _read_record(data, position)
                records.append(record)
            sections.append(tuple(records))
    except (struct.error, IndexError):
        raise WireError("DNS message cut off") from None
    return Message(identifier, flags, tuple(questions), *sections)


def _read_record(data: bytes, position: int) -> tuple[Record, int]:
    name, position = _read_name(data, position)
    kind, record_class, ttl, length = unpack_from(">HHIH", data, position)
    position += 10
    end = position + length
    if end > len(data):
        raise WireError("DNS record cut off")
    held = data[position:end]
    if kind in _HOLD_A_NAME:
        inner, behind = _read_name(data, position)
        if behind != end:
            raise WireError("DNS record is not as long as the name in it")
        held = _plain(inner)
    return Record(name, kind, ttl, held, record_class), end


def _read_name(data: bytes, position: int) -> tuple[Name, int]:
    """Read a name; each pointer has to lead before the piece it ends, so there are no circles (RFC 1035, 4.1.4)."""
    labels: list[bytes] = []
    octets = 1
    behind: int | None = None
    piece = position
    while length := data[position]:
        if length >= _POINTER:
            target = (length & 0x3F) << 8 | data[position + 1]
            if behind is None:
                behind = position + 2
            if not _HEADER <= target < piece:
                raise WireError("DNS name points forward, or at itself")
            piece = position = target
            continue
        if length > MAX_LABEL:
            raise WireError("DNS label of an unknown kind")
        label = data[position + 1 : position + 1 + length]
        if len(label) < length:
            raise WireError("DNS name cut off")
        octets += length + 1
        if octets > MAX_NAME:
            raise WireError("DNS name is too long")
        labels.append(label)
        position += 1 + length
    return tuple(labels), position + 1 if behind is None else behind


# -- writing


def encode(message: Message) -> bytes:
    """Write a message; the records' own names are compressed, those within records are not (RFC 3597, 4)."""
    sections = (message.answers, message.authority, message.additional)
    out = bytearray(pack(">6H", message.identifier, message.flags, len(message.questions), *map(len, sections)))
    known: dict[Name, int] = {}
    for question in message.questions:
        _write_name(out, question.name, known)
        out += pack(">HH", question.kind, question.record_class)
    for section in sections:
        for record in section:
            _write_name(out, record.name, known)
            out += pack(">HHIH", record.kind, record.record_class, record.ttl, len(record.data)) + record.data
    return bytes(out)


def _write_name(out: bytearray, name: Name, known: dict[Name, int]) -> None:
    for index in range(len(name)):
        rest = name[index:]  # compared as it is: a pointer to other letters would change the asker's (draft "0x20")
        if rest in known:
            out += pack(">H", _POINTER << 8 | known[rest])
            return
        if len(out) < 0x4000:
            known[rest] = len(out)
        out.append(len(name[index]))
        out += name[index]
    out.append(0)


def _plain(name: Name) -> bytes:
    return b"".join(bytes((len(label),)) + label for label in name) + b"\0"


def name_record(name: Name, kind: int, ttl: int, target: Name) -> Record:
    """Make a record that holds a name: PTR, NS or CNAME."""
    return Record(name, kind, ttl, _plain(target))


def held_name(record: Record) -> Name:
    """Return the name that a PTR, NS or CNAME record holds, which ``decode`` or ``name_record`` made."""
    name, _ = _read_name(record.data, 0)
    return name


def address_record(name: Name, ttl: int, address: IPv4Address | IPv6Address) -> Record:
    """Make an A or AAAA record."""
    return Record(name, A if isinstance(address, IPv4Address) else AAAA, ttl, address.packed)


def edns_record(udp_octets: int, extended_code: int = 0) -> Record:
    """Make the OPT record, whose class is the size and whose TTL begins with the upper bits of the code (RFC 6891, 6.1)."""
    return Record((), OPT, (extended_code >> 4) << 24, b"", udp_octets)


def find_edns(records: Sequence[Record]) -> Record | None:
    """Find the OPT record; raise WireError if there is more than one, or its name is not the root (RFC 6891, 6.1.1)."""
    found = [record for record in records if record.kind == OPT]
    if len(found) > 1 or any(record.name for record in found):
        raise WireError("DNS message with OPT records that are none")
    return found[0] if found else None
