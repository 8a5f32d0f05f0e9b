"""UDP headers (RFC 768): source port, destination port, length, checksum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from vnet.errors import WireError
from vnet.wire.checksum import ones_sum, pseudo_header_sum
from vnet.wire.ipv4 import PROTOCOL_UDP

HEADER_OCTETS: Final = 8
MAX_PAYLOAD: Final = 0xFFFF - 20 - HEADER_OCTETS
"""Octets of payload that fit an IPv4 packet without options."""


@final
@dataclass(frozen=True, slots=True)
class Udp:
    """A decoded datagram."""

    source_port: int
    destination_port: int
    payload: bytes


def build(source: bytes, destination: bytes, source_port: int, destination_port: int, payload: bytes) -> bytes:
    """Write a datagram with its checksum; the addresses are the packed ones of the IP header."""
    length = HEADER_OCTETS + len(payload)
    total = pseudo_header_sum(source, destination, PROTOCOL_UDP, 2 * length)  # the length counts in both headers
    field = -(total + source_port + destination_port + ones_sum(payload)) % 0xFFFF or 0xFFFF
    ports = source_port.to_bytes(2, "big") + destination_port.to_bytes(2, "big")
    return ports + length.to_bytes(2, "big") + field.to_bytes(2, "big") + payload


def decode(datagram: bytes, source: bytes, destination: bytes, *, verify: bool = True) -> Udp:
    """Read a datagram, what follows its length cut off; raise WireError if it is cut off or its checksum is wrong.

    A checksum field of 0 means that the sender made none.
    """
    if len(datagram) < HEADER_OCTETS:
        raise WireError("UDP header cut off")
    length = datagram[4] << 8 | datagram[5]
    if not HEADER_OCTETS <= length <= len(datagram):
        raise WireError("UDP length does not fit")
    datagram = datagram[:length]
    if verify and datagram[6:8] != b"\x00\x00":
        total = pseudo_header_sum(source, destination, PROTOCOL_UDP, length)
        if (total + ones_sum(datagram)) % 0xFFFF:
            raise WireError("UDP checksum is wrong")
    return Udp(datagram[0] << 8 | datagram[1], datagram[2] << 8 | datagram[3], datagram[8:])
