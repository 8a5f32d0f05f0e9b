"""A routing table of a host, one for each IP version: longest prefix first, then metric, then age of the route."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from vnet.errors import UsageError

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    from vnet.stack.interface import Interface

_from_bytes = int.from_bytes


@final
@dataclass(frozen=True, slots=True)
class Route:
    """Where packets for *network* go: to *gateway*, or straight to their destination if that is None."""

    network: IPv4Network | IPv6Network
    gateway: bytes | None
    interface: Interface
    metric: int = 0


@final
class RouteTable:
    """Routes of one IP version by prefix length.

    ``on_change`` is called after every change, because others cache what they looked up.
    """

    __slots__ = ("_levels", "on_change")

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.on_change = on_change
        self._levels: list[tuple[int, dict[int, list[Route]]]] = []  # (mask, routes by network), longest mask first

    def __iter__(self) -> Iterator[Route]:
        """Go through the routes, longest prefix first."""
        for _, table in self._levels:
            for routes in table.values():
                yield from routes

    def add(
        self,
        network: IPv4Network | IPv6Network,
        gateway: bytes | None = None,
        interface: Interface | None = None,
        metric: int = 0,
    ) -> Route:
        """Add a route; without *interface* the gateway must be on a connected network.

        Adding a route that is there already changes nothing. Raise UsageError if nothing says which interface it leaves by.
        """
        if interface is None:
            via = self.lookup(gateway) if gateway is not None else None
            if via is None or via.gateway is not None:
                raise UsageError(f"the gateway of {network} is on no connected network: name the interface of the route")
            interface = via.interface
        route = Route(network, gateway, interface, metric)
        mask, key = _from_bytes(network.netmask.packed, "big"), _from_bytes(network.network_address.packed, "big")
        routes = self._level(mask).setdefault(key, [])
        if route not in routes:
            routes.append(route)
            routes.sort(key=_metric)  # stable: of equal routes the older one stays first
            self.on_change()
        return route

    def remove(self, route: Route) -> None:
        """Remove a route; one that is not there is no error."""
        self._keep(lambda other: other != route)

    def remove_interface(self, interface: Interface) -> None:
        """Remove every route that leaves by *interface*."""
        self._keep(lambda route: route.interface is not interface)

    def lookup(self, destination: bytes, interface: Interface | None = None) -> Route | None:
        """Find the best route to a packed address, among those that leave by *interface* if one is given."""
        value = _from_bytes(destination, "big")
        for mask, table in self._levels:
            routes = table.get(value & mask)
            if routes is not None:
                if interface is None:
                    return routes[0]
                for route in routes:
                    if route.interface is interface:
                        return route
        return None

    def _level(self, mask: int) -> dict[int, list[Route]]:
        for other, table in self._levels:
            if other == mask:
                return table
        table = {}
        self._levels.append((mask, table))
        self._levels.sort(key=_mask, reverse=True)
        return table

    def _keep(self, wanted: Callable[[Route], bool]) -> None:
        before = sum(1 for _ in self)
        levels = []
        for mask, table in self._levels:
            left = {key: kept for key, routes in table.items() if (kept := [route for route in routes if wanted(route)])}
            if left:
                levels.append((mask, left))
        self._levels = levels
        if sum(1 for _ in self) != before:
            self.on_change()


def _mask(level: tuple[int, dict[int, list[Route]]]) -> int:
    return level[0]


def _metric(route: Route) -> int:
    return route.metric
