"""What a running lab shows of itself: rows of plain data, made from the fabric's objects, fit for JSON.

Each view is a function from a lab to a list of rows. Keys say their unit: ``_s`` is seconds, ``_bps`` bit/s; addresses are
text. The command line turns rows into tables, ``--json`` prints them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from vnet.addresses import format_mac
from vnet.errors import UsageError
from vnet.guests.base import Address
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.namespace import NamespaceGuest
from vnet.runtime.machines import as_machine
from vnet.services.dhcp.binding import Binding, BindingState
from vnet.switch.vlan import VlanConfig
from vnet.topology.describe import network_of
from vnet.units import SECOND, Instant

if TYPE_CHECKING:
    from vnet.guests.base import Guest
    from vnet.runtime.lab import Lab
    from vnet.topology.resolved import ResolvedInterface

Row: TypeAlias = dict[str, object]
View: TypeAlias = "Callable[[Lab], list[Row]]"


def owners(lab: Lab) -> dict[bytes, str]:
    """Map every MAC address of the topology to ``node:interface``."""
    known = {interface.mac: f"{node}:{interface.name}" for node, interface, _ in lab.topology.cables()}
    known.update({plug.mac: plug.port.name for plug in lab.plugs.values()})
    known.update({net.dhcp.mac: f"{net.name}:dhcp" for net in lab.topology.networks.values() if net.dhcp is not None})
    return known


def leased(lab: Lab) -> dict[bytes, list[Binding]]:
    """Map MAC addresses to the leases that hold for them now, in any network."""
    found: dict[bytes, list[Binding]] = {}
    for node in lab.dhcp.values():
        for binding in node.bindings():
            if binding.state is BindingState.BOUND:
                found.setdefault(binding.mac, []).append(binding)
    return found


def leases_on(lab: Lab, leases_by_mac: Mapping[bytes, list[Binding]], guest: str, nic: ResolvedInterface) -> list[Binding]:
    """Choose an interface's leases of all (``leased``): where sub-interfaces share its MAC address, those of its network."""
    found = leases_by_mac.get(nic.mac, [])
    subs = [each for each in lab.topology.guests[guest].interfaces if each.parent is not None]
    if not any(nic.name in (each.name, each.parent) for each in subs):
        return found
    network = lab.topology.networks.get(network_of(lab.topology, nic) or "")
    subnet = network.subnet if network is not None else None
    return [each for each in found if subnet is not None and IPv4Address(each.address) in subnet]


def lease_of(lab: Lab, mac: bytes) -> IPv4Address | None:
    """Tell the address that a DHCP server of the lab has leased to a MAC address; the first, if several have."""
    leases = leased(lab).get(mac)
    return IPv4Address(leases[0].address) if leases else None


def address_of(lab: Lab, name: str) -> Address | None:
    """Tell a guest's first address; that of a guest whose own DHCP client asks is known from the server."""
    address = lab.guests[name].address
    if address is None:
        leases_by_mac = leased(lab)
        for interface in lab.topology.guests[name].interfaces:
            leases = leases_on(lab, leases_by_mac, name, interface) if interface.dhcp is None else []
            if leases:
                return IPv4Address(leases[0].address)
    return address


def dotted(address: bytes) -> str:
    """Write a packed IPv4 address."""
    return ".".join(map(str, address))


def networks(lab: Lab) -> list[Row]:
    """List the virtual networks, what is plugged in, and how full their pools are."""
    members: dict[str, list[str]] = {name: [] for name in lab.topology.networks}
    for node, interface in lab.topology.endpoints():
        if interface.network in members:
            members[interface.network].append(f"{node}:{interface.name}")
    rows: list[Row] = []
    for network in lab.topology.networks.values():
        dhcp: Row | None = None
        if network.dhcp is not None and network.name in lab.dhcp:
            server = lab.dhcp[network.name]
            bound = sum(binding.state is BindingState.BOUND for binding in server.bindings())
            dhcp = {
                "server": str(network.dhcp.server),
                "range": f"{network.dhcp.range_start}-{network.dhcp.range_end}",
                "pool": server.server.pool_size,
                "leases": bound,
                "lease_s": network.dhcp.lease // SECOND,
                "counters": dict(server.counters),
            }
        rows.append({
            "name": network.name,
            "vlan": network.vid,
            "subnet": str(network.subnet) if network.subnet is not None else None,
            "adapter": network.adapter.describe(),
            "state": lab.networks[network.name].state,
            "details": lab.networks[network.name].details,
            "dhcp": dhcp,
            "members": members[network.name],
            "notes": network.notes,
        })  # fmt: skip
    return rows


