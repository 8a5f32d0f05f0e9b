"""What guests have in common that vnet cannot look into: nothing can be run inside, and that answers every probe."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Final

import trio

from vnet.errors import NoAnswer
from vnet.guests.base import Address, InterfaceState, PingReply, ProbeReply, Target, Verdict
from vnet.guests.program import GuestProgram, Row
from vnet.ports import Port
from vnet.topology.resolved import ResolvedInterface

POLL_LEASE: Final = 0.05
"""Seconds between two looks for a lease."""

_CANNOT: Final = "vnet cannot run anything inside a virtual machine"


class OpaqueGuest:
    """The probes and programs of such a guest, and what is known of its *interfaces*, whose *ports* are in the same order.

    ``find_lease`` tells the address that a DHCP server of the lab has leased to a MAC address.
    """

    def __init__(self, name: str, interfaces: tuple[ResolvedInterface, ...], ports: tuple[Port, ...]) -> None:
        self.name = name
        self.find_lease: Callable[[bytes], IPv4Address | None] = lambda mac: None
        self._interfaces = interfaces
        self._ports = ports

    @property
    def ports(self) -> tuple[Port, ...]:
        """The guest's ends of its cables."""
        return self._ports

    @property
    def address(self) -> Address | None:
        """The first address that the topology says it has, or a DHCP server of the lab has leased to it."""
        every = [address for state in self.interfaces() for address in state.addresses]
        return next((each.ip for each in sorted(every, key=lambda each: each.version)), None)

    def interfaces(self) -> tuple[InterfaceState, ...]:
        """Describe the NICs; what addresses they really have, only the machine knows."""
        return tuple(
            InterfaceState(
                nic.name, nic.mac, self._addresses(nic), nic.gateway, up=port.carrier,
                dhcp="" if nic.dhcp is None else "bound" if self.find_lease(nic.mac) else "waiting",
            )
            for nic, port in zip(self._interfaces, self._ports, strict=True)
        )  # fmt: skip

    def _addresses(self, nic: ResolvedInterface) -> tuple[IPv4Interface | IPv6Interface, ...]:
        lease = self.find_lease(nic.mac) if nic.dhcp is not None else None
        return nic.addresses if lease is None else (*nic.addresses, IPv4Interface(lease))

    async def dhcp(self, timeout: float = 30.0) -> IPv4Address:
        """Wait until each NIC with ``dhcp: true`` has a lease from the lab (any NIC, if none says so); return the first."""
        stated = [nic for nic in self._interfaces if nic.dhcp is not None]
        with trio.move_on_after(timeout):
            while True:
                leases = [self.find_lease(nic.mac) for nic in stated or self._interfaces]
                found = [lease for lease in leases if lease is not None]
                if found and (not stated or len(found) == len(leases)):
                    return found[0]
                await trio.sleep(POLL_LEASE)
        raise NoAnswer(f"{self.name} got no address by DHCP within {timeout:g} s")

    @property
    def programs(self) -> tuple[GuestProgram, ...]:
        """None: what runs inside is the machine's own affair."""
        return ()

    @property
    def results(self) -> tuple[Row, ...]:
        """None, as there are no programs."""
        return ()

    async def ping(self, target: Target, count: int = 1, timeout: float = 1.0, size: int = 56) -> PingReply:
        """Say that this cannot be done from outside; the console can."""
        await trio.lowlevel.checkpoint()
        return PingReply(False, error=_CANNOT, sent=0)

    async def tcp_probe(self, target: Target, port: int, timeout: float = 1.0) -> ProbeReply:
        """Say that this cannot be done from outside."""
        await trio.lowlevel.checkpoint()
        return ProbeReply(Verdict.SILENT, error=_CANNOT)

    async def udp_probe(self, target: Target, port: int, payload: bytes = b"vnet", timeout: float = 1.0) -> ProbeReply:
        """Say that this cannot be done from outside."""
        await trio.lowlevel.checkpoint()
        return ProbeReply(Verdict.SILENT, error=_CANNOT)
