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
    ResolvedSwitch,
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
            topology = with_nic(topology, network, network.adapter, network.adapter_port)
    return topology


def nic_on(topology: ResolvedTopology, network: ResolvedNetwork) -> ResolvedInterface | None:
    """Find the interface that ``host`` has on a network, or had: it has one at most."""
    nics = topology.guests[HOST].interfaces if HOST in topology.guests else ()
    return next((nic for nic in nics if nic.network == network.name), None)


def without_addresses(topology: ResolvedTopology, network: ResolvedNetwork) -> ResolvedTopology:
    """Take the addresses of ``host`` on a network away, so that it has none there when it starts again."""
    host = topology.guests[HOST]
    nics = tuple(replace(nic, addresses=()) if nic.network == network.name else nic for nic in host.interfaces)
    return replace(topology, guests={**topology.guests, HOST: replace(host, interfaces=nics)})


def without_nic(topology: ResolvedTopology, nic: ResolvedInterface) -> ResolvedTopology:
    """Take an interface of ``host`` away; its switch port stays, for the next one on the network."""
    host, switch = topology.guests[HOST], topology.switches[nic.port.switch]
    assert nic.network is not None, "it is on the network of a loopback adapter"
    port = replace(
        topology.switch_port(nic.port), name=f"{nic.network}:{HOST}", peer="adapter", node=nic.network, interface=HOST
    )
    return replace(
        topology,
        guests={**topology.guests, HOST: replace(host, interfaces=tuple(each for each in host.interfaces if each != nic))},
        switches={**topology.switches, nic.port.switch: _with_port(switch, port)},
    )


def _with_port(switch: ResolvedSwitch, port: ResolvedSwitchPort) -> ResolvedSwitch:
    return replace(switch, ports=tuple(port if each.number == port.number else each for each in switch.ports))


def with_nic(topology: ResolvedTopology, network: ResolvedNetwork, spec: LoopbackSpec, ref: PortRef) -> ResolvedTopology:
    """Plug ``host`` into a switch port, in the place of the interface that it had on the network."""
    nic = ResolvedInterface(
        name=spec.name, network=network.name, mac=spec.mac, addresses=spec.addresses, gateway=None, dhcp=None, mtu=1500,
        cable=Impairment(), port=ref,
    )  # fmt: skip
    known = topology.guests.get(HOST) or ResolvedGuest(
        name=HOST, kind="emulated", interfaces=(), gateway=None, routes=(), dns=(), search=(), namespace=None
    )
    nics = {each.network: each for each in known.interfaces} | {network.name: nic}
    host = replace(known, interfaces=tuple(nics.values()))
    switch = topology.switches[ref.switch]
    port = replace(
        topology.switch_port(ref), name=f"{HOST}:{spec.name}", peer="guest", node=HOST, interface=spec.name
    )  # fmt: skip
    return replace(
        topology,
        guests={**topology.guests, HOST: host},
        networks={**topology.networks, network.name: replace(network, adapter=spec, adapter_port=None)},
        switches={**topology.switches, ref.switch: _with_port(switch, port)},
    )
