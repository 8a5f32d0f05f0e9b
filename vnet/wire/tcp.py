"""TCP headers (RFC 9293, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, final

from vnet.errors import WireError
from vnet.wire.checksum import checksum, ones_sum, pseudo_header_sum
from vnet.wire.ipv4 import PROTOCOL_TCP

HEADER_OCTETS: Final = 20
FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
URG: Final = 0x20
ECE: Final = 0x40
CWR: Final = 0x80
"""The last two: explicit congestion notification (RFC 3168, 6.1)."""

HEADER: Final = Struct("!HHIIBBHHH")
"""Ports, sequence and acknowledgment number, data offset, flags, window, checksum, urgent pointer."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tcp:
    """A segment; ``options`` as octets, padded to words."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgment: int = 0
    flags: int
    window: int = 0
    urgent: int = 0
    options: bytes = b""
    payload: bytes = b""

    @property
    def length(self) -> int:
        """Count the sequence numbers it takes: payload, SYN and FIN (SEG.LEN)."""
        return len(self.payload) + bool(self.flags & SYN) + bool(self.flags & FIN)

    def encode(self, source: bytes, destination: bytes) -> bytes:
        """Write the segment with its checksum; the addresses are the packed ones of the IP header."""
        octets = HEADER_OCTETS + len(self.options)
        draft = HEADER.pack(
            self.source_port, self.destination_port, self.sequence, self.acknowledgment,
            octets << 2, self.flags, self.window, 0, self.urgent,
        )  # fmt: skip
        tail = self.options + self.payload
        total = pseudo_header_sum(source, destination, PROTOCOL_TCP, octets + len(self.payload))
        return draft[:16] + checksum(draft + tail, total).to_bytes(2, "big") + draft[18:] + tail


def decode(segment: bytes, source: bytes, destination: bytes, *, verify: bool = True) -> Tcp:
    """Read a segment; raise WireError if it is cut off, its data offset is wrong or its checksum is."""
    if len(segment) < HEADER_OCTETS:
        raise WireError("TCP header cut off")
    source_port, destination_port, sequence, acknowledgment, offset, flags, window, _, urgent = HEADER.unpack_from(segment)
    octets = (offset >> 4) << 2
    if not HEADER_OCTETS <= octets <= len(segment):
        raise WireError("TCP data offset does not fit")
    if verify and (pseudo_header_sum(source, destination, PROTOCOL_TCP, len(segment)) + ones_sum(segment)) % 0xFFFF:
        raise WireError("TCP checksum is wrong")
    return Tcp(
        source_port=source_port, destination_port=destination_port, sequence=sequence, acknowledgment=acknowledgment,
        flags=flags, window=window, urgent=urgent, options=segment[HEADER_OCTETS:octets], payload=segment[octets:],
    )  # fmt: skip


def reset_answering(segment: Tcp) -> Tcp | None:
    """Make the reset that a segment without a connection gets (RFC 9293, 3.10.7.1); None if it is a reset itself."""
    if segment.flags & RST:
        return None
    acknowledges = bool(segment.flags & ACK)
    return Tcp(
        source_port=segment.destination_port, destination_port=segment.source_port,
        sequence=segment.acknowledgment if acknowledges else 0,
        acknowledgment=0 if acknowledges else (segment.sequence + segment.length) & 0xFFFFFFFF,
        flags=RST if acknowledges else RST | ACK,
    )  # fmt: skip
