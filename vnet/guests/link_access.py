"""What an emulated guest's programs may do below the sockets: take and leave addresses, announce them, pass raw frames.

These are the calls for which programs on Linux need root: ``ip address add``, ``arping -U``, packet sockets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_interface
from typing import TypeAlias

import trio

from vnet.errors import UsageError
from vnet.guests.base import Address
from vnet.guests.frame_socket import EmulatedFrameSocket
from vnet.guests.socket_table import SocketTable
from vnet.stack.host import Host
from vnet.stack.interface import Interface

WithPrefix: TypeAlias = str | IPv4Interface | IPv6Interface
"""An address and its prefix length: ``"192.168.0.70/24"``."""


class LinkAccess(ABC):
    """The part of an emulated guest that is about its interfaces."""

    __slots__ = ()

    host: Host

    @abstractmethod
    def _table(self) -> SocketTable:
        """Return what keeps the guest's sockets."""

    def add_address(self, address: WithPrefix, interface: str | None = None, *, announce: bool = True) -> None:
        """Use one more address from now on, beside those of the topology; a crash of the guest forgets it.

        Without the name of an *interface* it is that which has an address in the same network, or else the first. An IPv4
        address is used at once, whoever else has it, and with *announce* the link is told twice, 2 s apart, by gratuitous
        ARP (RFC 5227, 2.3), so that others replace what they know. One for IPv6 is used when it is known that nobody else
        has it (RFC 4862, 5.4), 1 to 2 s later. Raise UsageError for what is no address or no interface of the guest.
        """
        parsed = _parsed(address)
        chosen = self._interface_for(parsed, interface)
        if isinstance(parsed, IPv6Interface):
            chosen.enable_ipv6().add_address(parsed)
            return
        chosen.add_address(parsed)
        if announce:
            chosen.announce(parsed.ip.packed)

    def remove_address(self, address: WithPrefix | Address) -> None:
        """Stop using an address; what its connections send and get is lost. Raise UsageError if the guest has not got it."""
        plain = _parsed(address).ip
        for interface in self.host.interfaces.values():
            for own in interface.addresses:
                if own.ip == plain:
                    interface.remove_address(own)
                    return
            if interface.ipv6 is not None and interface.ipv6.find(plain.packed) is not None:
                interface.ipv6.remove_address(plain.packed)
                return
        raise UsageError(f"{self.host.name} has no address {plain}")

    def announce(self, address: str | IPv4Address) -> None:
        """Tell the link whose an IPv4 address of the guest is, by gratuitous ARP, now and 2 s later (RFC 5227, 2.3).

        Raise UsageError if it is none of the guest's.
        """
        packed = _parsed(address).ip.packed
        owner = self.host.local.get(packed)
        if owner is None:
            raise UsageError(f"{self.host.name} has no IPv4 address {address}")
        owner.announce(packed)

    async def open_frame_socket(self, interface: str | None = None, ethertype: int | None = None) -> EmulatedFrameSocket:
        """Open a socket for raw frames on an interface (without a name: the first); with *ethertype* for those alone.

        Raise UsageError if there is no such interface.
        """
        await trio.lowlevel.checkpoint()
        return EmulatedFrameSocket(self._table(), self._interface(interface), ethertype)

    def _interface(self, name: str | None) -> Interface:
        interfaces = self.host.interfaces
        found = next(iter(interfaces.values()), None) if name is None else interfaces.get(name)
        if found is None:
            known = ", ".join(interfaces) or "none"
            raise UsageError(f"{self.host.name} has no interface {name or ''}: there are {known}")
        return found

    def _interface_for(self, address: IPv4Interface | IPv6Interface, name: str | None) -> Interface:
        if name is None:
            for interface in self.host.interfaces.values():
                if any(address.ip in own.network for own in addresses_of(interface)):
                    return interface
        return self._interface(name)


def addresses_of(interface: Interface) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """List the addresses that an interface uses now; IPv6 ones that are still being asked for are not among them."""
    return interface.addresses if interface.ipv6 is None else (*interface.addresses, *interface.ipv6.usable_addresses())


def _parsed(address: WithPrefix | Address) -> IPv4Interface | IPv6Interface:
    try:
        return ip_interface(address)
    except ValueError:
        raise UsageError(f"{address!r} is no address such as 192.168.0.70/24") from None
