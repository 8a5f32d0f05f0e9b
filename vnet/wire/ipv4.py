"""IPv4 headers (RFC 791): build, decode, fragment.

The frame path peeks at fixed offsets of the *frame*: version and IHL 14, total length 16, fragment word 20, TTL 22, protocol
23, source 26, destination 30. ``Ipv4`` is for everybody who may take their time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct
from typing import Final, final

from vnet.errors import WireError
from vnet.wire.checksum import checksum, is_valid

PROTOCOL_ICMP: Final = 1
PROTOCOL_IGMP: Final = 2
PROTOCOL_TCP: Final = 6
PROTOCOL_UDP: Final = 17
PROTOCOL_NAMES: Final = {PROTOCOL_ICMP: "icmp", PROTOCOL_TCP: "tcp", PROTOCOL_UDP: "udp"}

HEADER_OCTETS: Final = 20
MAX_PACKET: Final = 0xFFFF
DEFAULT_TTL: Final = 64
DONT_FRAGMENT: Final = 0x4000
MORE_FRAGMENTS: Final = 0x2000
OFFSET_MASK: Final = 0x1FFF
"""The three parts of the 16-bit fragment word; the offset counts units of 8 octets."""

ANY: Final = bytes(4)
LIMITED_BROADCAST: Final = b"\xff" * 4
ALL_HOSTS: Final = b"\xe0\x00\x00\x01"

_HEADER: Final = Struct("!BBHHHBBH4s4s")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ipv4:
    """A header; addresses as packed octets, ``offset`` of the fragment in octets, ``options`` padded to words."""

    source: bytes
    destination: bytes
    protocol: int
    ttl: int = DEFAULT_TTL
    tos: int = 0
    ident: int = 0
    dont_fragment: bool = False
    more_fragments: bool = False
    offset: int = 0
    options: bytes = b""

    def encode(self, payload_octets: int) -> bytes:
        """Write the header of a packet that carries *payload_octets*."""
        word = self.offset >> 3
        word |= DONT_FRAGMENT if self.dont_fragment else 0
        word |= MORE_FRAGMENTS if self.more_fragments else 0
        return build(
            self.source, self.destination, self.protocol, payload_octets,
            ttl=self.ttl, tos=self.tos, ident=self.ident, fragment_word=word, options=self.options,
        )  # fmt: skip


def build(
    source: bytes, destination: bytes, protocol: int, payload_octets: int,
    *, ttl: int = DEFAULT_TTL, tos: int = 0, ident: int = 0, fragment_word: int = 0, options: bytes = b"",
) -> bytes:  # fmt: skip
    """Write a header, checksum included."""
    octets = HEADER_OCTETS + len(options)
    first = 0x40 | octets >> 2
    fields = (first, tos, octets + payload_octets, ident, fragment_word, ttl, protocol)
    draft = _HEADER.pack(*fields, 0, source, destination)
    return _HEADER.pack(*fields, checksum(draft + options), source, destination) + options


def header_octets(packet: bytes) -> int:
    """Check the header of *packet* and return its length; raise WireError that names the fault.

    Version, IHL, total length and checksum are checked (RFC 1122, 3.2.1.1 and 3.2.1.2).
    """
    if len(packet) < HEADER_OCTETS:
        raise WireError("IPv4 packet cut off")
    octets = (packet[0] & 0x0F) << 2
    if packet[0] >> 4 != 4 or octets < HEADER_OCTETS:
        raise WireError("not an IPv4 header")
    total = packet[2] << 8 | packet[3]
    if not octets <= total <= len(packet):
        raise WireError("IPv4 total length does not fit")
    if not is_valid(packet[:octets]):
        raise WireError("IPv4 header checksum is wrong")
    return octets


def decode(packet: bytes) -> tuple[Ipv4, bytes]:
    """Split *packet* into header and payload, link padding cut off; raise WireError if the header is bad."""
    octets = header_octets(packet)
    _, tos, total, ident, word, ttl, protocol, _, source, destination = _HEADER.unpack_from(packet)
    header = Ipv4(
        source=source, destination=destination, protocol=protocol, ttl=ttl, tos=tos, ident=ident,
        dont_fragment=bool(word & DONT_FRAGMENT), more_fragments=bool(word & MORE_FRAGMENTS),
        offset=(word & OFFSET_MASK) << 3, options=packet[HEADER_OCTETS:octets],
    )  # fmt: skip
    return header, packet[octets:total]


def fragment(packet: bytes, mtu: int) -> list[bytes]:
    """Cut a valid packet into packets of at most *mtu* octets (RFC 791, section 3.2); whether it may be cut is the caller's
    to know.

    Raise WireError if that cannot be: the MTU leaves no room, or the packet is a fragment that reaches beyond the largest.
    """
    header, payload = decode(packet)
    if len(packet) <= mtu:
        return [packet]
    if header.offset + len(payload) > MAX_PACKET:
        raise WireError("a fragment that no packet is large enough for")
    fragments = []
    start = 0
    options = header.options
    while start < len(payload):
        room = (mtu - HEADER_OCTETS - len(options)) & ~7
        if room <= 0:
            raise WireError(f"an MTU of {mtu} octets leaves no room for a fragment")
        part = payload[start : start + room]
        last = start + len(part) == len(payload)
        more = header.more_fragments or not last
        head = replace(header, offset=header.offset + start, more_fragments=more, options=options)
        fragments.append(head.encode(len(part)) + part)
        start += len(part)
        options = copied_options(header.options)
    return fragments


def copied_options(options: bytes) -> bytes:
    """Pick the options that go into every fragment: those with the copied flag (RFC 791, section 3.1)."""
    kept = b""
    position = 0
    while position < len(options) and options[position] != 0:
        if options[position] == 1:  # no operation
            position += 1
            continue
        length = options[position + 1] if position + 1 < len(options) else 0
        if length < 2 or position + length > len(options):
            break  # malformed from here on: none of it is worth repeating
        if options[position] & 0x80:
            kept += options[position : position + length]
        position += length
    return kept + bytes(-len(kept) % 4)


def is_multicast(address: bytes) -> bool:
    """Tell whether the address is one of 224.0.0.0/4."""
    return address[0] & 0xF0 == 0xE0


def may_be_source(address: bytes) -> bool:
    """Tell whether a packet on a wire may come from this address: no group, no broadcast, no loopback, not class E
    (RFC 1122, 3.2.1.3). Zero is allowed: "this host" while it learns its address."""
    return address[0] < 0xE0 and address[0] != 127


def text(address: bytes) -> str:
    """Print in dotted decimal."""
    return ".".join(map(str, address))
