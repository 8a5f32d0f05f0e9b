"""Tell who should reach whom over IPv6, as ``reachability`` does for IPv4, as far as the file alone can tell.

Routers have no IPv6 yet, so only a network that both are on joins two guests. What router advertisements may add, and what a
namespace may forward, nobody knows beforehand: such pairs are not judged.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Interface
from typing import final

from vnet.topology.describe import network_of
from vnet.topology.reachability import Expectation
from vnet.topology.resolved import LINUX_KINDS, ResolvedGuest, ResolvedTopology

Attachments = list[tuple[str, IPv6Interface]]
"""Networks and the addresses on them."""


def expected_ipv6(resolved: ResolvedTopology, source: str, target: str) -> Expectation | None:
    """Return a verdict for a probe to the target's first IPv6 address; None if the file does not say enough."""
    one, other = resolved.guests[source], resolved.guests[target]
    try:
        goal = next((address for _, address in _attachments(resolved, other)), None)
        if goal is None:
            _unknown_if(_configures_itself(other))
            raise _Blocked(f"{target} has no IPv6 address but a link-local one")
        network, own = _way(resolved, one, goal.ip)
        _find(resolved, network, goal.ip, target)
        back, _ = _way(resolved, other, own.ip)
        _find(resolved, back, own.ip, source)
    except _Blocked as end:
        return Expectation(False, str(end))
    except _Unknown:
        return None
    return Expectation(True, "same network")


@final
class _Blocked(Exception):
    """The packet ends here; the text says why."""


@final
class _Unknown(Exception):
    """The file does not say what becomes of the packet."""


def _unknown_if(condition: bool) -> None:
    if condition:
        raise _Unknown


def _attachments(resolved: ResolvedTopology, guest: ResolvedGuest) -> Attachments:
    found: Attachments = []
    for interface in guest.interfaces:
        network = network_of(resolved, interface)
        if network is not None:
            found += [(network, address) for address in interface.addresses if isinstance(address, IPv6Interface)]
    return found


def _configures_itself(guest: ResolvedGuest) -> bool:
    """Tell whether advertisements may give the guest addresses and routes that the file does not have."""
    return guest.kind in LINUX_KINDS or any(interface.ipv6 == "auto" for interface in guest.interfaces)


def _way(resolved: ResolvedTopology, guest: ResolvedGuest, destination: IPv6Address) -> tuple[str, IPv6Interface]:
    """Find the network on which a guest has the destination beside it, and the guest's address there."""
    attachments = _attachments(resolved, guest)
    for network, own in attachments:
        if destination in own.network:
            return network, own
    _unknown_if(_configures_itself(guest))
    if not attachments:
        raise _Blocked(f"{guest.name} has no IPv6 address")
    hops = [
        (route.destination.prefixlen, route.via)
        for route in guest.routes
        if isinstance(route.via, IPv6Address) and destination in route.destination
    ]
    if isinstance(guest.gateway, IPv6Address):
        hops.append((-1, guest.gateway))
    for _, hop in sorted(hops, key=lambda pair: -pair[0]):
        for network, own in attachments:
            if hop in own.network:
                owner = _owner(resolved, network, hop)
                _unknown_if(owner is not None and resolved.guests[owner].kind in LINUX_KINDS)
                raise _Blocked(f"nobody on {network} has {hop}" if owner is None else f"{owner} ({hop}) does not forward")
    raise _Blocked(f"{guest.name} has no route to {destination}")


def _find(resolved: ResolvedTopology, network: str, address: IPv6Address, wanted: str) -> None:
    """Check that it is the wanted guest who has an address on a network."""
    owner = _owner(resolved, network, address)
    if owner != wanted:
        raise _Blocked(f"nobody on {network} has {address}" if owner is None else f"{address} on {network} is {owner}")


def _owner(resolved: ResolvedTopology, network: str, address: IPv6Address) -> str | None:
    for name, guest in resolved.guests.items():
        if any((network, address) == (where, own.ip) for where, own in _attachments(resolved, guest)):
            return name
    return None
