"""A network's way out as the topology sees it when it changes: a switch port for it, and in a simulation the machine.

Where there is no machine around the lab, an emulated guest ``host`` has the far end of loopback adapters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from vnet.topology.adapter_kinds.loopback import LoopbackSpec
from vnet.topology.resolved import (
    Impairment,
    PortRef,
    ResolvedGuest,
    ResolvedInterface,
    ResolvedNetwork,
    ResolvedSwitchPort,
    ResolvedTopology,
)

HOST: Final = "host"
"""The guest's name; no other node may be called so."""


def with_adapter_port(topology: ResolvedTopology, network: ResolvedNetwork) -> tuple[ResolvedTopology, PortRef]:
    """Add a switch port for the adapter of a network that had none."""
    name = network.dhcp.port.switch if network.dhcp is not None else next(iter(topology.switches))
    switch = topology.switches[name]
    port = ResolvedSwitchPort(
        number=len(switch.ports) + 1, name=f"{network.name}:adapter", pvid=network.vid, members=(network.vid,),
        untagged=(network.vid,), admit="untagged", peer="adapter", node=network.name, interface="adapter",
    )  # fmt: skip
    changed = replace(switch, ports=(*switch.ports, port))
    return replace(topology, switches={**topology.switches, name: changed}), PortRef(name, port.number)


def with_host(topology: ResolvedTopology) -> ResolvedTopology:
    """Put an emulated guest ``host`` at the far end of every loopback adapter that is plugged in."""
    for network in topology.networks.values():
        if isinstance(network.adapter, LoopbackSpec) and network.adapter_port is not None:
            topology = _plugged(topology, network, network.adapter)
    return topology


def _plugged(topology: ResolvedTopology, network: ResolvedNetwork, spec: LoopbackSpec) -> ResolvedTopology:
    ref = network.adapter_port
    assert ref is not None, "the caller has looked"
    nic = ResolvedInterface(
        name=spec.name, network=network.name, mac=spec.mac, addresses=spec.addresses, gateway=None, dhcp=None, mtu=1500,
        cable=Impairment(), port=ref,
    )  # fmt: skip
    known = topology.guests.get(HOST) or ResolvedGuest(
        name=HOST, kind="emulated", interfaces=(), gateway=None, routes=(), dns=(), search=(), namespace=None
    )
    host = replace(known, interfaces=(*known.interfaces, nic))
    switch = topology.switches[ref.switch]
    port = replace(
        topology.switch_port(ref), name=f"{HOST}:{spec.name}", peer="guest", node=HOST, interface=spec.name
    )  # fmt: skip
    ports = tuple(port if each.number == ref.number else each for each in switch.ports)
    return replace(
        topology,
        guests={**topology.guests, HOST: host},
        networks={**topology.networks, network.name: replace(network, adapter_port=None)},
        switches={**topology.switches, ref.switch: replace(switch, ports=ports)},
    )
