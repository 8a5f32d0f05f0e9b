"""Ethernet frames without FCS: offsets, EtherTypes, sizes (IEEE 802.3-2018, clause 3).

The frame path never decodes a frame into an object: ``frame[0:6]`` is the destination, ``frame[6:12]`` the source, and
``frame[12:14]`` the EtherType or length.
"""

from __future__ import annotations

from typing import Final

ETHERTYPE_IPV4: Final = b"\x08\x00"
ETHERTYPE_ARP: Final = b"\x08\x06"
ETHERTYPE_RARP: Final = b"\x80\x35"
ETHERTYPE_IPV6: Final = b"\x86\xdd"
ETHERTYPE_VLAN: Final = b"\x81\x00"
"""TPID of a C-tag (IEEE 802.1Q-2018, table 9-1)."""
ETHERTYPE_SVLAN: Final = b"\x88\xa8"
"""TPID of an S-tag."""

HEADER_OCTETS: Final = 14
MIN_FRAME: Final = 14
"""A frame shorter than its header cannot be forwarded; padding to 60 octets is the wire's affair, not ours."""
MAX_FRAME: Final = 9216
"""The largest frame without its tag: jumbo frames as switches count them."""
DEFAULT_MTU: Final = 1500
