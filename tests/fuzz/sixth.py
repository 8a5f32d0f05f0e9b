"""Packets of IPv4 carried over to IPv6: the same transports, between addresses that mean something or must not."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address
from struct import pack
from typing import Final

from draws import Dice
from packets import ICMP, ICMPV6, TCP, UDP, summed

FAR6: Final = IPv6Address("2001:db8::1").packed
ODD6: Final = tuple(
    IPv6Address(text).packed
    for text in (
        "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::", "fe80::1", "ff02::1",
        "ff0e::1", "fd00:2::77", "fd00:ec2::254", "2001:db8::2",
    )
)  # fmt: skip
ECHO: Final = {0: 129, 8: 128, 3: 1, 11: 3, 5: 137, 12: 4}
"""Types of ICMPv6 by those of ICMP."""


def over_ipv6(frame: bytes, own: bytes, known: Sequence[bytes], dice: Dice) -> bytes:
    """Put what a frame with IPv4 carries into an IPv6 packet, from *own* mostly, to one of the *known* or to anywhere."""
    body = frame[14 + (frame[14] & 15) * 4 :] if len(frame) > 34 else frame[14:]
    protocol = frame[23] if len(frame) > 23 else 59
    source, destination = dice.one((own,) * 8 + ODD6), dice.one((FAR6,) * 24 + tuple(known) * 4 + ODD6)
    at = {TCP: 16, UDP: 6, ICMP: 2}.get(protocol)
    if protocol == ICMP and body:
        protocol, body = ICMPV6, bytes((ECHO.get(body[0], body[0]),)) + body[1:]
    if at is not None and len(body) >= at + 2 and dice.below(10):
        if protocol == UDP:
            body = body[:4] + (len(body) & 0xFFFF).to_bytes(2, "big") + body[6:]
        body = summed(body[:at] + bytes(2) + body[at + 2 :], at, source, destination, protocol)
    options, whole = bytes((protocol, 0, 1, 4, 0, 0, 0, 0)), pack("!BBHI", protocol, 0, 0, 7)
    kind, extension = dice.one(((protocol, b""),) * 12 + ((60, options), (44, whole)))
    length = dice.one(((len(extension) + len(body)) & 0xFFFF,) * 15 + (0, 65535))
    head = pack("!IHBB16s16s", 6 << 28, length, kind, dice.one((64,) * 9 + (255, 1, 0)), source, destination)
    return frame[:12] + b"\x86\xdd" + head + extension + body
