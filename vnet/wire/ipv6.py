"""IPv6 headers (RFC 8200): build, decode, walk the extension headers, fragment.

Offsets in the *frame*, for those who peek: payload length 18, next header 20, hop limit 21, source 22, destination 38.
``walk`` goes from the fixed header to what the packet carries and stops at a fragment header: what lies behind that one is
known when the packet is whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from struct import Struct
from typing import Final, NamedTuple, final

from vnet.errors import WireError

HOP_BY_HOP: Final = 0
PROTOCOL_TCP: Final = 6
PROTOCOL_UDP: Final = 17
ROUTING: Final = 43
FRAGMENT: Final = 44
PROTOCOL_ICMPV6: Final = 58
NO_NEXT_HEADER: Final = 59
DESTINATION_OPTIONS: Final = 60

HEADER_OCTETS: Final = 40
FRAGMENT_OCTETS: Final = 8
MIN_MTU: Final = 1280
"""What every link has to carry (RFC 8200, section 5)."""
MAX_PAYLOAD: Final = 0xFFFF
DEFAULT_HOP_LIMIT: Final = 64
MAX_EXTENSIONS: Final = 8
"""Extension headers in one packet: RFC 8200, 4.1 puts seven in order; RFC 8504, 5.3 lets a host limit them."""
MAX_OPTIONS: Final = 32
"""Options in one header, padding included (RFC 8504, section 5.3 recommends a limit)."""

ANY: Final = bytes(16)
LOOPBACK: Final = bytes(15) + b"\x01"
ALL_NODES: Final = b"\xff\x02" + bytes(13) + b"\x01"
ALL_ROUTERS: Final = b"\xff\x02" + bytes(13) + b"\x02"
ALL_MLDV2_ROUTERS: Final = b"\xff\x02" + bytes(13) + b"\x16"
"""ff02::16 (RFC 3810, section 5.2.14)."""

ERRONEOUS_HEADER: Final = 0
UNKNOWN_NEXT_HEADER: Final = 1
UNKNOWN_OPTION: Final = 2
INCOMPLETE_CHAIN: Final = 3
"""Codes of an ICMPv6 parameter problem (RFC 4443, section 3.4; RFC 7112, section 5)."""

_HEADER: Final = Struct("!IHBB16s16s")
_FRAGMENT: Final = Struct("!BBHI")
_SOLICITED_NODE: Final = b"\xff\x02" + bytes(9) + b"\x01\xff"
_KNOWN_OPTIONS: Final = frozenset({0, 1, 5})
"""Pad1, PadN and router alert (RFC 2711), which says nothing to a host."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ipv6:
    """A fixed header; addresses as packed octets."""

    source: bytes
    destination: bytes
    next_header: int
    hop_limit: int = DEFAULT_HOP_LIMIT
    traffic_class: int = 0
    flow_label: int = 0

    def encode(self, payload_octets: int) -> bytes:
        """Write the header of a packet with *payload_octets* behind it, extension headers included."""
        return build(
            self.source, self.destination, self.next_header, payload_octets,
            hop_limit=self.hop_limit, traffic_class=self.traffic_class, flow_label=self.flow_label,
        )  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class FragmentHeader:
    """What a fragment header says (RFC 8200, section 4.5); ``offset`` in octets."""

    next_header: int
    offset: int
    more: bool
    ident: int

    def encode(self) -> bytes:
        """Write the eight octets."""
        return _FRAGMENT.pack(self.next_header, 0, self.offset | self.more, self.ident)


class Walk(NamedTuple):
    """Where the chain of headers ends.

    ``protocol`` is what starts at octet ``offset`` of the packet: a transport, ``FRAGMENT``, or a number that is not known
    here. ``named_at`` is the octet that names it. ``problem`` is the code of the parameter problem for which the packet is
    to be dropped, or None, and ``pointer`` its octet; ``silent``: nobody is told, ``even_group``: the sender is told
    even if the packet went to a group (RFC 8200, 4.2).
    """

    protocol: int
    offset: int
    named_at: int
    problem: int | None = None
    pointer: int = 0
    silent: bool = False
    even_group: bool = False


def build(
    source: bytes, destination: bytes, next_header: int, payload_octets: int,
    *, hop_limit: int = DEFAULT_HOP_LIMIT, traffic_class: int = 0, flow_label: int = 0,
) -> bytes:  # fmt: skip
    """Write a fixed header."""
    first = 6 << 28 | traffic_class << 20 | flow_label
    return _HEADER.pack(first, payload_octets, next_header, hop_limit, source, destination)


def packet_octets(packet: bytes) -> int:
    """Check version and payload length and return the length of the packet without link padding; raise WireError.

    A payload length of 0 with a jumbogram behind it (RFC 2675) is a packet without payload here: no link carries one.
    """
    if len(packet) < HEADER_OCTETS:
        raise WireError("IPv6 packet cut off")
    if packet[0] >> 4 != 6:
        raise WireError("not an IPv6 header")
    octets = HEADER_OCTETS + (packet[4] << 8 | packet[5])
    if octets > len(packet):
        raise WireError("IPv6 payload length does not fit")
    return octets


def decode(packet: bytes) -> tuple[Ipv6, bytes]:
    """Split *packet* into fixed header and payload, link padding cut off; raise WireError if the header is bad."""
    octets = packet_octets(packet)
    first, _, next_header, hop_limit, source, destination = _HEADER.unpack_from(packet)
    header = Ipv6(
        source=source, destination=destination, next_header=next_header, hop_limit=hop_limit,
        traffic_class=first >> 20 & 0xFF, flow_label=first & 0xFFFFF,
    )  # fmt: skip
    return header, packet[HEADER_OCTETS:octets]


