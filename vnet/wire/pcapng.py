"""Capture files of the pcapng kind: one section, one interface for each port, one block for each frame.

The layout follows the IETF draft "PCAP Next Generation (pcapng) Capture File Format" (draft-ietf-opsawg-pcapng), section
numbers as there. A block is ``type 4 | total length 4 | body | total length 4``, everything aligned to four octets.

What ``Writer`` returns depends on nothing but its arguments: no clock, no machine's name, so two runs of one simulated lab
can be compared octet by octet. ``Reader`` takes octets as they come, from a file or from a pipe, and raises only WireError.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import Final, final

from vnet.errors import WireError
from vnet.units import Instant

SECTION_HEADER: Final = 0x0A0D0D0A
INTERFACE_DESCRIPTION: Final = 1
SIMPLE_PACKET: Final = 3
INTERFACE_STATISTICS: Final = 5
ENHANCED_PACKET: Final = 6

LINKTYPE_ETHERNET: Final = 1
MAX_BLOCK: Final = 16 * 2**20
"""A longer block in a file is taken for damage, not for data: the reader never buffers more than this."""

_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_END_OF_OPTIONS: Final = 0
_COMMENT: Final = 1
_USER_APPLICATION: Final = 4
_IF_NAME: Final = 2
_IF_DESCRIPTION: Final = 3
_IF_TSRESOL: Final = 9
_IF_FCSLEN: Final = 13
_IF_TSOFFSET: Final = 14
_EPB_FLAGS: Final = 2
_FLAGS_FCS_SHIFT, _FLAGS_FCS_MASK = 5, 0xF
_ISB_IFRECV: Final = 4
_ISB_IFDROP: Final = 5

_WORD: Final = Struct("<I")
_HEAD: Final = Struct("<II")
_EPB: Final = Struct("<IIIIIII")
_MASK32: Final = 0xFFFFFFFF
_STATISTICS_OCTETS: Final = 52
"""Of the statistics blocks that ``Writer`` makes."""
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


class Direction(IntEnum):
    """Which way a frame passed the port, seen from the node that owns it (section 4.3.1, epb_flags bits 0-1)."""

    UNKNOWN = 0
    INBOUND = 1
    OUTBOUND = 2


@final
@dataclass(frozen=True, slots=True)
class Interface:
    """What a file says about one interface; *name* is empty if the file gives none."""

    name: str = ""
    description: str = ""
    linktype: int = LINKTYPE_ETHERNET
    resolution: int = 9
    """As in if_tsresol: units of 10^-n seconds, or of 2^-n with the top bit set."""
    offset_seconds: int = 0
    fcs_octets: int = 0
    """How much of each frame is its FCS, unless the packet says otherwise."""

    def instant(self, ticks: int) -> Instant:
        """Turn a timestamp in this interface's units into nanoseconds."""
        if self.resolution & 0x80:
            nanoseconds = ticks * 10**9 >> (self.resolution & 0x7F)
        else:
            nanoseconds = ticks * 10**9 // 10**self.resolution
        return nanoseconds + self.offset_seconds * 10**9


@final
@dataclass(frozen=True, slots=True)
class Packet:
    """One captured frame. *length* is what it had before it was cut; *instant* is in nanoseconds, 0 if the file has none."""

    interface: Interface
    instant: Instant
    frame: bytes
    length: int
    direction: Direction = Direction.UNKNOWN
    comments: tuple[str, ...] = ()
    fcs_octets: int = 0
    """How much of *length*, at its end, is the FCS; that much less of *frame* if none of it was cut."""


def _option(code: int, value: bytes) -> bytes:
    return code.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value + _PADDING[len(value) & 3]


def _text_option(code: int, text: str) -> bytes:
    """Encode a text; longer than an option may be, it is cut at a whole character."""
    return _option(code, text.encode("utf-8", "replace")[:0xFFFF].decode("utf-8", "ignore").encode())


def _block(block_type: int, body: bytes) -> bytes:
    length = len(body) + 12
    return _HEAD.pack(block_type, length) + body + _WORD.pack(length)


_FLAGS: Final = tuple(_option(_EPB_FLAGS, _WORD.pack(direction)) for direction in Direction)
_NO_MORE_OPTIONS: Final = _option(_END_OF_OPTIONS, b"")


