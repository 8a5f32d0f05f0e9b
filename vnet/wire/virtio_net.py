"""The virtio-net header: which checksum and segmentation work is still to be done on a frame (VIRTIO 1.2, 5.1.6).

Ten octets, in the byte order of the machine as Linux TAP devices use it (little-endian here; ``adapters`` checks that)::

    flags 1 | gso_type 1 | hdr_len 2 | gso_size 2 | csum_start 2 | csum_offset 2

``NO_OFFLOAD`` (all zero) means: a plain frame, nothing to do. A frame with a *gso_type* is a super-frame: one that stands
for several frames on a wire, cut from it at *gso_size* octets of payload.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from vnet.errors import WireError

NEEDS_CSUM: Final = 1
"""The checksum field holds the pseudo-header sum; sum from csum_start to the end goes to csum_start + csum_offset."""
DATA_VALID: Final = 2
"""The checksum was verified already: nothing to do."""

GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80

HEADER: Final = Struct("<BBHHHH")

TCP_CHECKSUM_AT: Final = 16
"""Where the checksum is in a TCP header."""
UDP_CHECKSUM: Final = HEADER.pack(NEEDS_CSUM, GSO_NONE, 0, 0, 14 + 20, 6)
"""The header of an untagged IPv4 datagram without options whose UDP checksum is left to whoever needs it."""
TCP_CHECKSUM: Final = HEADER.pack(NEEDS_CSUM, GSO_NONE, 0, 0, 14 + 20, TCP_CHECKSUM_AT)
"""The same for a TCP segment."""
TCP6_CHECKSUM: Final = HEADER.pack(NEEDS_CSUM, GSO_NONE, 0, 0, 14 + 40, TCP_CHECKSUM_AT)
"""The same for a TCP segment over IPv6."""


def tcp_super(headers: int, mss: int, *, cwr: bool = False) -> bytes:
    """Make the header of an untagged IPv4 super-frame without IP options: *headers* octets of headers, *mss* of data in each
    frame cut from it. CWR has to be named, because only the first of them has it."""
    return HEADER.pack(NEEDS_CSUM, GSO_TCPV4 | GSO_ECN if cwr else GSO_TCPV4, headers, mss, 14 + 20, TCP_CHECKSUM_AT)


def tcp6_super(headers: int, mss: int, *, cwr: bool = False) -> bytes:
    """Make the header of an untagged IPv6 super-frame without extension headers; the rest as in ``tcp_super``."""
    return HEADER.pack(NEEDS_CSUM, GSO_TCPV6 | GSO_ECN if cwr else GSO_TCPV6, headers, mss, 14 + 40, TCP_CHECKSUM_AT)


class Offload(NamedTuple):
    """A decoded virtio-net header; sizes and offsets in octets from the first of the frame."""

    flags: int
    gso_type: int
    hdr_len: int
    gso_size: int
    csum_start: int
    csum_offset: int


def decode(header: bytes) -> Offload:
    """Read ten octets; raise WireError if there are not ten."""
    if len(header) != HEADER.size:
        raise WireError(f"a virtio-net header has 10 octets, not {len(header)}")
    return Offload(*HEADER.unpack(header))


def encode(offload: Offload) -> bytes:
    """Write the ten octets."""
    return HEADER.pack(*offload)


def is_super(header: bytes) -> bool:
    """Tell whether the frame with this header stands for several."""
    return header[1] & 0x7F != GSO_NONE


def is_tcp_super(header: bytes, kind: int, tcp_at: int) -> bool:
    """Tell whether the super-frame with this header is TCP of this *kind* of segmentation whose header begins at *tcp_at*.

    Then it is one large segment, and a host that takes it whole need not cut anything.
    """
    flags, gso_type, _, gso_size, csum_start, csum_offset = HEADER.unpack(header)
    fits: bool = (
        gso_type & 0x7F == kind
        and flags & NEEDS_CSUM != 0
        and gso_size > 0
        and csum_start == tcp_at
        and csum_offset == TCP_CHECKSUM_AT
    )
    return fits


@lru_cache(maxsize=1024)
def shift(header: bytes, octets: int) -> bytes:
    """Move the offsets by *octets*, because a tag was inserted (4) or taken out (-4) before them.

    Offsets that do not fit afterwards are a lie of the sender's: raise WireError. The frames of a flow share a few headers,
    so the answers are remembered.
    """
    flags, gso_type, hdr_len, gso_size, csum_start, csum_offset = decode(header)
    if flags & NEEDS_CSUM:
        csum_start += octets
    if hdr_len:
        hdr_len += octets
    if not (0 <= csum_start <= 0xFFFF and 0 <= hdr_len <= 0xFFFF):
        raise WireError("virtio-net offsets leave the frame")
    return HEADER.pack(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)
