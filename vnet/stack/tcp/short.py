"""The short way in: segments of connections that are known, as machines with checksum offload send them.

It takes what needs no second thought: a packet without options or extension headers, and no fragment, whose header is
right, and whose checksum is pending or was seen to. All else goes the long way, by ``Ipv4Input`` or ``Ipv6Node``, and is
judged there.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, final

from vnet.stack.tcp.ecn import CE
from vnet.stack.tcp.states import Segment, State
from vnet.stack.tcp.tables import TcpTable
from vnet.wire.ethernet import HEADER_OCTETS as ETHERNET_OCTETS
from vnet.wire.ipv4 import HEADER_OCTETS as IPV4_OCTETS
from vnet.wire.ipv4 import MORE_FRAGMENTS, OFFSET_MASK, PROTOCOL_TCP
from vnet.wire.ipv6 import HEADER_OCTETS as IPV6_OCTETS
from vnet.wire.tcp import HEADER, HEADER_OCTETS
from vnet.wire.virtio_net import GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, TCP_CHECKSUM_AT
from vnet.wire.virtio_net import HEADER as OFFLOAD

if TYPE_CHECKING:
    from vnet.stack.interface import Interface

_TCP_AT: Final = ETHERNET_OCTETS + IPV4_OCTETS
_LEAST: Final = _TCP_AT + HEADER_OCTETS
_TCP_AT6: Final = ETHERNET_OCTETS + IPV6_OCTETS
_LEAST6: Final = _TCP_AT6 + HEADER_OCTETS
_FRAGMENT: Final = MORE_FRAGMENTS | OFFSET_MASK
_MOST_KINDS: Final = 256
"""Offload headers whose verdict is remembered: they differ by segment and header sizes alone."""
_peek: Final = Struct("!BBHxxHxB").unpack_from
_peek6: Final = Struct("!BBxxHB").unpack_from
_from_bytes: Final = int.from_bytes


@final
class _Verdicts(dict[bytes, bool]):
    """By offload header: whether it is that of a plain TCP segment, or super-frame, whose checksum is pending."""

    __slots__ = ("_kind", "_start")

    def __init__(self, start: int, kind: int) -> None:
        """Judge headers where TCP begins at *start* of the frame, and super-frames are of *kind*."""
        super().__init__()
        self._start = start
        self._kind = kind

    def __missing__(self, offload: bytes) -> bool:
        if len(offload) != OFFLOAD.size:
            return False
        flags, kind, _, segment, start, offset = OFFLOAD.unpack(offload)
        fits = bool(flags & NEEDS_CSUM and start == self._start and offset == TCP_CHECKSUM_AT) and (
            not kind or (kind & 0x7F == self._kind and segment > 0)
        )
        if len(self) >= _MOST_KINDS:
            self.clear()
        self[offload] = fits
        return fits


@final
class ShortWay:
    """Takes segments over IPv4 for the connections of one table."""

    __slots__ = ("_find", "_host", "_verdicts")

    def __init__(self, table: TcpTable) -> None:
        self._find = table.find
        self._host = table.host
        self._verdicts = _Verdicts(_TCP_AT, GSO_TCPV4)

    def take(self, frame: bytes, offload: bytes) -> bool:
        """Hand a segment to its connection; False if it must go the long way."""
        connection = self._find(frame[26:38])
        size = len(frame)
        if connection is None or size < _LEAST or frame[0] & 1 or connection.state is State.TIME_WAIT:
            return False
        first, tos, total, word, protocol = _peek(frame, ETHERNET_OCTETS)
        if (
            not self._verdicts[offload]
            or first != 0x45
            or protocol != PROTOCOL_TCP
            or word & _FRAGMENT
            or total != size - ETHERNET_OCTETS
            or _from_bytes(frame[14:34], "big") % 0xFFFF
        ):
            return False
        _, _, sequence, acknowledgment, offset, flags, window, _, _ = HEADER.unpack_from(frame, _TCP_AT)
        start = _TCP_AT + (offset >> 4 << 2)
        if not _LEAST <= start <= size:
            return False
        self._host.delivered += 1
        connection.arrive(
            Segment(sequence, acknowledgment, flags, window, frame[_LEAST:start], frame[start:], tos & CE == CE)
        )
        return True


@final
class Ipv6ShortWay:
    """Does the same over IPv6, for frames that come in by one interface."""

    __slots__ = ("_find", "_host", "_mac", "_verdicts")

    def __init__(self, table: TcpTable, interface: Interface) -> None:
        self._find = table.find
        self._host = table.host
        self._mac = interface.mac
        self._verdicts = _Verdicts(_TCP_AT6, GSO_TCPV6)

    def take(self, frame: bytes, offload: bytes) -> bool:
        """Hand a segment to its connection; False if it must go the long way."""
        connection = self._find(frame[22:58])
        size = len(frame)
        if connection is None or size < _LEAST6 or connection.state is State.TIME_WAIT:
            return False
        first, second, length, protocol = _peek6(frame, ETHERNET_OCTETS)
        if (
            not self._verdicts[offload]
            or first >> 4 != 6
            or protocol != PROTOCOL_TCP
            or length != size - _TCP_AT6
            or frame[:6] != self._mac
            or frame[6:12] == self._mac
        ):
            return False
        _, _, sequence, acknowledgment, offset, flags, window, _, _ = HEADER.unpack_from(frame, _TCP_AT6)
        start = _TCP_AT6 + (offset >> 4 << 2)
        if not _LEAST6 <= start <= size:
            return False
        self._host.delivered += 1
        connection.arrive(
            Segment(sequence, acknowledgment, flags, window, frame[_LEAST6:start], frame[start:], second >> 4 & CE == CE)
        )
        return True
