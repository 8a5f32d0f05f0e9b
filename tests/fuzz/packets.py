"""Packets octet by octet: headers, their checksums, and where they begin. Nothing of vnet's codecs but the checksum."""

from __future__ import annotations

from struct import pack, unpack_from
from typing import Final

from vnet.wire.checksum import checksum, ones_sum

IPV4, ARP, IPV6, C_TAG, S_TAG = b"\x08\x00", b"\x08\x06", b"\x86\xdd", b"\x81\x00", b"\x88\xa8"
BROADCAST: Final = b"\xff" * 6
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58


def v6_of(mac: bytes) -> bytes:
    """Make the link-local address of a station (RFC 4291, appendix A)."""
    return bytes.fromhex("fe80000000000000") + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


def ipv4(
    source: bytes, destination: bytes, protocol: int, body: bytes, *, ttl: int = 64, ident: int = 0, word: int = 0,
    options: bytes = b"",
) -> bytes:  # fmt: skip
    """Put an IPv4 header (RFC 791) before *body*; too long a body gets a length that is cut off."""
    octets = 20 + len(options)
    length = (octets + len(body)) & 0xFFFF
    head = pack("!BBHHHBBH4s4s", 0x40 | octets >> 2, 0, length, ident, word, ttl, protocol, 0, source, destination) + options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + body


def summed(body: bytes, at: int, source: bytes, destination: bytes, protocol: int) -> bytes:
    """Write the checksum of a transport header with its pseudo-header to offset *at*, which holds zeros."""
    value = checksum(body, ones_sum(source + destination) + protocol + len(body))
    return body[:at] + (value or 0xFFFF).to_bytes(2, "big") + body[at + 2 :]


def udp(source: bytes, destination: bytes, from_port: int, to_port: int, payload: bytes, *, summed_: bool = True) -> bytes:
    """Build a UDP datagram."""
    datagram = pack("!HHHH", from_port, to_port, (8 + len(payload)) & 0xFFFF, 0) + payload
    return summed(datagram, 6, source, destination, UDP) if summed_ else datagram


def icmp(message: bytes) -> bytes:
    """Write the checksum of an ICMP message."""
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def ip_offset(frame: bytes | bytearray) -> int | None:
    """Find the IPv4 header behind any tags; None if there is none."""
    at = 12
    while frame[at : at + 2] in (C_TAG, S_TAG):
        at += 4
    return at + 2 if frame[at : at + 2] == IPV4 and len(frame) > at + 12 else None


def repair(octets: bytearray) -> None:
    """Make the checksums of an IPv4 packet right again, as far as its fields make sense."""
    at = ip_offset(octets)
    if at is None or len(octets) < at + 20:
        return
    start = at + (octets[at] & 15) * 4
    end = at + unpack_from("!H", octets, at + 2)[0]
    if not at + 20 <= start <= end <= len(octets):
        return
    octets[at + 10 : at + 12] = b"\0\0"
    octets[at + 10 : at + 12] = checksum(bytes(octets[at:start])).to_bytes(2, "big")
    protocol = octets[at + 9]
    field = {ICMP: 2, TCP: 16, UDP: 6}.get(protocol)
    if field is None or start + field + 2 > end:
        return
    field += start
    octets[field : field + 2] = b"\0\0"
    pseudo = 0 if protocol == ICMP else ones_sum(bytes(octets[at + 12 : at + 20])) + protocol + end - start
    value = checksum(bytes(octets[start:end]), pseudo)
    octets[field : field + 2] = (value or (0xFFFF if protocol == UDP else 0)).to_bytes(2, "big")
