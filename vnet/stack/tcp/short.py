"""The short way in: segments of connections that are known, as machines with checksum offload send them.

It takes what needs no second thought: an IPv4 packet without options and fragments whose header is right, and whose
checksum is pending or was seen to. All else goes the long way, by ``Ipv4Input``, and is judged there.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, final

from vnet.stack.tcp.ecn import CE
from vnet.stack.tcp.states import Segment, State
from vnet.stack.tcp.tables import TcpTable
from vnet.wire.ethernet import HEADER_OCTETS as ETHERNET_OCTETS
from vnet.wire.ipv4 import HEADER_OCTETS as IPV4_OCTETS
from vnet.wire.ipv4 import MORE_FRAGMENTS, OFFSET_MASK, PROTOCOL_TCP
from vnet.wire.tcp import HEADER, HEADER_OCTETS
from vnet.wire.virtio_net import GSO_TCPV4, NEEDS_CSUM, TCP_CHECKSUM_AT
from vnet.wire.virtio_net import HEADER as OFFLOAD

_TCP_AT: Final = ETHERNET_OCTETS + IPV4_OCTETS
_LEAST: Final = _TCP_AT + HEADER_OCTETS
_FRAGMENT: Final = MORE_FRAGMENTS | OFFSET_MASK
_MOST_KINDS: Final = 256
"""Offload headers whose verdict is remembered: they differ by segment and header sizes alone."""
_peek: Final = Struct("!BBHxxHxB").unpack_from
_from_bytes: Final = int.from_bytes


@final
class ShortWay:
    """Takes segments for the connections of one table."""

    __slots__ = ("_find", "_host", "_verdicts")

    def __init__(self, table: TcpTable) -> None:
        self._find = table.find
        self._host = table.host
        self._verdicts: dict[bytes, bool] = {}

    def take(self, frame: bytes, offload: bytes) -> bool:
        """Hand a segment to its connection; False if it must go the long way."""
        connection = self._find(frame[26:38])
        size = len(frame)
        if connection is None or size < _LEAST or frame[0] & 1 or connection.state is State.TIME_WAIT:
            return False
        fits = self._verdicts.get(offload)
        if fits is None:
            fits = self._judge(offload)
        first, tos, total, word, protocol = _peek(frame, ETHERNET_OCTETS)
        if (
            not fits
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

    def _judge(self, offload: bytes) -> bool:
        """Tell whether an offload header is that of a plain TCP segment, or super-frame, whose checksum is pending."""
        if len(offload) != OFFLOAD.size:
            return False
        flags, kind, _, segment, start, offset = OFFLOAD.unpack(offload)
        fits = bool(flags & NEEDS_CSUM and start == _TCP_AT and offset == TCP_CHECKSUM_AT) and (
            not kind or (kind & 0x7F == GSO_TCPV4 and segment > 0)
        )
        if len(self._verdicts) >= _MOST_KINDS:
            self._verdicts.clear()
        self._verdicts[offload] = fits
        return fits
