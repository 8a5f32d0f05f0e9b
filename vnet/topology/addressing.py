"""Derive what a topology leaves out: VLANs, MAC addresses, and a network's DHCP server and range.

Everything is a function of names and of the order in the file: no randomness, no hash order, so that the same file makes the
same lab on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Final, final

from vnet.addresses import Mac

FIRST_ALLOTTED_VID: Final = 101
"""Below are the numbers that people choose; 1 is what switches call their default VLAN."""
RANGE_OFFSET: Final = 16
"""Where a derived DHCP range begins: the samples of VS-54 all leave the first sixteen addresses to static ones."""


def allot_vids(wanting: Iterable[str], taken: Iterable[int]) -> dict[str, int]:
    """Give each network a VLAN that nobody has; networks left over when the VIDs run out get none."""
    used = set(taken)
    free = (vid for vid in (*range(FIRST_ALLOTTED_VID, 4095), *range(2, FIRST_ALLOTTED_VID)) if vid not in used)
    return dict(zip(wanting, free, strict=False))


@final
class MacAllotter:
    """Derives MAC addresses from names; *taken* are those that the topology states."""

    def __init__(self, lab: str, oui: Mac, taken: Iterable[Mac]) -> None:
        self._lab = lab
        self._oui = oui
        self._taken = set(taken)

    def derive(self, node: str, interface: str) -> Mac:
        """Make an address under the lab's OUI; a second one that hashes to the same octets gets the next hash."""
        attempt = 0
        while True:
            name = f"{self._lab}/{node}/{interface}" + (f"/{attempt}" if attempt else "")
            mac = self._oui + hashlib.sha256(name.encode()).digest()[:3]
            if mac not in self._taken:
                self._taken.add(mac)
                return mac
            attempt += 1


def first_free(
    subnet: IPv4Network, taken: set[IPv4Address], reach: tuple[IPv4Address, IPv4Address] | None
) -> IPv4Address | None:
    """Find the first host address that nobody has and that is not in the range *reach*."""
    first, last = host_bounds(subnet)
    address = int(first)
    while address <= int(last):
        if reach is not None and int(reach[0]) <= address <= int(reach[1]):
            address = int(reach[1]) + 1
        elif IPv4Address(address) in taken:
            address += 1
        else:
            return IPv4Address(address)
    return None


def free_range(subnet: IPv4Network, taken: Iterable[IPv4Address]) -> tuple[IPv4Address, IPv4Address] | None:
    """Find where a DHCP range fits: the longest run of free addresses, the first of several; None if no address is free.

    In a subnet of at least 32 addresses it begins at ``RANGE_OFFSET``.
    """
    hosts = host_bounds(subnet)
    low, high = int(hosts[0]), int(hosts[1])
    if subnet.num_addresses >= 2 * RANGE_OFFSET:
        low = int(subnet.network_address) + RANGE_OFFSET
    fences = sorted({int(address) for address in taken if low <= int(address) <= high})
    best: tuple[int, int] | None = None
    start = low
    for fence in (*fences, high + 1):
        if fence > start and (best is None or fence - start > best[1] - best[0] + 1):
            best = (start, fence - 1)
        start = fence + 1
    return (IPv4Address(best[0]), IPv4Address(best[1])) if best else None


def host_bounds(subnet: IPv4Network) -> tuple[IPv4Address, IPv4Address]:
    """Return the first and last address that a host may have (RFC 3021: both of a /31)."""
    if subnet.prefixlen >= 31:
        return subnet.network_address, subnet.broadcast_address
    return subnet.network_address + 1, subnet.broadcast_address - 1


def host_problem(address: IPv4Address, subnet: IPv4Network) -> str:
    """Say why no host of a subnet may have an address in it, or nothing."""
    first, last = host_bounds(subnet)
    if address < first:
        return f"{address} names the network {subnet} itself; the first host is {first}"
    return f"{address} is the broadcast address of {subnet}; the last host is {last}" if address > last else ""


def is_host6(address: IPv6Address) -> bool:
    """Tell whether a host may have an IPv6 address for its own."""
    return not (address.is_multicast or address.is_unspecified or address.is_loopback)
