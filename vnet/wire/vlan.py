"""VLAN tags (IEEE 802.1Q-2018, clause 9): four octets after the source address, TPID then TCI.

The TCI is PCP (3 bits), DEI (1 bit), VID (12 bits). VID 0 marks a priority-tagged frame, 4095 is reserved.
"""

from __future__ import annotations

from typing import Final

from vnet.wire.ethernet import ETHERTYPE_VLAN

TAG_OCTETS: Final = 4
VID_MASK: Final = 0x0FFF
PRIORITY_VID: Final = 0
DEFAULT_VID: Final = 1
RESERVED_VID: Final = 4095
MAX_VID: Final = 4094


def is_tagged(frame: bytes) -> bool:
    """Tell whether the frame carries a C-tag; a frame cut off inside its tag counts as tagged."""
    return frame[12:14] == ETHERTYPE_VLAN


def tci(frame: bytes) -> int:
    """Read the TCI of a tagged frame of at least 16 octets."""
    return frame[14] << 8 | frame[15]


def push(frame: bytes, vid: int, pcp: int = 0, dei: int = 0) -> bytes:
    """Insert a C-tag."""
    return frame[:12] + ETHERTYPE_VLAN + (pcp << 13 | dei << 12 | vid).to_bytes(2, "big") + frame[12:]


def pop(frame: bytes) -> bytes:
    """Take the outer tag off."""
    return frame[:12] + frame[16:]