def ports(lab: Lab) -> list[Row]:
    """List the switch ports: state, VLANs, what is plugged in, counters."""
    rows: list[Row] = []
    for switch in lab.switches.values():
        switch.fold()
        for port in switch.ports.values():
            plug = lab.plugs.at(switch.name, port.number)
            rows.append({
                "switch": switch.name,
                "port": port.number,
                "name": port.port.name,
                "peer": port.name,
                "state": "up" if port.is_up else "down" if port.enabled else "disabled",
                **_vlans(port.vlan),
                "rx_frames": port.rx_frames,
                "rx_octets": port.rx_octets,
                "tx_frames": port.tx_frames,
                "tx_octets": port.tx_octets,
                "drops": dict(port.drops),
                "plug": None if plug is None else plug.describe(),
            })  # fmt: skip
    return rows


def _vlans(vlan: VlanConfig) -> Row:
    tagged = None if vlan.members is None else sorted(vlan.members - vlan.untagged)
    is_access = vlan.members is not None and not tagged and vlan.pvid is not None
    return {
        "mode": "access" if is_access else "trunk",
        "pvid": vlan.pvid,
        "untagged": sorted(vlan.untagged),
        "tagged": "all" if tagged is None else tagged,
    }


def links(lab: Lab) -> list[Row]:
    """List the cables with their model and what they dropped in either direction."""
    return [
        {
            "name": name,
            "between": [link.a.name, link.b.name],
            "state": "up" if link.up else "down",
            "rate_bps": link.rate,
            "latency_s": link.latency / SECOND,
            "delay_variation_s": link.delay_variation / SECOND,
            "loss": link.loss,
            "reordering": link.reordering,
            "duplication": link.duplication,
            "corruption": link.corruption,
            "drops": [
                {reason: count for reason, count in direction.drops.items() if count}
                for direction in (link.forward, link.backward)
            ],
            "altered": [
                {what: count for what, count in direction.altered.items() if count}
                for direction in (link.forward, link.backward)
            ],
        }
        for name, link in lab.links.items()
    ]


def fdb(lab: Lab) -> list[Row]:
    """List the filtering databases: who is behind which port."""
    known, now = owners(lab), lab.timeline.now
    rows: list[Row] = []
    for switch in lab.switches.values():
        switch.fold()  # a flow that is in use keeps its entry young
        for entry in switch.fdb:
            port = switch.ports.get(entry.port)
            rows.append({
                "switch": switch.name,
                "vlan": entry.vid,
                "mac": format_mac(entry.mac),
                "port": entry.port,
                "peer": port.name if port is not None else None,
                "owner": known.get(entry.mac),
                "type": "static" if entry.static else "dynamic",
                "age_s": None if entry.static else _seconds(now - entry.seen),
            })  # fmt: skip
    return rows


def leases(lab: Lab) -> list[Row]:
    """List the bindings of all DHCP servers in the order of addresses."""
    known, now = owners(lab), lab.timeline.now
    return [
        {
            "network": network,
            "address": dotted(binding.address),
            "mac": format_mac(binding.mac),
            "owner": known.get(binding.mac),
            "hostname": binding.hostname,
            "state": binding.state.name.lower(),
            "expires_in_s": _seconds(binding.expires_at - now) if binding.state.live else None,
        }
        for network, node in lab.dhcp.items()
        for binding in node.bindings()
    ]


def nat(lab: Lab) -> list[Row]:
    """List the mappings of all NAT routers."""
    return [
        {
            "router": router.name,
            "protocol": entry.protocol,
            "inside": entry.inside,
            "outside": entry.outside,
            "connections": entry.connections,
            "forward": entry.forward,
        }
        for router in lab.routers.values()
        for entry in router.nat_table()
    ]


def flows(lab: Lab) -> list[Row]:
    """List the connections that routers track."""
    return [
        {
            "router": router.name,
            "protocol": flow.protocol,
            "state": flow.state,
            "from": flow.from_network,
            "to": flow.to_network,
            "source": flow.source,
            "destination": flow.destination,
            "translated": flow.translated,
            "expires_in_s": _seconds(flow.expires_in),
        }
        for router in lab.routers.values()
        for flow in router.flows()
    ]


def _own_client(lab: Lab, guest: Guest, nic: ResolvedInterface) -> str | None:
    """Say that nobody asks for an address unless the user's own client in the namespace does."""
    network = lab.topology.networks.get(nic.network or "")
    waits = guest.kind in ("namespace", "qemu") and nic.dhcp is None and not nic.addresses
    return "own client" if waits and network is not None and network.dhcp is not None else None


def without_client(lab: Lab) -> list[str]:
    """Name the interfaces (``guest:eth0``) that have no address until the user's own DHCP client gets one."""
    return [
        f"{row['name']}:{interface['name']}"
        for row in guests(lab)
        if row["machine"] is None  # which may still be booting
        for interface in cast("list[Row]", row["interfaces"])
        if interface["dhcp"] == "own client" and not interface["addresses"]
    ]


