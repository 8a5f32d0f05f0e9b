"""Short texts about parts of a topology, for drawings and tables."""

from __future__ import annotations

from collections.abc import Iterator

from vnet.topology.resolved import (
    ALL_VLANS,
    Impairment,
    ResolvedInterface,
    ResolvedNetwork,
    ResolvedRouter,
    ResolvedSwitchPort,
    ResolvedTopology,
)
from vnet.units import format_duration, format_rate


def network_text(network: ResolvedNetwork) -> str:
    """Describe a network: its VLAN, subnet, DHCP range and way out."""
    parts = [f"VLAN {network.vid}"]
    if network.subnet is not None:
        parts.append(str(network.subnet))
    if network.dhcp is not None:
        parts.append(f"DHCP {network.dhcp.range_start}-{network.dhcp.range_end}")
    if network.open_end:
        parts.append(f"adapter {network.adapter.describe()}")
    return ", ".join(parts)


def address_text(resolved: ResolvedTopology, interface: ResolvedInterface) -> str:
    """Describe how an interface gets its addresses: the addresses, a reservation, DHCP, or none."""
    if interface.addresses:
        return ", ".join(str(address.ip) for address in interface.addresses)
    network = resolved.networks.get(interface.network or "")
    if network is None or network.dhcp is None:
        return "DHCP" if interface.dhcp else "no address"
    reserved = network.dhcp.reservations.get(interface.mac)
    if reserved is not None:
        return f"{reserved} (DHCP)"
    return "DHCP" if interface.dhcp else "own DHCP client"


def network_of(resolved: ResolvedTopology, interface: ResolvedInterface) -> str | None:
    """Return the network of an interface's untagged frames: its own, or that of a trunk's native VLAN."""
    if interface.network is not None or interface.vid is not None:
        return interface.network
    pvid = resolved.switch_port(interface.port).pvid
    return next((network.name for network in resolved.networks.values() if network.vid == pvid), None)


def guest_networks(resolved: ResolvedTopology, interface: ResolvedInterface) -> list[str]:
    """List the networks whose frames reach an interface; several on a trunk, but for those with a sub-interface."""
    if interface.network is not None or interface.vid is not None:
        return [interface.network] if interface.network is not None else []
    port = resolved.switch_port(interface.port)
    guest = resolved.guests.get(port.node)
    subs = {each.vid for each in guest.interfaces if each.parent == interface.name} if guest is not None else set()
    return [net.name for net in resolved.networks.values() if net.vid in port.members and net.vid not in subs]


def vlans_text(resolved: ResolvedTopology, port: ResolvedSwitchPort) -> str:
    """Describe the VLANs of a link or trunk: by network name where there is one."""
    names = {network.vid: network.name for network in resolved.networks.values()}
    if len(port.members) == len(ALL_VLANS):
        text = "all VLANs"
    else:
        shown = [names.get(vid, str(vid)) for vid in port.members[:8]]
        text = ", ".join(shown) + (", ..." if len(port.members) > len(shown) else "")
    if port.admit == "untagged":
        return f"{text}, untagged"
    if port.pvid is not None:
        text += f", native {names.get(port.pvid, str(port.pvid))}"
    return f"trunk: {text}"


def cable_text(cable: Impairment) -> str:
    """Describe what a cable does to frames; empty for an ideal one."""
    parts: list[str] = []
    if cable.rate is not None:
        parts.append(format_rate(cable.rate))
    if cable.latency:
        parts.append(format_duration(cable.latency))
    if cable.delay_variation:
        parts.append(f"up to {format_duration(cable.delay_variation)} more")
    ratios = {
        "loss": cable.loss, "reordering": cable.reordering, "duplication": cable.duplication, "corruption": cable.corruption,
    }  # fmt: skip
    parts += [f"{ratio * 100:g}% {name}" for name, ratio in ratios.items() if ratio]
    return ", ".join(parts)


def policy_text(router: ResolvedRouter) -> str:
    """Describe what a router does besides forwarding."""
    parts: list[str] = []
    if router.nat is not None:
        parts.append(f"NAT to {router.nat.outside}")
    if router.firewall is not None:
        rules = len(router.firewall.allow)
        parts.append(f"firewall: {router.firewall.policy}, {rules} rule{'s' if rules != 1 else ''}")
    return ", ".join(parts)


def without_cable(resolved: ResolvedTopology) -> Iterator[tuple[str, str]]:
    """Say of bonds and sub-interfaces, by ``node:interface``, which ports show their frames."""
    for guest in resolved.guests.values():
        cables = {each.name: [f"{guest.name}:{cable.name}" for cable in each.cables] for each in guest.interfaces}
        for each in guest.interfaces:
            if each.parent is not None:
                text = (
                    f"it is a VLAN sub-interface: capture {' '.join(cables[each.parent])} with the filter 'vlan {each.vid}'"
                )
                yield f"{guest.name}:{each.name}", text
            elif each.bond is not None:
                yield f"{guest.name}:{each.name}", f"it is a bond: capture {' '.join(cables[each.name])}"