@final
class Writer:
    """Makes the blocks of one section; the caller puts them where they belong, in the order of the calls.

    *epoch* (nanoseconds since 1970) is added to every instant: 0 for a simulated lab, whose time begins with the lab.
    """

    __slots__ = ("_interfaces", "epoch")

    def __init__(self, epoch: Instant = 0) -> None:
        self.epoch = epoch
        self._interfaces = 0

    def header(self) -> bytes:
        """Begin the section (4.1); its length is left open, as for a stream."""
        body = _WORD.pack(_BYTE_ORDER_MAGIC) + b"\1\0\0\0" + b"\xff" * 8
        return _block(SECTION_HEADER, body + _text_option(_USER_APPLICATION, "vnet") + _NO_MORE_OPTIONS)

    def interface(self, name: str, description: str = "") -> bytes:
        """Describe the next interface (4.2): Ethernet, no snapshot limit, timestamps in nanoseconds."""
        self._interfaces += 1
        options = _text_option(_IF_NAME, name)
        if description:
            options += _text_option(_IF_DESCRIPTION, description)
        options += _option(_IF_TSRESOL, b"\x09")
        return _block(INTERFACE_DESCRIPTION, LINKTYPE_ETHERNET.to_bytes(8, "little") + options + _NO_MORE_OPTIONS)

    @property
    def interfaces(self) -> int:
        """How many interfaces have been described: the number that the next one gets."""
        return self._interfaces

    def packet(
        self, interface: int, instant: Instant, frame: bytes, direction: Direction = Direction.UNKNOWN, comment: str = ""
    ) -> bytes:
        """Record a frame (4.3)."""
        octets = len(frame)
        padding = _PADDING[octets & 3]
        options = _FLAGS[direction] + (_text_option(_COMMENT, comment) if comment else b"") + _NO_MORE_OPTIONS
        length = 32 + octets + len(padding) + len(options)
        ticks = instant + self.epoch
        head = _EPB.pack(ENHANCED_PACKET, length, interface, ticks >> 32 & _MASK32, ticks & _MASK32, octets, octets)
        return b"".join((head, frame, padding, options, _WORD.pack(length)))

    def statistics(self, interface: int, instant: Instant, received: int, dropped: int) -> bytes:
        """Say how many frames passed and how many of them the file misses (4.6)."""
        ticks = instant + self.epoch
        body = b"".join((
            _WORD.pack(interface), _WORD.pack(ticks >> 32 & _MASK32), _WORD.pack(ticks & _MASK32),
            _option(_ISB_IFRECV, received.to_bytes(8, "little")),
            _option(_ISB_IFDROP, dropped.to_bytes(8, "little")),
            _NO_MORE_OPTIONS,
        ))  # fmt: skip
        return _block(INTERFACE_STATISTICS, body)


