"""ICMP for IPv4 (RFC 792, RFC 1122 section 3.2.2, RFC 1812 section 5.2.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from vnet.errors import WireError
from vnet.wire.checksum import checksum, is_valid

ECHO_REPLY: Final = 0
UNREACHABLE: Final = 3
SOURCE_QUENCH: Final = 4
REDIRECT: Final = 5
ECHO_REQUEST: Final = 8
TIME_EXCEEDED: Final = 11
PARAMETER_PROBLEM: Final = 12

NET_UNREACHABLE: Final = 0
HOST_UNREACHABLE: Final = 1
PROTOCOL_UNREACHABLE: Final = 2
PORT_UNREACHABLE: Final = 3
FRAGMENTATION_NEEDED: Final = 4
NET_PROHIBITED: Final = 9
HOST_PROHIBITED: Final = 10
COMMUNICATION_PROHIBITED: Final = 13
"""Codes of UNREACHABLE."""

TTL_EXCEEDED: Final = 0
REASSEMBLY_EXCEEDED: Final = 1
"""Codes of TIME_EXCEEDED."""

HEADER_OCTETS: Final = 8
MAX_QUOTE: Final = 548
"""Octets of the offending packet in an error: the whole error stays within 576 octets (RFC 1812, 4.3.2.3)."""

ERRORS: Final = frozenset({UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM})

_UNREACHABLE_TEXTS: Final = {
    NET_UNREACHABLE: "net unreachable", HOST_UNREACHABLE: "host unreachable", PROTOCOL_UNREACHABLE: "protocol unreachable",
    PORT_UNREACHABLE: "port unreachable", FRAGMENTATION_NEEDED: "fragmentation needed", 5: "source route failed",
    6: "net unknown", 7: "host unknown", NET_PROHIBITED: "net prohibited", HOST_PROHIBITED: "host prohibited",
    COMMUNICATION_PROHIBITED: "communication prohibited",
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Icmp:
    """A message: type, code, the 32 bits that follow the checksum, and the rest."""

    kind: int
    code: int
    rest: int
    body: bytes

    @property
    def is_error(self) -> bool:
        """Tell whether it quotes a packet that met trouble: such a message is never answered by another."""
        return self.kind in ERRORS

    def encode(self) -> bytes:
        """Write the message, checksum included."""
        return build(self.kind, self.code, self.rest, self.body)


def build(kind: int, code: int, rest: int, body: bytes) -> bytes:
    """Write a message, checksum included."""
    tail = rest.to_bytes(4, "big") + body
    head = bytes((kind, code))
    field = checksum(head + b"\x00\x00" + tail)
    if field == 0 and not any(head + tail):
        field = 0xFFFF  # the sum of nothing but zeros is +0, and its complement -0 (RFC 1071, section 2): an echo reply
    return head + field.to_bytes(2, "big") + tail


def decode(message: bytes, *, verify: bool = True) -> Icmp:
    """Read a message; raise WireError if it is cut off, or if its checksum is wrong and *verify* is set."""
    if len(message) < HEADER_OCTETS:
        raise WireError("ICMP message cut off")
    if verify and not is_valid(message):
        raise WireError("ICMP checksum is wrong")
    return Icmp(message[0], message[1], int.from_bytes(message[4:8], "big"), message[8:])


def describe(kind: int, code: int) -> str:
    """Name an error as a user wants to read it."""
    if kind == UNREACHABLE:
        return _UNREACHABLE_TEXTS.get(code, f"unreachable, code {code}")
    if kind == TIME_EXCEEDED:
        return "time exceeded" if code == TTL_EXCEEDED else "reassembly time exceeded"
    if kind == PARAMETER_PROBLEM:
        return "parameter problem"
    return f"ICMP type {kind}, code {code}"
