"""Turn a topology as typed into a topology spelled out: addresses, VLANs, MAC addresses, ports, gateways, servers.

The stages run in the order in which they need each other: VLANs and subnets; links; routers' interfaces; guests (which find
their gateways among the routers); DHCP servers (which keep clear of everybody's addresses); NAT and firewalls (which may
name guests). Nothing stops at a mistake: it is noted, the value is left out, and the next stage does what it can, so that
one run reports everything. ``validate`` then looks at the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

from vnet.addresses import Mac
from vnet.errors import TopologyError
from vnet.topology.addressing import MacAllotter
from vnet.topology.draft import Draft, Static
from vnet.topology.model import Guest, Nic, Route, Router, RouterInterface, Topology
from vnet.topology.model import Network as NetworkModel
from vnet.topology.names import check_names
from vnet.topology.policies import resolve_firewall, resolve_nat
from vnet.topology.problems import Path, Problems, format_path
from vnet.topology.profiles import PROFILES
from vnet.topology.programs import resolve_programs
from vnet.topology.reading import Reader
from vnet.topology.resolve_adapter import resolve_adapter
from vnet.topology.resolved import (
    Address,
    Interface,
    Network,
    ResolvedGuest,
    ResolvedInterface,
    ResolvedNetwork,
    ResolvedRoute,
    ResolvedRouter,
    ResolvedTopology,
)
from vnet.topology.scopes import resolve_dhcp
from vnet.topology.shape import numbered, shape_topology
from vnet.topology.stated import choose_vids, stated_macs
from vnet.topology.validate import validate
from vnet.topology.wiring import LARGEST_MTU, PortVlans, Wiring, access, trunk

MTU: Final = 1500
SMALLEST_MTU: Final = 68
"""RFC 791: what every link has to carry."""


def resolve(model: Topology | Mapping[str, object], *, source: str | None = None) -> ResolvedTopology:
    """Resolve a topology built in Python, of structs or of plain data; raise ``TopologyError`` with all that is wrong."""
    problems = Problems(source)
    resolved = resolve_data(model, problems)
    if resolved is None or problems.has_error():
        raise TopologyError(problems.all())
    return resolved


def resolve_data(data: object, problems: Problems) -> ResolvedTopology | None:
    """Shape, resolve and validate; what comes back is of use only if *problems* has no error."""
    model = shape_topology(data, problems)
    if model is None:
        return None
    check_names(model, problems)
    draft = _draft(model, problems)
    links = draft.wiring.links(model.links)
    router_interfaces = {name: _router_interfaces(draft, name, router) for name, router in model.routers.items()}
    guests = {name: _guest(draft, name, guest or Guest()) for name, guest in model.guests.items()}
    for name, network in model.networks.items():
        if network is not None and network.dhcp is not None:
            scope = resolve_dhcp(draft, name, network.dhcp)
            if scope is not None:
                draft.dhcp[name] = scope
    routers = {name: _router(draft, name, router, router_interfaces[name]) for name, router in model.routers.items()}
    resolved = ResolvedTopology(
        name=model.name,
        profile=draft.profile.name,
        source=problems.file,
        networks={name: _network(draft, name, network or NetworkModel()) for name, network in model.networks.items()},
        switches=draft.wiring.finish(),
        links=links,
        guests=guests,
        routers=routers,
    )
    validate(draft, resolved)
    warnings = tuple(str(problem) for problem in problems.all() if problem.severity == "warning")
    return replace(resolved, warnings=warnings)


def _draft(model: Topology, problems: Problems) -> Draft:
    reader = Reader(problems)
    vids = choose_vids(model, problems)
    profile = PROFILES[model.profile]
    subnets: dict[str, Network] = {}
    for name, network in model.networks.items():
        subnet = reader.prefix(network.subnet if network else None, ("networks", name, "subnet"))
        if subnet is not None:
            subnets[name] = subnet
    return Draft(
        model=model,
        problems=problems,
        profile=profile,
        vids=vids,
        subnets=subnets,
        macs=MacAllotter(model.name, profile.oui, stated_macs(model, reader)),
        wiring=Wiring(model, vids, problems),
        reader=reader,
    )


def _network(draft: Draft, name: str, model: NetworkModel) -> ResolvedNetwork:
    adapter, adapter_port = resolve_adapter(draft, name)
    if model.switch is not None and model.dhcp is None and adapter_port is None:
        text = "only the network's DHCP server and adapter have a place of their own; without either it has no effect"
        draft.problems.warning("idle-switch-key", ("networks", name, "switch"), text, key=True)
    return ResolvedNetwork(
        name=name,
        vid=draft.vids[name],
        subnet=draft.subnets.get(name),
        adapter=adapter,
        adapter_port=adapter_port,
        notes=model.notes,
        dhcp=draft.dhcp.get(name),
    )


def _addresses(
    draft: Draft, texts: str | list[str], network: str | None, node: str, interface: str, path: Path, router: bool
) -> tuple[Interface, ...]:
    """Read static addresses and remember who has them."""
    subnet = draft.subnets.get(network) if network is not None else None
    lost = network is not None and draft.problems.lost(("networks", network, "subnet"))
    addresses: list[Interface] = []
    for index, text in [(None, texts)] if isinstance(texts, str) else numbered(texts):
        place = path if index is None else (*path, index)
        address = draft.reader.interface(text, subnet, place, lost=lost)
        if address is not None:
            addresses.append(address)
            draft.add(Static(address, network or "", node, interface, router, place))
    return tuple(addresses)


def _router_interfaces(draft: Draft, name: str, model: Router) -> tuple[ResolvedInterface, ...]:
    interfaces: list[ResolvedInterface] = []
    for typed, given in model.interfaces.items():
        path: Path = ("routers", name, "interfaces", typed)
        network = draft.network(typed, path, key=True)
        full = given if isinstance(given, RouterInterface) else RouterInterface(address=given)
        address_path = (*path, "address") if isinstance(given, RouterInterface) else path
        addresses = _addresses(draft, full.address, network, name, network or typed, address_path, router=True)
        cable = draft.reader.impairment(full, path)
        mtu = draft.reader.whole(full.mtu, (*path, "mtu"), SMALLEST_MTU, LARGEST_MTU, MTU)
        switch = draft.wiring.find((full.switch, (*path, "switch")), (model.switch, ("routers", name, "switch")))
        if network is None or (name, network) in draft.interfaces:
            continue
        if not full.address:
            draft.problems.error("missing-address", path, f"router {name!r} needs an address on {network!r}")
        interface = ResolvedInterface(
            name=network,
            network=network,
            mac=_mac(draft, full.mac, name, network),
            addresses=addresses,
            gateway=None,
            dhcp=None,
            mtu=mtu,
            cable=cable,
            port=draft.wiring.plug(switch, "router", name, network, access(draft.vids[network])),
        )
        interfaces.append(interface)
        draft.interfaces[name, network] = interface
        draft.paths[name, network] = path
    return tuple(interfaces)


def _mac(draft: Draft, stated: str | None, node: str, interface: str) -> Mac:
    mac = Reader(Problems()).mac(stated, ())  # what is wrong with it was said by stated_macs
    return draft.macs.derive(node, interface) if mac is None else mac


def _router(draft: Draft, name: str, model: Router, interfaces: tuple[ResolvedInterface, ...]) -> ResolvedRouter:
    path: Path = ("routers", name)
    routes = _routes(draft, model.routes, path)
    return ResolvedRouter(
        name=name,
        interfaces=interfaces,
        default_gateway=draft.reader.address(model.default_gateway, (*path, "default_gateway")),
        routes=routes,
        nat=resolve_nat(draft, name, model.nat, interfaces, routes) if model.nat is not None else None,
        firewall=resolve_firewall(draft, name, model, interfaces),
    )


def _routes(draft: Draft, models: list[Route], path: Path) -> tuple[ResolvedRoute, ...]:
    routes: list[ResolvedRoute] = []
    for index, route in numbered(models):
        destination = draft.reader.prefix(route.to, (*path, "routes", index, "to"))
        via = draft.reader.address(route.via, (*path, "routes", index, "via"))
        if destination is not None and via is not None:
            routes.append(ResolvedRoute(destination, via))
    return tuple(routes)


def _guest(draft: Draft, name: str, model: Guest) -> ResolvedGuest:
    path: Path = ("guests", name)
    if model.kind == "qemu":
        text = "guests of kind qemu are not built yet; use emulated or namespace"
        draft.problems.error("kind-not-built", (*path, "kind"), text)
    interfaces: list[ResolvedInterface] = []
    for index, nic in numbered(model.nics):
        full = Nic(network=nic) if isinstance(nic, str) else nic
        nic_path = (*path, "nics", index)
        interface = _nic(draft, name, model, full, index, nic_path, nic_path if isinstance(nic, str) else None)
        if interface is None:
            continue
        if (name, interface.name) in draft.interfaces:
            text = f"guest {name!r} has a NIC called {interface.name!r} already; choose another name"
            draft.problems.error("duplicate-name", (*nic_path, "name"), text)
            continue
        interfaces.append(interface)
        draft.interfaces[name, interface.name] = interface
        draft.paths[name, interface.name] = nic_path
    gateway = _default_gateway(draft, name, model, interfaces)
    dns = tuple(a for i, text in enumerate(model.dns) if (a := draft.reader.address(text, (*path, "dns", i))) is not None)
    return ResolvedGuest(
        name=name,
        kind=model.kind,
        interfaces=_with_gateway(interfaces, gateway),
        gateway=gateway,
        routes=_routes(draft, model.routes, path),
        dns=dns,
        namespace=(model.namespace or f"{draft.model.name}-{name}") if model.kind == "namespace" else None,
        run=resolve_programs(draft, name, model),
    )


def _default_gateway(draft: Draft, name: str, model: Guest, interfaces: list[ResolvedInterface]) -> Address | None:
    """Choose the one default gateway: the guest's own, else one that a NIC states, else the first that was derived."""
    path: Path = ("guests", name)
    stated = [
        (index, nic.gateway)
        for index, nic in numbered(model.nics)
        if isinstance(nic, Nic) and nic.gateway is not None and nic.gateway != "none"
    ]
    if model.gateway is not None:
        if stated:
            text = f"guest {name!r} has a gateway of its own already; keep one of the two"
            draft.problems.error("two-gateways", (*path, "nics", stated[0][0], "gateway"), text, key=True)
        return None if model.gateway == "none" else draft.reader.address(model.gateway, (*path, "gateway"))
    for index, _ in stated[1:]:
        text = f"a NIC of guest {name!r} has the default gateway already; write the others as routes:"
        draft.problems.error("two-gateways", (*path, "nics", index, "gateway"), text, key=True)
    if stated:
        place = (*path, "nics", stated[0][0])
        return next((i.gateway for i in interfaces if draft.paths[name, i.name] == place), None)
    return next((interface.gateway for interface in interfaces if interface.gateway is not None), None)