def guests(lab: Lab) -> list[Row]:
    """List the guests and their interfaces, with the addresses they have now: configured, or leased to their MAC."""
    leases_by_mac = leased(lab)
    rows: list[Row] = []
    for name, guest in lab.guests.items():
        resolved = lab.topology.guests[name]
        interfaces: list[Row] = []
        for nic, state in zip(resolved.interfaces, guest.interfaces(), strict=True):
            own = [str(address) for address in state.addresses]
            by_lease = [dotted(binding.address) for binding in leases_on(lab, leases_by_mac, name, nic)]
            interfaces.append({
                "name": state.name,
                "mac": format_mac(state.mac),
                "network": nic.network,
                "addresses": own or by_lease,
                "gateway": str(state.gateway) if state.gateway is not None else None,
                "state": "up" if state.up else "down",
                "active": state.active or None,
                "dhcp": state.dhcp or ("leased" if by_lease and not own else _own_client(lab, guest, nic)),
            })  # fmt: skip
        rows.append({
            "name": name, "kind": guest.kind, "namespace": resolved.namespace, "interfaces": interfaces,
            "programs": _programs_of(guest), "dns": _servers(guest), "machine": _machine(guest), "problem": _problem(guest),
        })  # fmt: skip
    return rows


def programs(lab: Lab) -> list[Row]:
    """List the programs of the topology, and what they measured until now."""
    return [{"guest": name, **row} for name, guest in lab.guests.items() for row in _programs_of(guest)]


def _programs_of(guest: Guest) -> list[Row]:
    return [
        {"name": each.name, "state": each.state, "error": each.error or None, "results": each.results}
        for each in guest.programs
    ]


def _problem(guest: Guest) -> str | None:
    """Tell which process has ended that a guest needs."""
    return (guest.problem or None) if isinstance(guest, NamespaceGuest) else None


def _servers(guest: Guest) -> list[str] | None:
    """List the DNS servers that a guest asks; None for a namespace, where its resolv.conf tells."""
    if not isinstance(guest, EmulatedGuest):
        return None
    return [str(ip_address(server)) for server in guest.names.settings.servers]


def _machine(guest: Guest) -> Row | None:
    """Tell how a virtual machine stands."""
    machine = as_machine(guest)
    if machine is None:
        return None
    return {
        "state": machine.state.value, "code": machine.state.code, "pid": machine.pid, "error": machine.error or None,
        "accel": machine.machine.accel, "memory": machine.machine.memory,
    }  # fmt: skip


def routers(lab: Lab) -> list[Row]:
    """List the routers: their interfaces, and what they forwarded and dropped."""
    return [
        {
            "name": name,
            "interfaces": {
                interface.name: [str(address) for address in interface.addresses]
                for interface in lab.topology.routers[name].interfaces
            },
            "forwarded": router.forwarded,
            "drops": dict(router.drops),
            "rules": router.rule_counters(),
        }
        for name, router in lab.routers.items()
    ]


def stp(lab: Lab) -> list[Row]:
    """List the switches with their part in spanning tree: none, since it is not built yet."""
    return [
        {"switch": name, "protocol": "none", "configured": switch.stp, "priority": switch.priority}
        for name, switch in lab.topology.switches.items()
    ]


def events(lab: Lab) -> list[Row]:
    """List what happened, oldest first."""
    return [
        {"time_s": _seconds(event.instant, 9), "node": event.node, "event": event.kind, "fields": dict(event.fields)}
        for event in lab.events
    ]


def _seconds(duration: Instant, digits: int = 3) -> float:
    return round(duration / SECOND, digits)


VIEWS: Final[Mapping[str, View]] = {
    "networks": networks, "ports": ports, "links": links, "fdb": fdb, "leases": leases, "nat": nat, "flows": flows,
    "guests": guests, "programs": programs, "routers": routers, "stp": stp, "events": events,
}  # fmt: skip


def show(lab: Lab, what: str) -> list[Row]:
    """Make one view; raise UsageError if there is none of that name."""
    if what not in VIEWS:
        raise UsageError(f"there is nothing to show called {what!r}; there are: {', '.join(VIEWS)}")
    return VIEWS[what](lab)


def everything(lab: Lab) -> Row:
    """Make all views, and who the lab is: what a test that failed leaves of it."""
    return {
        "lab": lab.name,
        "seed": lab.seed,
        "live": lab.live,
        "now_s": _seconds(lab.timeline.now, 9),
        "faults": [str(fault) for fault in lab.faults.active],
        **{name: view(lab) for name, view in VIEWS.items() if view is not events},
    }
