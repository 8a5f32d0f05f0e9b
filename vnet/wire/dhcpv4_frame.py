"""DHCP datagrams in Ethernet frames: both ends speak before they have an IP stack to speak with.

A client without an address and a server that answers it cannot go through ARP and routing (RFC 2131, 4.1), so they write
and read whole frames: Ethernet, IPv4 without options, UDP, always at the same offsets.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from vnet.wire import checksum

IP_BROADCAST: Final = b"\xff\xff\xff\xff"
PAYLOAD_OFFSET: Final = 42
"""First octet of the payload: 14 of Ethernet, 20 of IPv4, 8 of UDP."""

_HEADERS: Final = Struct("!6s6sHHHIHH4s4sHHHH")
_IPV4: Final = 0x0800
_VERSION_IHL_TOS: Final = 0x4510
"""IPv4, 5 words, and the low-delay TOS that DHCP programs send."""
_DONT_FRAGMENT: Final = 0x4000
_TTL_UDP: Final = 64 << 8 | 17
_UDP: Final = 17
_ETHERTYPE_AND_IHL: Final = b"\x08\x00\x45"
_NEEDS_CSUM: Final = 1


def dhcp_frame(
    destination_mac: bytes,
    source_mac: bytes,
    source: bytes,
    destination: bytes,
    source_port: int,
    destination_port: int,
    payload: bytes,
) -> bytes:
    """Put *payload* into a UDP datagram, an IPv4 packet and a frame; both checksums are complete."""
    udp_octets = len(payload) + 8
    total = udp_octets + 20
    addresses = int.from_bytes(source + destination, "big")
    whole = payload if not len(payload) & 1 else payload + b"\0"
    # each sum is that of the words which are not zero, modulo 65535 (RFC 1071)
    ip_sum = -(_VERSION_IHL_TOS + total + _DONT_FRAGMENT + _TTL_UDP + addresses) % 0xFFFF
    udp_sum = -(
        addresses + _UDP + 2 * udp_octets + source_port + destination_port + int.from_bytes(whole, "big")
    ) % 0xFFFF or 0xFFFF  # fmt: skip
    return _HEADERS.pack(
        destination_mac, source_mac, _IPV4, _VERSION_IHL_TOS, total, _DONT_FRAGMENT, _TTL_UDP, ip_sum, source, destination,
        source_port, destination_port, udp_octets, udp_sum,
    ) + payload  # fmt: skip


def is_dhcp(frame: bytes, port: bytes) -> bool:
    """Tell whether an untagged frame is a whole UDP datagram, in IPv4 without options, to *port* (two octets).

    A fragment or an IPv4 header with options is not taken: no DHCP program sends either.
    """
    return (
        frame[36:38] == port
        and frame[12:15] == _ETHERTYPE_AND_IHL
        and frame[23] == _UDP
        and not (frame[20] & 0x3F or frame[21])
        and len(frame) >= PAYLOAD_OFFSET
    )


def dhcp_payload(frame: bytes, offload: bytes) -> bytes | None:
    """Return the payload of a frame that ``is_dhcp`` accepts, or None if its lengths or UDP checksum are wrong.

    With an *offload* header that says so the checksum is still to be completed, and is not looked at.
    """
    udp_octets = frame[38] << 8 | frame[39]
    end = 34 + udp_octets
    if udp_octets < 8 or end > len(frame) or (frame[16] << 8 | frame[17]) != udp_octets + 20:
        return None
    # both addresses stand right before the datagram: one sum goes over all of it but the protocol and a length
    unchecked = frame[40:42] == b"\0\0" or offload[0] & _NEEDS_CSUM
    if not unchecked and not checksum.is_valid(frame[26:end], _UDP + udp_octets):
        return None
    return frame[PAYLOAD_OFFSET:end]
