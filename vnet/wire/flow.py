"""The flow that a packet belongs to: addresses, protocol, ports; and a hash that spreads flows over links."""

from __future__ import annotations

from typing import Final, NamedTuple
from zlib import crc32

from vnet.wire.ipv4 import HEADER_OCTETS, PROTOCOL_TCP, PROTOCOL_UDP

_WITH_PORTS: Final = (PROTOCOL_TCP, PROTOCOL_UDP)


class FlowKey(NamedTuple):
    """Addresses as packed octets; ports are 0 where the packet has or shows none."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int

    def reverse(self) -> FlowKey:
        """Name the flow of the replies."""
        return FlowKey(self.destination, self.source, self.protocol, self.destination_port, self.source_port)


def flow_of(packet: bytes) -> FlowKey | None:
    """Read the flow of an IPv4 packet, or return None if the octets are none.

    Fragments have no ports, first ones neither, so that all parts of one packet stay in one flow.
    """
    if len(packet) < HEADER_OCTETS or packet[0] >> 4 != 4:
        return None
    protocol = packet[9]
    start = (packet[0] & 0x0F) << 2
    whole = not (packet[6] & 0x3F or packet[7])
    if protocol in _WITH_PORTS and whole and HEADER_OCTETS <= start <= len(packet) - 4:
        ports = int.from_bytes(packet[start : start + 4], "big")
        return FlowKey(packet[12:16], packet[16:20], protocol, ports >> 16, ports & 0xFFFF)
    return FlowKey(packet[12:16], packet[16:20], protocol, 0, 0)


def flow_hash(flow: FlowKey) -> int:
    """Hash to 32 bits, the same in every process and for both directions."""
    here = flow.source + flow.source_port.to_bytes(2, "big")
    there = flow.destination + flow.destination_port.to_bytes(2, "big")
    return crc32(min(here, there) + max(here, there) + bytes((flow.protocol,)))
