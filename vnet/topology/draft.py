"""What the stages of ``resolve`` share while a topology is being resolved, and what ``validate`` looks at afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from vnet.topology.adapter_kinds.choice import Adapter
from vnet.topology.addressing import MacAllotter
from vnet.topology.model import Topology
from vnet.topology.problems import Path, Problems, nearest, suggestion
from vnet.topology.profiles import Profile
from vnet.topology.reading import Reader
from vnet.topology.resolved import Address, Interface, Network, ResolvedDhcp, ResolvedInterface
from vnet.topology.wiring import Wiring


@final
@dataclass(frozen=True, slots=True)
class Static:
    """A static address: who has it, on which network, and where that stands."""

    address: Interface
    network: str
    node: str
    interface: str
    router: bool
    path: Path


@final
@dataclass(slots=True, kw_only=True)
class Draft:
    """A topology on its way from typed to resolved. Networks that are referred to by a wrong name simply do not appear."""

    model: Topology
    problems: Problems
    profile: Profile
    vids: Mapping[str, int]
    subnets: Mapping[str, Network]
    macs: MacAllotter
    wiring: Wiring
    reader: Reader
    statics: list[Static] = field(default_factory=list)
    interfaces: dict[tuple[str, str], ResolvedInterface] = field(default_factory=dict)
    """By node and interface name."""
    dhcp: dict[str, ResolvedDhcp] = field(default_factory=dict)
    paths: dict[tuple[str, str], Path] = field(default_factory=dict)
    """Where each interface stands."""
    _routers: dict[tuple[str, int], dict[str, Address]] = field(default_factory=dict)
    """By network and IP version: each router's first address."""

    def add(self, static: Static) -> None:
        """Remember a static address."""
        self.statics.append(static)
        if static.router:
            on_network = self._routers.setdefault((static.network, static.address.version), {})
            on_network.setdefault(static.node, static.address.ip)

    def network(self, name: str, path: Path, *, key: bool = False) -> str | None:
        """Check a reference to a network; after a typing mistake return the network that was probably meant."""
        if name in self.model.networks:
            return name
        if self.problems.blamed(("networks",)):
            return None
        text = f"there is no network {name!r}; {suggestion(name, list(self.model.networks))}"
        self.problems.error("unknown-network", path, text, key=key)
        return nearest(name, self.model.networks)

    def has_dhcp(self, network: str) -> bool:
        """Tell whether the network has a DHCP server."""
        model = self.model.networks.get(network)
        return model is not None and model.dhcp is not None

    def leads_outside(self, network: str) -> bool:
        """Tell whether there is more on the network than the lab and the machine: a server may be out there."""
        model = self.model.networks.get(network)
        adapter = "none" if model is None else model.adapter
        return adapter.loopback is None if isinstance(adapter, Adapter) else adapter not in ("none", "loopback")

    def statics_on(self, network: str) -> list[Static]:
        """List the static addresses of a network."""
        return [static for static in self.statics if static.network == network]

    def routers_on(self, network: str, version: int = 4) -> Mapping[str, Address]:
        """Return the first address of each router on a network."""
        return self._routers.get((network, version), {})

    def guest_addresses(self, guest: str) -> list[Address]:
        """List what a guest is reached by: its static addresses and its reservations."""
        addresses: list[Address] = [s.address.ip for s in self.statics if s.node == guest and not s.router]
        macs = [interface.mac for (node, _), interface in self.interfaces.items() if node == guest]
        for scope in self.dhcp.values():
            addresses += [scope.reservations[mac] for mac in macs if mac in scope.reservations]
        return addresses
