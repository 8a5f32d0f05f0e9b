"""One NIC of a namespace guest, and what is to be said to Linux so that it is as the topology, or a lease, wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Final, final

from vnet.adapters.netlink import Message, address, link, quiet_ipv6, route
from vnet.adapters.tap import QUEUE_LENGTH
from vnet.addresses import Mac
from vnet.guests.base import Address
from vnet.guests.space import Space
from vnet.stack.dhcp_lease import Lease

DEFAULT_ROUTE: Final = IPv4Network("0.0.0.0/0")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """One interface of a namespace guest, resolved.

    *ipv6* lets Linux make a link-local address and speak unasked; with *autoconf* it heeds router advertisements.
    """

    mac: Mac
    name: str = ""
    """As Linux is to call it; not given: eth0, eth1, ... in the order of the NICs."""
    mtu: int = 1500
    addresses: tuple[IPv4Interface, ...] = ()
    gateway: IPv4Address | None = None
    """Without *addresses* it comes, as do the *routes*, with the lease, and counts for more than the lease's."""
    routes: tuple[tuple[IPv4Network, IPv4Address], ...] = ()
    dns: tuple[Address, ...] = ()
    domain: str = ""
    dhcp: bool = False
    """vnet's own client configures the interface."""
    ipv6: bool = False
    autoconf: bool = False
    addresses6: tuple[IPv6Interface, ...] = ()
    routes6: tuple[tuple[IPv6Network, IPv6Address], ...] = ()


def allow_ipv6(space: Space, name: str, nic: Nic) -> None:
    """Have Linux speak IPv6 on an interface, whatever the machine's default is."""
    for key, value in (("disable_ipv6", 0), ("accept_ra", int(nic.autoconf))):
        path = f"/proc/sys/net/ipv6/conf/{name}/{key}"
        if space.read(path).strip() != str(value):
            space.write(path, str(value))


def configuration(interfaces: Sequence[tuple[str, int, Nic]], *, has_loopback: bool) -> list[Message]:
    """List what makes *interfaces*, by name and index, as the topology wants them: all links, all addresses, all routes.

    With *has_loopback* the namespace is a new one, whose own is to be taken up.
    """
    messages = [link("lo")] if has_loopback else []
    for name, _, nic in interfaces:
        if not nic.ipv6:
            messages += quiet_ipv6(name)
        messages.append(link(name, mac=nic.mac, mtu=nic.mtu, queue_length=QUEUE_LENGTH))
    for _, index, nic in interfaces:
        messages += [address(index, each) for each in nic.addresses]
        messages += [address(index, each) for each in nic.addresses6]
    has_default = False
    for _, index, nic in interfaces:
        if not nic.addresses:
            continue  # Linux takes no route by a gateway that it cannot reach yet; a lease brings them
        messages += [route(destination, gateway, index) for destination, gateway in nic.routes]
        if nic.gateway is not None and not has_default:  # the first gateway is the default one
            has_default = True
            messages.append(route(DEFAULT_ROUTE, nic.gateway, index))
    for _, index, nic in interfaces:
        messages += [route(destination, gateway, index) for destination, gateway in nic.routes6]
    return messages


def leased(index: int, nic: Nic, lease: Lease, *, takes_gateway: bool, remove: bool) -> list[Message]:
    """List what gives an interface the address and the routes of a lease, or takes them away."""
    messages = [address(index, lease.address, remove=remove)]
    if remove:  # the routes go with the address
        return messages
    gateway = nic.gateway or lease.gateway
    if gateway is not None and takes_gateway:
        messages.append(route(DEFAULT_ROUTE, gateway, index))
    return messages + [route(destination, via, index) for destination, via in nic.routes]
