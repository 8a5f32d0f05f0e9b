"""Turn a topology as typed into a topology spelled out: addresses, VLANs, MAC addresses, ports, gateways, servers.

The stages run in the order in which they need each other: VLANs and subnets; links; routers' interfaces; guests (which find
their gateways among the routers); DHCP servers (which keep clear of everybody's addresses); NAT and firewalls (which may
name guests). Nothing stops at a mistake: it is noted, the value is left out, and the next stage does what it can, so that
one run reports everything. ``validate`` then looks at the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vnet.errors import TopologyError
from vnet.topology.addressing import MacAllotter
from vnet.topology.dns import resolve_search, resolve_servers
from vnet.topology.draft import Draft
from vnet.topology.machines import resolve_machine
from vnet.topology.model import Guest, Route, Router, RouterInterface, Topology
from vnet.topology.model import Network as NetworkModel
from vnet.topology.names import check_names
from vnet.topology.nics import MTU, SMALLEST_MTU, default_gateway, mac_of, resolve_nics, static_addresses, with_gateway
from vnet.topology.policies import resolve_firewall, resolve_nat
from vnet.topology.problems import Path, Problems
from vnet.topology.profiles import PROFILES
from vnet.topology.programs import resolve_programs
from vnet.topology.reading import Reader
from vnet.topology.resolve_adapter import resolve_adapter
from vnet.topology.resolved import (
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
from vnet.topology.wiring import LARGEST_MTU, Wiring, access


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


def _router_interfaces(draft: Draft, name: str, model: Router) -> tuple[ResolvedInterface, ...]:
    interfaces: list[ResolvedInterface] = []
    for typed, given in model.interfaces.items():
        path: Path = ("routers", name, "interfaces", typed)
        network = draft.network(typed, path, key=True)
        full = given if isinstance(given, RouterInterface) else RouterInterface(address=given)
        address_path = (*path, "address") if isinstance(given, RouterInterface) else path
        addresses = static_addresses(draft, full.address, network, name, network or typed, address_path, router=True)
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
            mac=mac_of(draft, full.mac, name, network),
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
    interfaces = resolve_nics(draft, name, model)
    gateway = default_gateway(draft, name, model, interfaces)
    return ResolvedGuest(
        name=name,
        kind=model.kind,
        interfaces=with_gateway(interfaces, gateway),
        gateway=gateway,
        routes=_routes(draft, model.routes, path),
        dns=resolve_servers(draft, model, path),
        search=resolve_search(draft, model, path),
        namespace=(model.namespace or f"{draft.model.name}-{name}") if model.kind == "namespace" else None,
        pid=_pid(draft, model, path),
        run=resolve_programs(draft, name, model),
        machine=resolve_machine(draft, name, model),
    )


def _pid(draft: Draft, model: Guest, path: Path) -> int | None:
    """Read which process a guest of kind attach is."""
    if model.kind != "attach":
        if model.pid is not None and not draft.problems.blamed((*path, "kind")):
            draft.problems.error("bad-attach", (*path, "pid"), "pid goes with kind: attach", key=True)
        return None
    if model.pid is None:
        if not draft.problems.blamed((*path, "pid")):
            draft.problems.error("bad-attach", path, "a guest of kind attach needs pid: the number of a running process")
        return None
    pid = draft.reader.whole(model.pid, (*path, "pid"), 1, (1 << 22), 1)
    others = draft.model.guests.items()
    twin = next((name for name, each in others if each is not None and each.kind == "attach" and each.pid == pid), path[-1])
    if twin != path[-1]:
        text = f"process {pid} is guest {twin!r} already, and a process has one namespace; give that guest both NICs"
        draft.problems.error("bad-attach", (*path, "pid"), text)
    return pid
