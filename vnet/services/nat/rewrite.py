"""Putting a translation into octets: addresses, ports or identifier, and every checksum that covers them (RFC 1624).

These functions work on whole packets with headers of any length, and take their time; the router's flow table does the
same to the many packets that look alike. Checksums are adjusted, never computed anew, so a packet that arrived damaged
leaves damaged and its receiver notices.
"""

from __future__ import annotations

from typing import Final

from vnet.services.firewall.conntrack import Direction, turned
from vnet.wire import icmpv4
from vnet.wire.checksum import checksum, delta, is_valid, update, update_partial
from vnet.wire.ipv4 import PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP

QUERY_TYPES: Final = {icmpv4.ECHO_REQUEST: True, icmpv4.ECHO_REPLY: False, 13: True, 14: False}
"""ICMP types that are tracked by their identifier (echo and timestamp), and whether they ask."""
TRANSLATED_ERRORS: Final = frozenset({icmpv4.UNREACHABLE, icmpv4.TIME_EXCEEDED, icmpv4.PARAMETER_PROBLEM})
"""Errors that concern a connection's end hosts (RFC 5508 REQ-3 to REQ-5); redirects and source quench end at a router."""

CHECKSUM_AT: Final = {PROTOCOL_TCP: 16, PROTOCOL_UDP: 6, PROTOCOL_ICMP: 2}
"""Where the transport header has its checksum."""


def tuple_of(packet: bytes, header_octets: int) -> bytes | None:
    """Read the twelve octets that name a packet's connection; None if the packet is too short, or an ICMP message without.

    *packet* begins with a checked IPv4 header of *header_octets*, and is no later fragment.
    """
    protocol = packet[9]
    addresses = packet[12:20]
    rest = packet[header_octets : header_octets + 8]
    if protocol in (PROTOCOL_TCP, PROTOCOL_UDP):
        return addresses + rest[:4] if len(rest) == 8 else None
    if protocol == PROTOCOL_ICMP:
        if len(rest) < 8 or rest[0] not in QUERY_TYPES:
            return None
        return addresses + (rest[4:6] + b"\0\0" if QUERY_TYPES[rest[0]] else b"\0\0" + rest[4:6])
    return addresses + bytes(4)


def translate(packet: bytearray, header_octets: int, direction: Direction, *, first: bool, partial: bool) -> None:
    """Translate a packet in place.

    *first* tells whether the packet has its transport header, *partial* whether its checksum is still to be completed.
    A checksum field that lies beyond the end of the packet is left out.
    """
    packet[12:20] = direction.leaves[:8]
    _adjust(packet, 10, direction.address_change)
    if not first:
        return
    protocol = packet[9]
    _put_ports(packet, header_octets, protocol, direction.leaves)
    at = header_octets + CHECKSUM_AT.get(protocol, len(packet))
    if at + 2 > len(packet):
        return
    if partial and protocol != PROTOCOL_ICMP:
        field = update_partial(int.from_bytes(packet[at : at + 2], "big"), direction.address_change)
        packet[at : at + 2] = field.to_bytes(2, "big")
    elif protocol != PROTOCOL_UDP:
        _adjust(packet, at, direction.transport_change)
    elif packet[at : at + 2] != b"\0\0":  # a zero says that there is no checksum (RFC 768)
        _adjust(packet, at, direction.transport_change)
        if packet[at : at + 2] == b"\0\0":
            packet[at : at + 2] = b"\xff\xff"


def quoted_tuple(packet: bytes, header_octets: int) -> bytes | None:
    """Name the connection that an ICMP error speaks of, seen from the side that sent the error.

    That is the quoted packet's tuple turned round, because the quoted packet travelled the other way. None if the message is
    no error of a connection, is damaged (RFC 5508 REQ-3), or quotes too little.
    """
    message = packet[header_octets:]
    if len(message) < 8 or message[0] not in TRANSLATED_ERRORS or not is_valid(message):
        return None
    quoted = message[8:]
    if len(quoted) < 28 or quoted[0] >> 4 != 4:
        return None
    inner = (quoted[0] & 15) * 4
    if inner < 20 or int.from_bytes(quoted[6:8], "big") & 0x1FFF:
        return None
    found = tuple_of(quoted, inner)
    return None if found is None else turned(found)


def translate_error(packet: bytearray, header_octets: int, direction: Direction) -> None:
    """Translate an ICMP error in place, the packet it quotes included (RFC 5508 REQ-4 and REQ-5).

    *direction* is the one that ``quoted_tuple`` found. The receiver sees the packet that it sent. The error's own source
    stays, a router on the way, unless this direction hides its senders: then it becomes the external address.
    """
    addresses = bytes(packet[12:16]) + direction.leaves[4:8]
    if direction.arrives[:4] != direction.leaves[:4]:
        addresses = direction.leaves[:8]
    _adjust(packet, 10, delta(bytes(packet[12:20]), addresses))
    packet[12:20] = addresses

    quoted = packet[header_octets + 8 :]
    inner = (quoted[0] & 15) * 4
    protocol = quoted[9]
    # the quoted packet went the other way; turning a tuple round moves words but keeps their sum, so the deltas are the same
    back = turned(direction.leaves)
    quoted[12:20] = back[:8]
    _adjust(quoted, 10, direction.address_change)
    _put_ports(quoted, inner, protocol, back)
    at = inner + CHECKSUM_AT.get(protocol, len(quoted))
    if at + 2 <= len(quoted) and not (protocol == PROTOCOL_UDP and quoted[at : at + 2] == b"\0\0"):
        _adjust(quoted, at, direction.transport_change)
    packet[header_octets + 8 :] = quoted
    packet[header_octets + 2 : header_octets + 4] = b"\0\0"
    packet[header_octets + 2 : header_octets + 4] = checksum(bytes(packet[header_octets:])).to_bytes(2, "big")


def _put_ports(packet: bytearray, header_octets: int, protocol: int, leaves: bytes) -> None:
    if protocol in (PROTOCOL_TCP, PROTOCOL_UDP):
        packet[header_octets : header_octets + 4] = leaves[8:12]
    elif protocol == PROTOCOL_ICMP:
        asks = QUERY_TYPES.get(packet[header_octets], True)
        packet[header_octets + 4 : header_octets + 6] = leaves[8:10] if asks else leaves[10:12]


def _adjust(packet: bytearray, at: int, change: int) -> None:
    packet[at : at + 2] = update(int.from_bytes(packet[at : at + 2], "big"), change).to_bytes(2, "big")
