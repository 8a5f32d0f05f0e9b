"""What stands between the UDP header and the frame in a tunnel: VXLAN (RFC 7348, section 5), GENEVE (RFC 8926, section 3).

A network identifier (VNI) is 24 bits. GENEVE options are read over, unless one is critical: then the frame may not be used
(RFC 8926, 3.4). Nothing here raises for octets from a peer but WireError.
"""

from __future__ import annotations

from typing import Final

from vnet.errors import WireError
from vnet.wire.ethernet import HEADER_OCTETS

VXLAN_PORT: Final = 4789
GENEVE_PORT: Final = 6081
MAX_VNI: Final = (1 << 24) - 1

VXLAN_OCTETS: Final = 8
GENEVE_OCTETS: Final = 8
_VNI_IS_VALID: Final = 0x08
_BRIDGED_ETHERNET: Final = b"\x65\x58"
_CONTROL: Final = 0x80
_CRITICAL: Final = 0x40


def vxlan_header(vni: int) -> bytes:
    """Write the 8 octets before a frame."""
    return bytes((_VNI_IS_VALID, 0, 0, 0)) + (vni << 8).to_bytes(4, "big")


def read_vxlan(datagram: bytes) -> tuple[int, int]:
    """Return the VNI, and where the frame begins."""
    if len(datagram) < VXLAN_OCTETS + HEADER_OCTETS:
        raise WireError("a VXLAN datagram is too short for a frame")
    if not datagram[0] & _VNI_IS_VALID:
        raise WireError("a VXLAN header without a VNI")
    return int.from_bytes(datagram[4:7], "big"), VXLAN_OCTETS


def geneve_header(vni: int) -> bytes:
    """Write the 8 octets before a frame: no options."""
    return b"\0\0" + _BRIDGED_ETHERNET + (vni << 8).to_bytes(4, "big")


def read_geneve(datagram: bytes) -> tuple[int, int]:
    """Return the VNI, and where the frame begins."""
    if len(datagram) < GENEVE_OCTETS + HEADER_OCTETS:
        raise WireError("a GENEVE datagram is too short for a frame")
    if datagram[0] >> 6 or datagram[2:4] != _BRIDGED_ETHERNET:
        raise WireError("a GENEVE header of another version, or for what is no Ethernet frame")
    if datagram[1] & (_CONTROL | _CRITICAL):
        raise WireError("a GENEVE control message, or options that must be understood")
    start = GENEVE_OCTETS + (datagram[0] & 0x3F) * 4
    if len(datagram) < start + HEADER_OCTETS:
        raise WireError("GENEVE options that leave no room for a frame")
    return int.from_bytes(datagram[4:7], "big"), start