def _with_gateway(interfaces: list[ResolvedInterface], gateway: Address | None) -> tuple[ResolvedInterface, ...]:
    """Give the default gateway to the first interface that reaches it, and to no other."""
    nearest = next((i for i in interfaces if gateway and any(gateway in a.network for a in i.addresses)), None)
    return tuple(replace(i, gateway=gateway if i is nearest else None) for i in interfaces)


def _nic(
    draft: Draft, guest: str, model: Guest, nic: Nic, index: int, path: Path, word: Path | None
) -> ResolvedInterface | None:
    """Resolve one NIC; *word* is its place if it was given by its network's name alone."""
    name = nic.name or f"eth{index}"
    vlans, network = _nic_vlans(draft, nic, path, word or (*path, "network"))
    cable = draft.reader.impairment(nic, path)
    mtu = draft.reader.whole(nic.mtu, (*path, "mtu"), SMALLEST_MTU, LARGEST_MTU, MTU)
    switch = draft.wiring.find((nic.switch, (*path, "switch")), (model.switch, ("guests", guest, "switch")))
    addresses = _addresses(draft, nic.address or [], network, guest, name, (*path, "address"), router=False)
    gateway: Address | None = None
    if nic.gateway is not None and nic.gateway != "none":
        gateway = draft.reader.address(nic.gateway, (*path, "gateway"))
    elif nic.gateway is None and addresses and network is not None:
        routers = draft.routers_on(network, min(address.version for address in addresses))
        gateway = next(iter(routers.values())) if len(routers) == 1 else None
        if any(gateway == own.ip for own in addresses):
            gateway = None  # the address is wrong, and that is said elsewhere
    if vlans is None:
        return None
    return ResolvedInterface(
        name=name,
        network=network if nic.trunk is None else None,
        mac=_mac(draft, nic.mac, guest, name),
        addresses=addresses,
        gateway=gateway,
        dhcp=_dhcp(draft, model, nic, network, path),
        mtu=mtu,
        cable=cable,
        port=draft.wiring.plug(switch, "guest", guest, name, vlans),
        model=nic.model,
        ipv6=nic.ipv6,
    )


