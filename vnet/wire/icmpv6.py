"""ICMPv6 (RFC 4443): messages, their checksum over the IPv6 pseudo-header, and what errors say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from vnet.errors import WireError
from vnet.wire import ipv6
from vnet.wire.checksum import checksum, is_valid, pseudo_header_sum
from vnet.wire.ipv6 import PROTOCOL_ICMPV6

UNREACHABLE: Final = 1
PACKET_TOO_BIG: Final = 2
TIME_EXCEEDED: Final = 3
PARAMETER_PROBLEM: Final = 4
ECHO_REQUEST: Final = 128
ECHO_REPLY: Final = 129
MLD_QUERY: Final = 130
MLD_REPORT: Final = 131
MLD_DONE: Final = 132
ROUTER_SOLICITATION: Final = 133
ROUTER_ADVERTISEMENT: Final = 134
NEIGHBOR_SOLICITATION: Final = 135
NEIGHBOR_ADVERTISEMENT: Final = 136
REDIRECT: Final = 137
MLDV2_REPORT: Final = 143

NO_ROUTE: Final = 0
PROHIBITED: Final = 1
BEYOND_SCOPE: Final = 2
ADDRESS_UNREACHABLE: Final = 3
PORT_UNREACHABLE: Final = 4
"""Codes of UNREACHABLE (RFC 4443, section 3.1)."""

HOP_LIMIT_EXCEEDED: Final = 0
REASSEMBLY_EXCEEDED: Final = 1
"""Codes of TIME_EXCEEDED."""

HEADER_OCTETS: Final = 8
MAX_QUOTE: Final = ipv6.MIN_MTU - ipv6.HEADER_OCTETS - HEADER_OCTETS
"""Octets of the offending packet in an error, which must fit the minimum MTU (RFC 4443, section 2.4 (c))."""

_UNREACHABLE_TEXTS: Final = {
    NO_ROUTE: "no route to destination", PROHIBITED: "administratively prohibited", BEYOND_SCOPE: "beyond scope of source",
    ADDRESS_UNREACHABLE: "address unreachable", PORT_UNREACHABLE: "port unreachable", 5: "source address failed policy",
    6: "reject route to destination",
}  # fmt: skip
_PARAMETER_TEXTS: Final = {
    ipv6.ERRONEOUS_HEADER: "erroneous header field", ipv6.UNKNOWN_NEXT_HEADER: "unrecognized next header",
    ipv6.UNKNOWN_OPTION: "unrecognized option", ipv6.INCOMPLETE_CHAIN: "incomplete header chain",
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Icmpv6:
    """A message: type, code, the 32 bits that follow the checksum, and the rest."""

    kind: int
    code: int
    rest: int
    body: bytes

    @property
    def is_error(self) -> bool:
        """Tell whether it is an error: types below 128, unknown ones too (RFC 4443, section 2.1)."""
        return self.kind < 128

    def encode(self, source: bytes, destination: bytes) -> bytes:
        """Write the message, checksum included."""
        return build(source, destination, self.kind, self.code, self.rest, self.body)


def build(source: bytes, destination: bytes, kind: int, code: int, rest: int, body: bytes) -> bytes:
    """Write a message, checksum included; the addresses are the packed ones of the IPv6 header."""
    tail = rest.to_bytes(4, "big") + body
    head = bytes((kind, code))
    length = 4 + len(tail)
    field = checksum(head + b"\x00\x00" + tail, pseudo_header_sum(source, destination, PROTOCOL_ICMPV6, length))
    return head + field.to_bytes(2, "big") + tail


def decode(message: bytes, source: bytes, destination: bytes, *, verify: bool = True) -> Icmpv6:
    """Read a message; raise WireError if it is cut off, or if its checksum is wrong and *verify* is set."""
    if len(message) < HEADER_OCTETS:
        raise WireError("ICMPv6 message cut off")
    if verify and not is_valid(message, pseudo_header_sum(source, destination, PROTOCOL_ICMPV6, len(message))):
        raise WireError("ICMPv6 checksum is wrong")
    return Icmpv6(message[0], message[1], int.from_bytes(message[4:8], "big"), message[8:])


def describe(kind: int, code: int) -> str:
    """Name an error as a user wants to read it."""
    if kind == UNREACHABLE:
        return _UNREACHABLE_TEXTS.get(code, f"unreachable, code {code}")
    if kind == PACKET_TOO_BIG:
        return "packet too big"
    if kind == TIME_EXCEEDED:
        return "time exceeded" if code == HOP_LIMIT_EXCEEDED else "reassembly time exceeded"
    if kind == PARAMETER_PROBLEM:
        return _PARAMETER_TEXTS.get(code, "parameter problem")
    return f"ICMPv6 type {kind}, code {code}"
