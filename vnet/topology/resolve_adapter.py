"""Resolve the way out of a network: as a topology is loaded, and again when a lab that runs is given another one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from vnet.addresses import Mac
from vnet.errors import TopologyError, UsageError
from vnet.topology.adapter_kinds.choice import Adapter, AdapterChoice, AdapterWord, read_adapter
from vnet.topology.adapter_kinds.spec import AdapterSpec, NoAdapter
from vnet.topology.adapter_kinds.surroundings import Surroundings
from vnet.topology.adapter_kinds.user import Forward, UserForward, resolve_forward
from vnet.topology.addressing import first_free
from vnet.topology.draft import Draft
from vnet.topology.problems import Problems
from vnet.topology.profiles import PROFILES
from vnet.topology.resolved import PortRef, ResolvedDhcp, ResolvedNetwork, ResolvedTopology
from vnet.topology.shape import shape_adapter
from vnet.topology.wiring import access
from vnet.topology.yaml_reader import read_yaml

ADAPTER: Final = "adapter"
"""The name of an adapter's end of its cable, as in ``office:adapter``."""


def resolve_adapter(draft: Draft, network: str) -> tuple[AdapterSpec, PortRef | None]:
    """Read the adapter that the file gives a network, and plug it in."""
    model = draft.model.networks[network]
    choice: AdapterWord | Adapter = "none" if model is None else model.adapter
    scope = draft.dhcp.get(network)
    statics = {s.node: s.address.ip for s in draft.statics_on(network) if isinstance(s.address.ip, IPv4Address)}
    taken = [*statics.values(), *(scope.reservations.values() if scope else ()), *([scope.server] if scope else ())]
    here = ((node, nic.mac) for (node, _), nic in draft.interfaces.items() if nic.network == network)
    guests = [guest for guest in draft.model.guests.values() if guest is not None]
    wanted = [nic.gateway for guest in guests for nic in guest.nics if not isinstance(nic, str)]
    wanted += [node.gateway for node in guests] + [router.default_gateway for router in draft.model.routers.values()]
    spec = read_adapter(
        choice,
        Surroundings(
            network=network,
            subnet=draft.subnets.get(network),
            problems=draft.problems,
            free_address=_free(draft.subnets.get(network), taken, (scope.range_start, scope.range_end) if scope else None),
            gateway=_gateway(draft.subnets.get(network), wanted, scope.gateway if scope else None, taken),
            mac=lambda name: draft.macs.derive(network, name),
            addresses=statics | _reserved(here, scope),
            has_dhcp=scope is not None,
        ),
        ("networks", network, "adapter"),
    )
    if isinstance(spec, NoAdapter):
        return spec, None
    place = ("networks", network, "switch")
    switch = draft.wiring.find((model.switch if model else None, place))
    return spec, draft.wiring.plug(switch, "adapter", network, ADAPTER, access(draft.vids[network]))


def read_choice(topology: ResolvedTopology, network: ResolvedNetwork, choice: AdapterChoice | str) -> AdapterSpec:
    """Resolve an adapter for a network of a lab that runs: a word, text as in a topology file, or a struct.

    Raise UsageError for what cannot be.
    """
    problems = Problems()
    data: object = choice
    if isinstance(choice, str):
        root = read_yaml(choice, problems)
        data = None if root is None else root.data
    shaped = shape_adapter(data, problems)
    spec = None if shaped is None else read_adapter(shaped, _around(topology, network, problems), ("adapter",))
    errors = [problem for problem in problems.all() if problem.severity == "error"]
    if errors or spec is None:
        raise UsageError(f"network {network.name}: " + "; ".join(problem.text for problem in errors)) from TopologyError(
            tuple(errors)
        )
    return spec


def read_forward(topology: ResolvedTopology, network: ResolvedNetwork, model: UserForward) -> Forward:
    """Resolve a way in by the user adapter of a network; raise UsageError for what cannot be."""
    problems = Problems()
    forward = resolve_forward(model, _around(topology, network, problems), ("forward",))
    if forward is None:
        raise UsageError(f"network {network.name}: " + "; ".join(problem.text for problem in problems.all()))
    return forward


def _around(topology: ResolvedTopology, network: ResolvedNetwork, problems: Problems) -> Surroundings:
    scope = network.dhcp
    on_network = [(node, nic) for node, nic in topology.endpoints() if nic.network == network.name]
    statics = {node: a.ip for node, nic in on_network for a in nic.addresses if isinstance(a.ip, IPv4Address)}
    taken = [*statics.values(), *(scope.reservations.values() if scope else ()), *([scope.server] if scope else ())]
    routers = (router.default_gateway for router in topology.routers.values())
    wanted = [str(gateway) for gateway in (*(nic.gateway for _, nic in on_network), *routers) if gateway is not None]
    return Surroundings(
        network=network.name,
        subnet=network.subnet,
        problems=problems,
        free_address=_free(network.subnet, taken, (scope.range_start, scope.range_end) if scope else None),
        gateway=_gateway(network.subnet, wanted, scope.gateway if scope else None, taken),
        mac=derived_mac(topology, network.name),
        addresses=statics | _reserved(((node, nic.mac) for node, nic in on_network), scope),
        has_dhcp=scope is not None,
    )


def _reserved(nics: Iterable[tuple[str, Mac]], scope: ResolvedDhcp | None) -> dict[str, IPv4Address]:
    """Find the addresses that nodes have by a reservation, from their names and MAC addresses."""
    reservations = scope.reservations if scope is not None else {}
    return {node: reservations[mac] for node, mac in nics if mac in reservations}


def derived_mac(topology: ResolvedTopology, network: str) -> Callable[[str], Mac]:
    """Derive as ``MacAllotter`` does, so that an adapter has the same address whenever it comes."""
    oui = PROFILES[topology.profile].oui
    return lambda name: oui + hashlib.sha256(f"{topology.name}/{network}/{name}".encode()).digest()[:3]


def _free(
    subnet: object, taken: Iterable[IPv4Address], reach: tuple[IPv4Address, IPv4Address] | None
) -> Callable[[], IPv4Address | None]:
    return lambda: first_free(subnet, set(taken), reach) if isinstance(subnet, IPv4Network) else None


def _gateway(
    subnet: object, wanted: Iterable[str | None], told: IPv4Address | None, taken: Iterable[IPv4Address]
) -> IPv4Address | None:
    """Find the address that nodes of the network take for a way out although nobody has it."""
    if not isinstance(subnet, IPv4Network):
        return None
    for text in (str(told) if told else None, *wanted):
        try:
            address = IPv4Address(text or "")
        except ValueError:
            continue
        if address in subnet and address not in taken:
            return address
    return None
