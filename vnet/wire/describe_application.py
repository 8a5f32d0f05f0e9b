"""The part of ``describe`` above UDP: DHCP and DNS messages in a few words.

As there, each function yields pieces and may end in an IndexError or struct.error where the octets run out.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from struct import unpack_from
from typing import Final, TypeAlias

from vnet.addresses import format_mac

Pieces: TypeAlias = Iterator[str]

_MAX_TEXT: Final = 80
_MAX_NAME_STEPS: Final = 130
"""A DNS name has at most 127 labels (RFC 1035, 2.3.4); more steps mean that its pointers run in a circle."""
_DHCP_COOKIE: Final = b"\x63\x82\x53\x63"
_DHCP_TYPES: Final = ("", "discover", "offer", "request", "decline", "ack", "nak", "release", "inform")
_DNS_TYPES: Final = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 41: "OPT", 65: "HTTPS",
    252: "AXFR", 255: "ANY",
}  # fmt: skip
_DNS_CODES: Final = ("", "FormErr", "ServFail", "NXDomain", "NotImp", "Refused")


def printable(data: bytes) -> str:
    """Show a peer's text in printable ASCII; everything else as \\xNN, so that no escape sequence reaches a terminal."""
    cut = data[:_MAX_TEXT]
    text = "".join(chr(octet) if 32 <= octet < 127 and octet != 0x5C else f"\\x{octet:02x}" for octet in cut)
    return text + ("..." if len(data) > _MAX_TEXT else "")


def dhcp(data: bytes) -> Pieces:
    """Describe a BOOTP or DHCP message (RFC 2131, figure 1)."""
    operation = data[0]
    transaction, yours, relay = (unpack_from(">I", data, at)[0] for at in (4, 16, 24))
    options = _dhcp_options(data[240:]) if data[236:240] == _DHCP_COOKIE else {}
    kind = options.get(53, b"")
    if len(kind) == 1 and 0 < kind[0] < len(_DHCP_TYPES):
        yield "DHCP " + _DHCP_TYPES[kind[0]]
    else:
        yield "BOOTP " + {1: "request", 2: "reply"}.get(operation, f"operation {operation}")
    yield f"xid {transaction:08x}"
    yield f"client {format_mac(data[28:34])}"
    for name, address in (("address", yours), ("relay", relay)):
        if address:
            yield f"{name} {IPv4Address(address)}"
    for code, name in ((50, "requests"), (54, "server"), (3, "gateway")):
        if len(value := options.get(code, b"")) >= 4:
            yield f"{name} {IPv4Address(value[:4])}"
    if len(lease := options.get(51, b"")) == 4:
        yield f"lease {int.from_bytes(lease, 'big')}s"
    if host := options.get(12):
        yield "host " + printable(host)


def _dhcp_options(data: bytes) -> dict[int, bytes]:
    """Collect the options as far as they can be read; a first occurrence wins."""
    options: dict[int, bytes] = {}
    position = 0
    while position < len(data) and data[position] != 255:
        code = data[position]
        if code == 0:
            position += 1
            continue
        if position + 1 >= len(data):
            break
        length = data[position + 1]
        options.setdefault(code, data[position + 2 : position + 2 + length])
        position += 2 + length
    return options


def dns(data: bytes) -> Pieces:
    """Describe a DNS message by its header and first question (RFC 1035, 4.1)."""
    identifier, flags, questions, answers, authority, additional = unpack_from(">HHHHHH", data)
    is_answer = bool(flags & 0x8000)
    yield f"DNS {'answer' if is_answer else 'query'} {identifier}"
    if questions:
        name, position = _dns_name(data, 12)
        record_type = unpack_from(">H", data, position)[0]
        yield f"{_DNS_TYPES.get(record_type, f'TYPE{record_type}')}? {name}"
    if is_answer:
        code = flags & 15
        if code:
            yield _DNS_CODES[code] if code < len(_DNS_CODES) else f"rcode {code}"
        yield f"{answers}/{authority}/{additional}"
        if flags & 0x0400:
            yield "authoritative"
        if flags & 0x0200:
            yield "truncated"


def _dns_name(data: bytes, position: int) -> tuple[str, int]:
    """Read a name, following its pointers; return it and the position behind it."""
    labels: list[str] = []
    end: int | None = None
    for _ in range(_MAX_NAME_STEPS):
        length = data[position]
        if length == 0:
            return ".".join(labels) or ".", position + 1 if end is None else end
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | data[position + 1]
            end = position + 2 if end is None else end
            position = target
        elif length > 63:
            break
        else:
            labels.append(printable(data[position + 1 : position + 1 + length]))
            position += 1 + length
    raise IndexError