def decode_fragment(packet: bytes, offset: int) -> FragmentHeader:
    """Read the fragment header at *offset*; raise WireError if it is cut off."""
    if len(packet) < offset + FRAGMENT_OCTETS:
        raise WireError("IPv6 fragment header cut off")
    next_header, _, word, ident = _FRAGMENT.unpack_from(packet, offset)
    return FragmentHeader(next_header, word & 0xFFF8, bool(word & 1), ident)


def walk(packet: bytes, kind: int | None = None, offset: int = HEADER_OCTETS, *, heed: bool = True) -> Walk:
    """Follow the extension headers of a packet cut to its length.

    Start at *offset* with a header of *kind*, which must not be hop-by-hop options then. Raise WireError if a header is cut
    off or there are more than ``MAX_EXTENSIONS``. Unknown options are treated by the top bits of their type (RFC 8200, 4.2);
    a routing header with segments left is a problem, whatever its type (4.4; RFC 5095 for type 0). Without *heed* neither
    stops the walk.
    """
    named_at = 6
    if kind is None:
        kind = packet[6]
    elif kind == HOP_BY_HOP:
        return Walk(kind, offset, named_at, UNKNOWN_NEXT_HEADER, named_at)
    for _ in range(MAX_EXTENSIONS + 1):
        if kind == HOP_BY_HOP and named_at != 6:
            return Walk(kind, offset, named_at, UNKNOWN_NEXT_HEADER, named_at)  # only right behind the fixed header (4.1)
        if kind not in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS):
            return Walk(kind, offset, named_at)
        if len(packet) < offset + 8:
            raise WireError("IPv6 extension header cut off")
        end = offset + 8 + 8 * packet[offset + 1]
        if len(packet) < end:
            raise WireError("IPv6 extension header cut off")
        if not heed:
            pass
        elif kind == ROUTING:
            if packet[offset + 3]:
                return Walk(kind, offset, named_at, ERRONEOUS_HEADER, offset + 2)
        elif (bad := _options(packet, offset + 2, end)) is not None:
            action = packet[bad] >> 6
            return Walk(kind, offset, named_at, UNKNOWN_OPTION, bad, action == 1, action == 2)
        kind, named_at, offset = packet[offset], offset, end
    raise WireError(f"more than {MAX_EXTENSIONS} IPv6 extension headers")


def _options(packet: bytes, at: int, end: int) -> int | None:
    """Look the options of a header through; return where the first one is that forbids to go on."""
    for _ in range(MAX_OPTIONS):
        if at >= end:
            return None
        kind = packet[at]
        if kind == 0:
            at += 1
            continue
        length = packet[at + 1] if at + 1 < end else end
        if at + 2 + length > end:
            raise WireError("IPv6 option cut off")
        if kind not in _KNOWN_OPTIONS and kind >> 6:
            return at
        at += 2 + length
    if at < end:
        raise WireError(f"more than {MAX_OPTIONS} IPv6 options")
    return None


def fragment(packet: bytes, mtu: int, ident: int) -> list[bytes]:
    """Cut a packet without extension headers into fragments of at most *mtu* octets (RFC 8200, section 4.5).

    Only a source may do that. A packet that fits is returned as it is. Raise WireError if the MTU leaves no room.
    """
    if len(packet) <= mtu:
        return [packet]
    header, payload = decode(packet)
    room = (mtu - HEADER_OCTETS - FRAGMENT_OCTETS) & ~7
    if room <= 0:
        raise WireError(f"an MTU of {mtu} octets leaves no room for a fragment")
    parts = []
    for start in range(0, len(payload), room):
        part = payload[start : start + room]
        more = start + len(part) < len(payload)
        head = FragmentHeader(header.next_header, start, more, ident).encode()
        fixed = build(
            header.source, header.destination, FRAGMENT, len(head) + len(part), hop_limit=header.hop_limit,
            traffic_class=header.traffic_class, flow_label=header.flow_label,
        )  # fmt: skip
        parts.append(fixed + head + part)
    return parts


# Addresses


def is_multicast(address: bytes) -> bool:
    """Tell whether the address is one of ff00::/8."""
    return address[0] == 0xFF


def is_link_local(address: bytes) -> bool:
    """Tell whether the address is a unicast one of fe80::/10."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def scope(address: bytes) -> int:
    """Return the scope of an address: 1 interface, 2 link, 5 site, 14 global (RFC 4007; RFC 6724, section 3.1)."""
    if address[0] == 0xFF:
        return address[1] & 0x0F
    if is_link_local(address) or address == LOOPBACK:
        return 2
    return 5 if address[0] == 0xFE and address[1] & 0xC0 == 0xC0 else 14


def may_be_source(address: bytes) -> bool:
    """Tell whether a packet on a wire may come from this address: no group (RFC 4291, 2.7), not the loopback (2.5.3)."""
    return address[0] != 0xFF and address != LOOPBACK


def solicited_node(address: bytes) -> bytes:
    """Return the group in which whoever has *address* is asked for it (RFC 4291, section 2.7.1)."""
    return _SOLICITED_NODE + address[13:]


def interface_id(mac: bytes) -> bytes:
    """Make the modified EUI-64 interface identifier of a MAC address (RFC 2464, section 4)."""
    return bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


def link_local(mac: bytes) -> bytes:
    """Make the link-local address of an interface (RFC 2464, section 5)."""
    return b"\xfe\x80" + bytes(6) + interface_id(mac)


def text(address: bytes) -> str:
    """Print in the canonical form of RFC 5952."""
    return str(IPv6Address(address))