def _nic_vlans(draft: Draft, nic: Nic, path: Path, place: Path) -> tuple[PortVlans | None, str | None]:
    """Return the VLANs of a NIC's port, and the network on which its untagged frames are."""
    if nic.trunk is None:
        if nic.native is not None:
            text = "native goes with trunk; a NIC on a network has no native VLAN"
            draft.problems.error("bad-nic", (*path, "native"), text, key=True)
        if nic.network is None and draft.problems.lost((*path, "network")):
            return None, None
        if nic.network is None:
            draft.problems.error("bad-nic", path, "a NIC needs a network, or trunk: with its VLANs")
            return None, None
        network = draft.network(nic.network, place)
        return (None, None) if network is None else (access(draft.vids[network]), network)
    if nic.network is not None:
        text = "a NIC is on one network or on a trunk; for the untagged VLAN of a trunk, write native:"
        draft.problems.error("bad-nic", (*path, "network"), text, key=True)
    native = draft.wiring.vid(nic.native, (*path, "native"))
    members = draft.wiring.vlan_set(nic.trunk, (*path, "trunk"))
    network = next((name for name, vid in draft.vids.items() if vid == native), None)
    return trunk(members, native), network


def _texts(address: str | list[str] | None) -> list[str]:
    return [address] if isinstance(address, str) else [text for _, text in numbered(address or [])]


