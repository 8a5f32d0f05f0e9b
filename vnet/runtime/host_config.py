"""What an emulated host is given of its topology: addresses, routes, the gateway of its lease, IPv6, bonds."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Final

from vnet.stack.bond import BondConfig
from vnet.stack.dhcp_lease import Lease
from vnet.stack.interface import Interface
from vnet.stack.routes import RouteTable
from vnet.topology.resolved import ResolvedBond, ResolvedGuest, ResolvedInterface, ResolvedRoute, ResolvedTopology

DEFAULT_ROUTE: Final = IPv4Network("0.0.0.0/0")
DEFAULT_ROUTE6: Final = IPv6Network("::/0")

_BEFORE_LEASED: Final = -1
"""Metric of a default route that the topology states where the lease has one too."""


def is_beside(topology: ResolvedTopology, address: object, nic: ResolvedInterface) -> bool:
    """Tell whether *address* is on the subnet that the NIC is plugged into."""
    network = topology.networks.get(nic.network or "")
    subnets = [each.network for each in nic.addresses] + ([network.subnet] if network and network.subnet else [])
    return any(address in subnet for subnet in subnets)


def routes_by(topology: ResolvedTopology, guest: ResolvedGuest, nic: ResolvedInterface) -> list[ResolvedRoute]:
    """List the routes of a guest that lead through a NIC."""
    return [route for route in guest.routes if is_beside(topology, route.via, nic)]


def leased_gateway(topology: ResolvedTopology, guest: ResolvedGuest, nic: ResolvedInterface) -> IPv4Address | None:
    """Return the gateway that the topology prefers to that of the lease on this NIC; None if it leaves the choice."""
    gateway = guest.gateway
    if nic.addresses or not isinstance(gateway, IPv4Address) or not is_beside(topology, gateway, nic):
        return None
    return gateway


def add_routes(table: RouteTable, routes: Iterable[ResolvedRoute], interface: Interface | None = None) -> None:
    """Add those routes of a topology that are IPv4's, by an interface if one is given."""
    for route in routes:
        if isinstance(route.destination, IPv4Network) and isinstance(route.via, IPv4Address):
            table.add(route.destination, route.via.packed, interface)


def add_routes_again(
    table: RouteTable, routes: Iterable[ResolvedRoute], gateway: IPv4Address | None, interface: Interface, lease: Lease
) -> None:
    """Add the routes that go with a lease, and the *gateway* that is preferred to its own."""
    add_routes(table, routes, interface)
    if gateway is not None:
        table.add(DEFAULT_ROUTE, gateway.packed, interface, _BEFORE_LEASED)


def start_ipv6(interface: Interface, nic: ResolvedInterface, routes: Iterable[ResolvedRoute]) -> None:
    """Have an interface speak IPv6 with what the topology says; the addresses are asked for once the cable is in."""
    side = interface.enable_ipv6()
    for address in nic.addresses:
        if isinstance(address, IPv6Interface):
            side.add_address(address)
    if nic.ipv6 == "auto":
        side.configure_itself()
    if isinstance(nic.gateway, IPv6Address):
        side.node.routes.add(DEFAULT_ROUTE6, nic.gateway.packed, interface)
    for route in routes:
        if isinstance(route.destination, IPv6Network) and isinstance(route.via, IPv6Address):
            side.node.routes.add(route.destination, route.via.packed, interface)


def ipv4_addresses(interface: ResolvedInterface) -> list[IPv4Interface]:
    """List the IPv4 addresses that the topology gives an interface."""
    return [address for address in interface.addresses if isinstance(address, IPv4Interface)]


def bond_config(bond: ResolvedBond) -> BondConfig:
    """Read a bond of the topology as the stack does."""
    return BondConfig(
        miimon=bond.miimon,
        updelay=bond.updelay,
        downdelay=bond.downdelay,
        primary=bond.primary,
        primary_reselect=bond.primary_reselect,
        num_grat_arp=bond.num_grat_arp,
        arp_interval=bond.arp_interval,
        arp_targets=tuple(target.packed for target in bond.arp_ip_target),
        arp_validate=bond.arp_validate,
    )
