"""ARP for IPv4 over Ethernet (RFC 826), with the probes and announcements of RFC 5227.

Offsets in the frame, for those who peek: operation 20, sender MAC 22, sender IPv4 28, target MAC 32, target IPv4 38.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from vnet.addresses import BROADCAST, ZERO_MAC
from vnet.errors import WireError
from vnet.wire.ethernet import ETHERTYPE_ARP, ETHERTYPE_RARP

REQUEST: Final = 1
REPLY: Final = 2

ZERO_IPV4: Final = bytes(4)
FRAME_OCTETS: Final = 42

_PREFIX: Final = bytes.fromhex("000108000604")
"""Hardware type Ethernet, protocol type IPv4, and their address lengths."""
_HEADERS: Final = {REQUEST: _PREFIX + b"\x00\x01", REPLY: _PREFIX + b"\x00\x02"}


@final
@dataclass(frozen=True, slots=True)
class Arp:
    """One ARP packet; addresses as packed octets."""

    operation: int
    sender_mac: bytes
    sender: bytes
    target_mac: bytes
    target: bytes

    @property
    def is_probe(self) -> bool:
        """Tell whether it asks on behalf of nobody: sender address all zero (RFC 5227, 1.1)."""
        return self.operation == REQUEST and self.sender == ZERO_IPV4

    def encode(self) -> bytes:
        """Write the 28 octets that follow the Ethernet header."""
        header = _PREFIX + self.operation.to_bytes(2, "big")
        return header + self.sender_mac + self.sender + self.target_mac + self.target


def decode(frame: bytes) -> Arp:
    """Read the ARP packet of an Ethernet frame; raise WireError if it is not one for IPv4 over Ethernet."""
    if len(frame) < FRAME_OCTETS:
        raise WireError(f"an ARP frame has at least {FRAME_OCTETS} octets, not {len(frame)}")
    if frame[14:20] != _PREFIX:
        raise WireError("not ARP for IPv4 over Ethernet")
    return Arp(frame[20] << 8 | frame[21], frame[22:28], frame[28:32], frame[32:38], frame[38:42])


def request_frame(mac: bytes, sender: bytes, target: bytes, destination: bytes = BROADCAST) -> bytes:
    """Write the frame that asks who has *target*; sent to one *destination* it checks whether that is still there.

    With *sender* all zero it is an ARP probe, with *sender* equal to *target* an announcement (RFC 5227, 1.1).
    """
    return destination + mac + ETHERTYPE_ARP + _HEADERS[REQUEST] + mac + sender + ZERO_MAC + target


def reply_frame(mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    """Write the frame that tells *target* that *sender* is at *mac*."""
    return target_mac + mac + ETHERTYPE_ARP + _HEADERS[REPLY] + mac + sender + target_mac + target


def rarp_frame(mac: bytes) -> bytes:
    """Write a broadcast that nobody answers, by which switches learn where *mac* is: a RARP request for itself (RFC 903).

    Hypervisors send it when a guest has moved, because it needs no IP address.
    """
    return BROADCAST + mac + ETHERTYPE_RARP + _PREFIX + b"\x00\x03" + mac + ZERO_IPV4 + mac + ZERO_IPV4