def _dhcp(draft: Draft, guest: Guest, nic: Nic, network: str | None, path: Path) -> Literal["client", "vnet"] | None:
    static = next((text for text in _texts(nic.address) if ":" not in text), None)
    if nic.dhcp and static is not None:
        text = "the NIC has a static address already; remove address or dhcp"
        if network is not None:
            place = format_path(("networks", network, "dhcp", "reservations"))
            text += f"; for a reservation write {place}: {{{path[1]}: {static.partition('/')[0].strip()}}}"
        draft.problems.error("bad-nic", (*path, "dhcp"), text, key=True)
        return None
    if nic.dhcp and network is None:
        if nic.trunk is not None:
            text = "DHCP runs on a trunk's native VLAN; give native: the VLAN of a network"
            draft.problems.error("bad-nic", (*path, "dhcp"), text, key=True)
        return None
    if nic.dhcp and network is not None and not draft.has_dhcp(network) and not draft.leads_outside(network):
        text = f"network {network!r} has no DHCP server (unless a guest is one); add dhcp: {{}} to it"
        draft.problems.warning("no-dhcp-server", (*path, "dhcp"), text, key=True)
    if guest.kind == "namespace":
        return "vnet" if nic.dhcp == "vnet" else None
    if nic.dhcp is None:
        wanted = not nic.address and nic.trunk is None and network is not None and draft.has_dhcp(network)
        return "client" if wanted else None
    return "client" if nic.dhcp else None