@final
@dataclass(slots=True)
class Reader:
    """Takes a capture in pieces of any size and returns the packets that are complete.

    Understands both byte orders, several sections, and any timestamp resolution; skips blocks it does not know, as section
    3.1 demands.
    """

    interfaces: list[Interface] = field(default_factory=list)
    """Those of the current section."""
    _buffer: bytearray = field(default_factory=bytearray)
    _order: str = ""

    def feed(self, data: bytes) -> list[Packet]:
        """Add *data* and return the packets that it completes; raise WireError where the octets are no pcapng."""
        self._buffer += data
        packets: list[Packet] = []
        position = 0
        view = bytes(self._buffer)
        while (block := self._next_block(view, position)) is not None:
            block_type, body, position = block
            packet = self._take(block_type, body)
            if packet is not None:
                packets.append(packet)
        del self._buffer[:position]
        return packets

    def close(self) -> None:
        """Say that nothing more comes; raise WireError if that cuts a block in two."""
        if self._buffer:
            raise WireError(f"the capture ends inside a block: {len(self._buffer)} octets are left over")

    def _next_block(self, data: bytes, position: int) -> tuple[int, bytes, int] | None:
        """Cut the block at *position* out: (type, body, end), or None if it has not all arrived."""
        available = len(data) - position
        if available < 12:
            return None
        if data[position : position + 4] == b"\x0a\x0d\x0d\x0a":
            magic = data[position + 8 : position + 12]
            if magic not in (b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"):
                raise WireError("not a pcapng section: its byte-order magic is wrong")
            self._order = "<" if magic[0] == 0x4D else ">"
        elif not self._order:
            raise WireError("not a pcapng file: it does not begin with a section header")
        block_type, length = _STRUCTS[self._order].head.unpack_from(data, position)
        if length < 12 or length & 3 or length > MAX_BLOCK:
            raise WireError(f"a pcapng block cannot have {length} octets")
        if available < length:
            return None
        end = position + length
        if _STRUCTS[self._order].word.unpack_from(data, end - 4)[0] != length:
            raise WireError("the two lengths of a pcapng block differ")
        return block_type, data[position + 8 : end - 4], end

    def _take(self, block_type: int, body: bytes) -> Packet | None:
        if block_type == SECTION_HEADER:
            self._begin_section(body)
        elif block_type == INTERFACE_DESCRIPTION:
            self.interfaces.append(self._interface(body))
        elif block_type == ENHANCED_PACKET:
            return self._enhanced(body)
        elif block_type == SIMPLE_PACKET:
            return self._simple(body)
        return None

    def _begin_section(self, body: bytes) -> None:
        if len(body) < 16:
            raise WireError("a pcapng section header is cut short")
        major = _STRUCTS[self._order].half.unpack_from(body, 4)[0]
        if major != 1:
            raise WireError(f"pcapng version {major} is not known here, only version 1")
        self.interfaces.clear()

    def _interface(self, body: bytes) -> Interface:
        if len(body) < 8:
            raise WireError("a pcapng interface description is cut short")
        name = description = ""
        resolution, offset, fcs = 6, 0, 0  # microseconds unless said otherwise (4.2)
        for code, value in self._options(body[8:]):
            if code == _IF_NAME:
                name = value.decode("utf-8", "replace")
            elif code == _IF_DESCRIPTION:
                description = value.decode("utf-8", "replace")
            elif code == _IF_TSRESOL and len(value) == 1:
                resolution = value[0]
            elif code == _IF_TSOFFSET and len(value) == 8:
                offset = int.from_bytes(value, "little" if self._order == "<" else "big", signed=True)
            elif code == _IF_FCSLEN and len(value) == 1:
                fcs = _fcs_octets(value[0])
        return Interface(name, description, _STRUCTS[self._order].half.unpack_from(body)[0], resolution, offset, fcs)

    def _interface_number(self, number: int) -> Interface:
        if number >= len(self.interfaces):
            raise WireError(f"a pcapng packet names interface {number}, which was never described")
        return self.interfaces[number]

    def _enhanced(self, body: bytes) -> Packet:
        if len(body) < 20:
            raise WireError("a pcapng packet block is cut short")
        number, high, low, captured, length = _STRUCTS[self._order].packet.unpack_from(body)
        end = 20 + captured
        if end > len(body):
            raise WireError("a pcapng packet is longer than its block")
        interface = self._interface_number(number)
        direction = Direction.UNKNOWN
        fcs = interface.fcs_octets
        comments: list[str] = []
        for code, value in self._options(body[end + (-captured & 3) :]):
            if code == _EPB_FLAGS and len(value) == 4:
                flags = _STRUCTS[self._order].word.unpack(value)[0]
                direction = Direction(flags & 3) if flags & 3 < 3 else Direction.UNKNOWN
                fcs = flags >> _FLAGS_FCS_SHIFT & _FLAGS_FCS_MASK or fcs  # 0 says nothing (4.3.1)
            elif code == _COMMENT:
                comments.append(value.decode("utf-8", "replace"))
        instant = interface.instant(high << 32 | low)
        return Packet(interface, instant, body[20:end], length, direction, tuple(comments), fcs)

    def _simple(self, body: bytes) -> Packet:
        if len(body) < 4:
            raise WireError("a pcapng packet block is cut short")
        length = _STRUCTS[self._order].word.unpack_from(body)[0]
        interface = self._interface_number(0)
        return Packet(interface, 0, body[4 : 4 + length], length, fcs_octets=interface.fcs_octets)

    def _options(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """List the options (3.5) up to the end marker or the end of the block."""
        position = 0
        while position < len(data):
            if position + 4 > len(data):
                raise WireError("a pcapng option is cut short")
            code, length = _STRUCTS[self._order].option.unpack_from(data, position)
            if code == _END_OF_OPTIONS:
                return
            position += 4
            if position + length > len(data):
                raise WireError("a pcapng option is longer than its block")
            yield code, data[position : position + length]
            position += length + (-length & 3)


def _fcs_octets(value: int) -> int:
    """Read an if_fcslen, which is "in bits" by 4.2, with 4 for an example, so that some write octets.

    No FCS has 16 octets, nor so few bits, so that both can be told apart.
    """
    return value // 8 if value > _FLAGS_FCS_MASK else value


@final
@dataclass(frozen=True, slots=True)
class _Structs:
    half: Struct
    word: Struct
    head: Struct
    option: Struct
    packet: Struct


_STRUCTS: Final = {
    order: _Structs(*(Struct(order + form) for form in ("H", "I", "II", "HH", "IIIII"))) for order in ("<", ">")
}


def closing_statistics(tail: bytes) -> list[tuple[int, int, int]]:
    """Read the statistics that ``Writer`` put at the end of a file, from its last octets, without reading the rest.

    Return (interface, frames that passed, frames missing from the file); nothing if the file does not end so.
    """
    found: list[tuple[int, int, int]] = []
    while len(tail) >= 12:
        length = _WORD.unpack_from(tail, len(tail) - 4)[0]
        start = len(tail) - length
        if length != _STATISTICS_OCTETS or start < 0 or _HEAD.unpack_from(tail, start) != (INTERFACE_STATISTICS, length):
            break
        number = _WORD.unpack_from(tail, start + 8)[0]
        received, dropped = (int.from_bytes(tail[at : at + 8], "little") for at in (start + 24, start + 36))
        found.append((number, received, dropped))
        tail = tail[:start]
    return found[::-1]


def read(data: bytes) -> list[Packet]:
    """Read a whole file; raise WireError if it is damaged or cut short."""
    reader = Reader()
    packets = reader.feed(data)
    reader.close()
    return packets


def write(interfaces: Iterable[str], packets: Iterable[tuple[int, Instant, bytes, Direction]], epoch: Instant = 0) -> bytes:
    """Write a whole file: the names of the interfaces, then (interface, instant, frame, direction) for each frame."""
    writer = Writer(epoch)
    blocks = [writer.header()]
    blocks += [writer.interface(name) for name in interfaces]
    blocks += [writer.packet(*packet) for packet in packets]
    return b"".join(blocks)
