"""DHCP options (RFC 2132): their numbers, the octets of the options field, and the values inside.

The options field is a row of (code, length, value), padded with 0 and ended by 255. An option that comes more than once is
one long value cut into pieces (RFC 3396), so a decoded field is a mapping from code to the whole value, in the order of
first appearance. Codes that are not known here survive a round trip as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from typing import Final

from vnet.errors import WireError

PAD: Final = 0
SUBNET_MASK: Final = 1
ROUTER: Final = 3
DNS_SERVERS: Final = 6
HOST_NAME: Final = 12
DOMAIN_NAME: Final = 15
WINS_SERVERS: Final = 44
REQUESTED_ADDRESS: Final = 50
LEASE_TIME: Final = 51
OVERLOAD: Final = 52
MESSAGE_TYPE: Final = 53
SERVER_ID: Final = 54
PARAMETER_REQUEST_LIST: Final = 55
ERROR_TEXT: Final = 56
MAX_MESSAGE_SIZE: Final = 57
RENEWAL_TIME: Final = 58
REBINDING_TIME: Final = 59
CLIENT_ID: Final = 61
RELAY_INFORMATION: Final = 82
END: Final = 255

NAMES: Final[Mapping[int, str]] = {
    SUBNET_MASK: "subnet mask", ROUTER: "router", DNS_SERVERS: "DNS servers", HOST_NAME: "host name",
    DOMAIN_NAME: "domain name", WINS_SERVERS: "WINS servers", REQUESTED_ADDRESS: "requested address",
    LEASE_TIME: "lease time", OVERLOAD: "overload", MESSAGE_TYPE: "message type", SERVER_ID: "server identifier",
    PARAMETER_REQUEST_LIST: "parameter request list", ERROR_TEXT: "message", MAX_MESSAGE_SIZE: "maximum message size",
    RENEWAL_TIME: "renewal time (T1)", REBINDING_TIME: "rebinding time (T2)", CLIENT_ID: "client identifier",
    RELAY_INFORMATION: "relay agent information",
}  # fmt: skip
"""What people call the options that vnet itself uses (RFC 2132, RFC 3046)."""

OVERLOAD_FILE: Final = 1
"""Bit of option 52: the file field holds options (RFC 2132, 9.3)."""
OVERLOAD_SNAME: Final = 2
"""Bit of option 52: the sname field holds options."""

INFINITE: Final = 0xFFFF_FFFF
"""A lease time that never ends (RFC 2131, 3.3)."""
MAX_PIECE: Final = 255


def decode_field(field: bytes, start: int, options: dict[int, bytes]) -> None:
    """Add the options that stand in *field* from *start* on; a repeated code continues the value it has already (RFC 3396).

    A field without END is taken as it is: such clients exist, and nothing is ambiguous about them. Raise WireError if an
    option runs over the end of the field.
    """
    end = len(field)
    at = start
    while at < end:
        code = field[at]
        if code == END:
            return
        if code == PAD:
            at += 1
            continue
        at += 2
        if at > end:
            raise WireError(f"DHCP option {code} has no length")
        following = at + field[at - 1]
        if following > end:
            raise WireError(f"DHCP option {code} runs over the end of its field")
        value = field[at:following]
        options[code] = options[code] + value if code in options else value
        at = following


def encode_option(code: int, value: bytes) -> bytes:
    """Put one option together, in pieces of at most 255 octets (RFC 3396, section 5)."""
    if len(value) <= MAX_PIECE:
        return bytes((code, len(value))) + value
    pieces = (value[at : at + MAX_PIECE] for at in range(0, len(value), MAX_PIECE))
    return b"".join(bytes((code, len(piece))) + piece for piece in pieces)


def encode_options(options: Mapping[int, bytes]) -> bytes:
    """Put options one behind the other, without END."""
    return b"".join([encode_option(code, value) for code, value in options.items()])


def decode_address(value: bytes) -> IPv4Address:
    """Read an option that is one address."""
    if len(value) != 4:
        raise WireError(f"a DHCP option with one address has 4 octets, not {len(value)}")
    return IPv4Address(value)


def decode_addresses(value: bytes) -> tuple[IPv4Address, ...]:
    """Read an option that is a list of at least one address, the preferred first."""
    if not value or len(value) % 4:
        raise WireError(f"a DHCP option with addresses has a multiple of 4 octets, not {len(value)}")
    return tuple(IPv4Address(value[at : at + 4]) for at in range(0, len(value), 4))


def encode_addresses(addresses: Iterable[IPv4Address]) -> bytes:
    """Write a list of addresses."""
    return b"".join(address.packed for address in addresses)


def decode_seconds(value: bytes) -> int:
    """Read a time: 32 bits, in seconds; ``INFINITE`` has no end."""
    if len(value) != 4:
        raise WireError(f"a DHCP time has 4 octets, not {len(value)}")
    return int.from_bytes(value, "big")


def encode_seconds(seconds: int) -> bytes:
    """Write a time; what is too long to say becomes ``INFINITE``."""
    return min(seconds, INFINITE).to_bytes(4, "big")


def decode_mask(value: bytes) -> int:
    """Read a subnet mask as a prefix length; raise WireError for a mask with holes."""
    if len(value) != 4:
        raise WireError(f"a subnet mask has 4 octets, not {len(value)}")
    host_bits = ~int.from_bytes(value, "big") & 0xFFFF_FFFF
    if host_bits & (host_bits + 1):
        raise WireError(f"the subnet mask {IPv4Address(value)} has holes")
    return 32 - host_bits.bit_length()


def decode_text(value: bytes) -> str:
    """Read a name or message: NVT ASCII, perhaps ended by zeros (RFC 2132, section 2); anything else becomes a ``?``.

    So the text may be printed on a terminal as it is.
    """
    text = value.rstrip(b"\0").decode("ascii", "replace")
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
