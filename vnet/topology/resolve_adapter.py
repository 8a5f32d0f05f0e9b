"""Resolve the way out of a network: as a topology is loaded, and again when a lab that runs is given another one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Final, Literal, TypeVar

from vnet.addresses import Mac
from vnet.errors import TopologyError, UsageError
from vnet.topology.adapter_kinds.choice import Adapter, AdapterChoice, AdapterWord, read_adapter
from vnet.topology.adapter_kinds.claims import taken
from vnet.topology.adapter_kinds.spec import AdapterSpec, NoAdapter
from vnet.topology.adapter_kinds.surroundings import Surroundings
from vnet.topology.adapter_kinds.user import Forward, UserForward, UserSpec, resolve_forward, resolve_place
from vnet.topology.addressing import first_free
from vnet.topology.describe import network_of
from vnet.topology.draft import Draft
from vnet.topology.host import HOST
from vnet.topology.problems import Path, Problems
from vnet.topology.profiles import PROFILES
from vnet.topology.resolved import Address, Network, PortRef, ResolvedDhcp, ResolvedNetwork, ResolvedTopology
from vnet.topology.shape import shape_adapter
from vnet.topology.wiring import access
from vnet.topology.yaml_reader import read_yaml

A = TypeVar("A", IPv4Address, IPv6Address)
_Found = TypeVar("_Found")

ADAPTER: Final = "adapter"
"""The name of an adapter's end of its cable, as in ``office:adapter``."""


def resolve_adapter(draft: Draft, network: str) -> tuple[AdapterSpec, PortRef | None]:
    """Read the adapter that the file gives a network, and plug it in."""
    model = draft.model.networks[network]
    choice: AdapterWord | Adapter = "none" if model is None else model.adapter
    scope = draft.dhcp.get(network)
    statics = [(s.node, s.interface, s.address.ip) for s in draft.statics_on(network)]
    here = ((node, nic.mac) for (node, _), nic in draft.interfaces.items() if nic.network == network)
    guests = [guest for guest in draft.model.guests.values() if guest is not None]
    wanted = [nic.gateway for guest in guests for nic in guest.nics if not isinstance(nic, str)]
    wanted += [node.gateway for node in guests] + [router.default_gateway for router in draft.model.routers.values()]
    around = _surroundings(
        network, draft.subnets.get(network), scope, draft.problems, lambda name: draft.macs.derive(network, name),
        statics, here, wanted,
    )  # fmt: skip
    spec = read_adapter(choice, around, ("networks", network, "adapter"))
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
    has_ipv6 = isinstance(network.adapter, UserSpec) and network.adapter.address6 is not None
    own = network.adapter.own if isinstance(network.adapter, UserSpec) else ()
    resolve = partial(resolve_forward, model, has_ipv6=has_ipv6, own=own)
    return _resolved(topology, network, resolve)


def read_place(
    topology: ResolvedTopology, network: ResolvedNetwork, protocol: Literal["tcp", "udp"], listen: str
) -> tuple[str, str, int]:
    """Resolve where a way in listens, as ``Forward.place`` has it; raise UsageError for what is no such place."""
    return _resolved(topology, network, partial(resolve_place, protocol, listen))


def _resolved(
    topology: ResolvedTopology, network: ResolvedNetwork, resolve: Callable[[Surroundings, Path], _Found | None]
) -> _Found:
    problems = Problems()
    found = resolve(_around(topology, network, problems), ("forward",))
    if found is None:
        raise UsageError(f"network {network.name}: " + "; ".join(problem.text for problem in problems.all()))
    return found


def _around(topology: ResolvedTopology, network: ResolvedNetwork, problems: Problems) -> Surroundings:
    scope = network.dhcp
    everybody = ((node, nic) for node, nic in topology.endpoints() if node != HOST)  # its address there is what is chosen
    on_network = [(node, nic) for node, nic in everybody if network_of(topology, nic) == network.name]
    statics = [(node, nic.name, address.ip) for node, nic in on_network for address in nic.addresses]
    routers = (router.default_gateway for router in topology.routers.values())
    wanted = [str(gateway) for gateway in (*(nic.gateway for _, nic in on_network), *routers) if gateway is not None]
    return _surroundings(
        network.name, network.subnet, scope, problems, derived_mac(topology, network.name),
        statics, ((node, nic.mac) for node, nic in on_network), wanted,
    )  # fmt: skip


def _surroundings(
    network: str,
    subnet: Network | None,
    scope: ResolvedDhcp | None,
    problems: Problems,
    mac: Callable[[str], Mac],
    statics: Sequence[tuple[str, str, Address]],
    nics: Iterable[tuple[str, Mac]],
    wanted: Iterable[str | None],
) -> Surroundings:
    """Work out what reading an adapter needs to know, from who is on the network.

    *statics* are node, interface and address, *nics* node and MAC address, *wanted* the gateways that nodes go by.
    """
    holders = _holders(statics, scope)
    leased = None if scope is None else (scope.range_start, scope.range_end)
    told = None if scope is None else scope.gateway
    reserved = {} if scope is None else scope.reservations
    return Surroundings(
        network=network,
        subnet=subnet,
        problems=problems,
        free_address=_free(subnet, holders, leased),
        gateway=_gateway(subnet, wanted, told, holders),
        mac=mac,
        addresses6=_first_of_each(statics, IPv6Address),
        addresses=_first_of_each(statics, IPv4Address) | {node: reserved[each] for node, each in nics if each in reserved},
        holders=holders,
        leased=leased,
        reserved=reserved,
        told=told,
    )


def derived_mac(topology: ResolvedTopology, network: str) -> Callable[[str], Mac]:
    """Derive as ``MacAllotter`` does, so that an adapter has the same address whenever it comes."""
    oui = PROFILES[topology.profile].oui
    return lambda name: oui + hashlib.sha256(f"{topology.name}/{network}/{name}".encode()).digest()[:3]


def adapters_apart(draft: Draft, resolved: ResolvedTopology) -> None:
    """No two ways out want the same interface of the machine, or record into one file."""
    before: list[ResolvedNetwork] = []
    for network in resolved.networks.values():
        text = taken(network.adapter, before)
        if text:
            draft.problems.error("bad-adapter", ("networks", network.name, "adapter"), text)
        before.append(network)


def _holders(statics: Iterable[tuple[str, str, Address]], scope: ResolvedDhcp | None) -> dict[Address, str]:
    """Say who has each address for sure: those on the network by node and interface, and the DHCP server."""
    holders: dict[Address, str] = {}
    for node, interface, address in statics:
        holders.setdefault(address, f"{node}:{interface}")
    if scope is not None:
        holders.setdefault(scope.server, "the DHCP server")
        for address in scope.reservations.values():
            holders.setdefault(address, "a client of the DHCP server")
    return holders


def _first_of_each(statics: Iterable[tuple[str, str, Address]], kind: type[A]) -> dict[str, A]:
    first: dict[str, A] = {}
    for node, _, address in statics:
        if isinstance(address, kind):
            first.setdefault(node, address)
    return first


def _free(
    subnet: object, holders: Iterable[Address], reach: tuple[IPv4Address, IPv4Address] | None
) -> Callable[[], IPv4Address | None]:
    held = {address for address in holders if isinstance(address, IPv4Address)}
    return lambda: first_free(subnet, held, reach) if isinstance(subnet, IPv4Network) else None


def _gateway(
    subnet: object, wanted: Iterable[str | None], told: IPv4Address | None, taken: Mapping[Address, str]
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
