"""MAC addresses and the group addresses that a bridge must know.

On the frame path an address is the octets as they stand in the frame: 6 ``bytes`` for a MAC address, 4 for IPv4, 16 for
IPv6. ``ipaddress`` objects appear only in configuration and in the values that control protocols work on.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

Mac: TypeAlias = bytes
"""A MAC address: 6 octets, in the order they are sent."""

BROADCAST: Final[Mac] = b"\xff" * 6
ZERO_MAC: Final[Mac] = bytes(6)
RESERVED_PREFIX: Final = bytes.fromhex("0180c20000")
"""First five octets of the reserved group addresses; with a last octet of 00 to 0F a bridge never forwards them
(IEEE 802.1Q-2018, 8.6.3, table 8-1)."""
VNET_OUI: Final = bytes.fromhex("525400")
"""Prefix of the addresses that vnet derives: locally administered, and known to every tool as "a virtual machine"."""

_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}")


def parse_mac(text: str) -> Mac:
    """Read ``52:54:00:12:34:56`` or ``00-03-FF-38-A6-6F``; raise ValueError on anything else."""
    if not _MAC.fullmatch(text):
        raise ValueError(f"{text!r} is not a MAC address: write six octets, such as 52:54:00:12:34:56")
    return bytes.fromhex(text.replace(text[2], ""))


def format_mac(mac: Mac) -> str:
    """Print as ``52:54:00:12:34:56``."""
    return mac.hex(":")


def is_group(mac: Mac) -> bool:
    """Tell whether the address names a group: the individual/group bit (IEEE 802-2014, 8.2)."""
    return bool(mac[0] & 1)


def is_reserved(mac: Mac) -> bool:
    """Tell whether a bridge must keep the frame on its own link: 01-80-C2-00-00-00 to 0F."""
    return mac[:5] == RESERVED_PREFIX and mac[5] < 16


def multicast_mac(address: bytes) -> Mac:
    """Map a group address to its MAC address: IPv4 by RFC 1112 section 6.4, IPv6 by RFC 2464 section 7."""
    if len(address) == 4:
        return b"\x01\x00\x5e" + bytes((address[1] & 0x7F,)) + address[2:]
    return b"\x33\x33" + address[-4:]
