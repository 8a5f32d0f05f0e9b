"""Check a resolved topology as a whole: what no single value shows.

Each rule is a function of the draft and notes its own code; ``RULES`` is the list of them. Rules about switches are in
``validate_switching``. What cannot work is an error; what works, but probably not as meant, is a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Final, TypeAlias

from vnet.addresses import Mac, format_mac
from vnet.topology.addressing import host_bounds, host_problem, is_host6
from vnet.topology.describe import network_of
from vnet.topology.draft import Draft, Static
from vnet.topology.model import Guest
from vnet.topology.nics import gateway_place
from vnet.topology.problems import Path
from vnet.topology.programs import clients_have_servers
from vnet.topology.resolve_adapter import adapters_apart
from vnet.topology.resolved import Address, Interface, Network, ResolvedDhcp, ResolvedInterface, ResolvedTopology
from vnet.topology.validate_switching import SWITCHING_RULES

IPV6_MTU: Final = 1280

Rule: TypeAlias = Callable[[Draft, ResolvedTopology], None]


def validate(draft: Draft, resolved: ResolvedTopology) -> None:
    """Note everything that is wrong with *resolved* in the draft's problems."""
    for rule in (*RULES, *SWITCHING_RULES):
        rule(draft, resolved)


def subnets_apart(draft: Draft, resolved: ResolvedTopology) -> None:
    """Subnets of different networks share no address: sorted, a prefix follows those that contain it."""
    ordered = sorted(
        draft.subnets.items(), key=lambda item: (item[1].version, int(item[1].network_address), item[1].prefixlen)
    )
    place = {name: index for index, name in enumerate(draft.subnets)}
    enclosing: list[tuple[str, Network]] = []
    for name, subnet in ordered:
        while enclosing and not (enclosing[-1][1].version == subnet.version and enclosing[-1][1].overlaps(subnet)):
            enclosing.pop()
        for other, _ in enclosing:
            first, second = sorted((other, name), key=place.__getitem__)
            text = f"{draft.subnets[second]} overlaps {draft.subnets[first]} of network {first!r}; choose a free prefix"
            draft.problems.error("overlapping-subnets", ("networks", second, "subnet"), text)
        enclosing.append((name, subnet))


def addresses_fit(draft: Draft, resolved: ResolvedTopology) -> None:
    """Static addresses lie in their network's subnet, are host addresses, and have its prefix length."""
    for static in draft.statics:
        subnet = draft.subnets.get(static.network)
        if static.address.version == 6:
            if static.router:
                text = "routers have no IPv6 yet: the address has no effect"
                draft.problems.warning("ipv6-not-built", static.path, text)
            if isinstance(static.address.ip, IPv6Address) and not is_host6(static.address.ip):
                text = f"{static.address.ip} is no address of a host; write one such as 2001:db8::27/64"
                draft.problems.error("bad-address", static.path, text)
                continue
        if subnet is None or subnet.version != static.address.version:
            subnet = static.address.network
        elif static.address.ip not in subnet:
            text = f"{static.address.ip} is outside {subnet}, the subnet of network {static.network!r}"
            draft.problems.error("outside-subnet", static.path, text)
            continue
        elif static.address.network.prefixlen != subnet.prefixlen:
            text = f"{static.address} differs in prefix length from {subnet}, the subnet of network {static.network!r}"
            draft.problems.warning("prefix-length", static.path, text)
        _check_host_address(draft, static.address.ip, subnet, static.path)


def ipv6_can_run(draft: Draft, resolved: ResolvedTopology) -> None:
    """IPv6 needs 1280 octets (RFC 8200, section 5)."""
    for guest in resolved.guests.values():
        for interface in guest.interfaces:
            path = draft.paths[guest.name, interface.name]
            if interface.has_ipv6 and interface.mtu < IPV6_MTU:
                text = f"IPv6 needs an MTU of at least {IPV6_MTU}, not {interface.mtu}"
                draft.problems.error("ipv6-mtu", (*path, "mtu"), text)


def _check_host_address(draft: Draft, address: Address, subnet: Network, path: Path) -> bool:
    if not isinstance(subnet, IPv4Network) or not isinstance(address, IPv4Address):
        return True
    text = host_problem(address, subnet)
    if text:
        draft.problems.error("network-address", path, text)
    return not text


def addresses_unique(draft: Draft, resolved: ResolvedTopology) -> None:
    """Nobody on a network has somebody else's address."""
    owners: dict[tuple[str, Address], str] = {}
    for static in draft.statics:
        key = (static.network, static.address.ip)
        owner = f"{static.node}:{static.interface}"
        if key in owners:
            text = f"{static.address.ip} belongs to {owners[key]} already; choose another"
            draft.problems.error("duplicate-address", static.path, text)
        owners.setdefault(key, owner)


def sub_interfaces_apart(draft: Draft, resolved: ResolvedTopology) -> None:
    """The addresses of a VLAN sub-interface leave the subnets of the guest's other interfaces alone."""
    for guest in resolved.guests.values():
        seen: list[tuple[ResolvedInterface, Interface]] = []
        for interface in guest.interfaces:
            for address in interface.addresses:
                for other, its in seen:
                    tagged = interface.parent is not None or other.parent is not None
                    if other is interface or not tagged or its.version != address.version:
                        continue
                    if its.network.overlaps(address.network):
                        text = (
                            f"{address} overlaps {its} of {other.name}, and a host reaches a subnet by one interface; "
                            "give each VLAN its own subnet"
                        )
                        path = next(s.path for s in draft.statics if s.address is address)
                        draft.problems.error("overlapping-addresses", path, text)
                seen.append((interface, address))


def bond_targets_near(draft: Draft, resolved: ResolvedTopology) -> None:
    """Whom a bond asks by ARP is on a subnet of the bond, or of a sub-interface on it: ARP goes no further."""
    for guest in resolved.guests.values():
        for interface in guest.interfaces:
            if interface.bond is None or interface.parent is not None or not interface.bond.arp_ip_target:
                continue
            near: list[Network] = []
            for each in guest.interfaces:
                if interface.name in (each.name, each.parent):
                    subnet = draft.subnets.get(network_of(resolved, each) or "")
                    near += [address.network for address in each.addresses] + ([] if subnet is None else [subnet])
            path = (*draft.paths[guest.name, interface.name], "bond", "arp_ip_target")
            subnets = ", ".join(map(str, dict.fromkeys(near)))
            for target in interface.bond.arp_ip_target:
                if near and not any(target in subnet for subnet in near):
                    text = f"{target} cannot be asked: the bond is on {subnets}, and ARP goes no further"
                    draft.problems.error("bond-target", path, text)


def macs_unique(draft: Draft, resolved: ResolvedTopology) -> None:
    """No MAC address is stated twice (VS-42)."""
    owners: dict[Mac, str] = {}
    for (node, name), interface in draft.interfaces.items():
        if interface.parent is not None:
            continue  # a sub-interface has its NIC's
        if interface.mac in owners:
            text = f"{format_mac(interface.mac)} belongs to {owners[interface.mac]} already; choose another or leave it out"
            draft.problems.error("duplicate-mac", (*draft.paths[node, name], "mac"), text)
        owners.setdefault(interface.mac, f"{node}:{name}")


def dhcp_servers_fit(draft: Draft, resolved: ResolvedTopology) -> None:
    """A DHCP server, its gateway and its range lie in the subnet; the server is outside the range (VS-55) and unique."""
    for network, scope in draft.dhcp.items():
        path: Path = ("networks", network, "dhcp")
        if scope.server not in scope.subnet:
            text = f"the server's address {scope.server} is outside {scope.subnet}"
            draft.problems.error("dhcp-server", (*path, "server"), text)
        elif _check_host_address(draft, scope.server, scope.subnet, (*path, "server")):
            _check_server(draft, network, scope, path)
        first, last = host_bounds(scope.subnet)
        if scope.range_start < first or scope.range_end > last:
            text = f"{scope.range_start}-{scope.range_end} is not inside {scope.subnet}, whose hosts are {first}-{last}"
            draft.problems.error("dhcp-range", (*path, "range"), text)
        if scope.gateway is not None:
            if scope.gateway not in scope.subnet:
                text = f"clients cannot reach the gateway {scope.gateway}: it is outside {scope.subnet}"
                draft.problems.error("unreachable-gateway", (*path, "gateway"), text)
            elif _in_range(scope.gateway, scope) and scope.gateway not in scope.reservations.values():
                text = f"the range {scope.range_start}-{scope.range_end} contains the gateway {scope.gateway}; leave it out"
                draft.problems.error("dhcp-range", (*path, "range"), text)


def _check_server(draft: Draft, network: str, scope: ResolvedDhcp, path: Path) -> None:
    if _in_range(scope.server, scope):
        text = (
            f"the server's address {scope.server} is inside the range {scope.range_start}-{scope.range_end}; "
            "choose one outside it"
        )
        draft.problems.error("dhcp-server", (*path, "server"), text)
    for static in draft.statics_on(network):
        if static.address.ip == scope.server:
            text = f"{scope.server} belongs to {static.node}:{static.interface}; the DHCP server needs its own address"
            draft.problems.error("duplicate-address", (*path, "server"), text)


def _in_range(address: Address, scope: ResolvedDhcp) -> bool:
    return isinstance(address, IPv4Address) and scope.range_start <= address <= scope.range_end


def dhcp_ranges_free(draft: Draft, resolved: ResolvedTopology) -> None:
    """No static address lies in a range, unless it is reserved for the one who has it."""
    for network, scope in draft.dhcp.items():
        for static in draft.statics_on(network):
            interface = draft.interfaces.get((static.node, static.interface))
            reserved = interface is not None and scope.reservations.get(interface.mac) == static.address.ip
            if _in_range(static.address.ip, scope) and static.address.ip != scope.gateway and not reserved:
                text = (
                    f"{static.address.ip} is in the DHCP range {scope.range_start}-{scope.range_end} of network "
                    f"{network!r}, and may be leased to somebody else; choose one outside or reserve it"
                )
                draft.problems.error("static-in-range", static.path, text)


def reservations_fit(draft: Draft, resolved: ResolvedTopology) -> None:
    """Reserved addresses lie in the subnet, and nobody else has them."""
    for network, scope in draft.dhcp.items():
        model = draft.model.networks[network]
        typed = model.dhcp.reservations if model is not None and model.dhcp is not None else {}
        statics = draft.statics_on(network)
        for mac, address in scope.reservations.items():
            key = next((key for key, text in typed.items() if text.strip() == str(address)), "")
            path: Path = ("networks", network, "dhcp", "reservations", key)
            if address not in scope.subnet:
                text = f"the reserved address {address} is outside {scope.subnet}"
                draft.problems.error("outside-subnet", path, text)
                continue
            _check_host_address(draft, address, scope.subnet, path)
            if address in (scope.server, scope.gateway):
                whose = "the DHCP server's" if address == scope.server else "the gateway's"
                draft.problems.error("duplicate-address", path, f"{address} is {whose} address; reserve another")
            for static in statics:
                if static.address.ip == address and not _has_mac(draft, static, mac) and address != scope.gateway:
                    text = f"{address} belongs to {static.node}:{static.interface}; reserve another"
                    draft.problems.error("duplicate-address", path, text)


def _has_mac(draft: Draft, static: Static, mac: Mac) -> bool:
    interface = draft.interfaces.get((static.node, static.interface))
    return interface is not None and interface.mac == mac


def gateways_reachable(draft: Draft, resolved: ResolvedTopology) -> None:
    """Gateways and next hops are on a network of the node, are not the node itself, and somebody has them."""
    holders = {(static.network, static.address.ip) for static in draft.statics}
    holders |= {(name, scope.server) for name, scope in draft.dhcp.items()}
    holders |= {(name, address) for name, scope in draft.dhcp.items() for address in scope.reservations.values()}
    for network, scope in draft.dhcp.items():
        if scope.gateway is not None and scope.gateway in scope.subnet:
            path: Path = ("networks", network, "dhcp", "gateway")
            _check_somebody(draft, resolved, network, scope.gateway, holders, path)
    for section, nodes in (("guests", resolved.guests), ("routers", resolved.routers)):
        for name, node in nodes.items():
            links = [(i.network, address) for i in node.interfaces for address in i.addresses]
            on_dhcp = [i.network for i in node.interfaces if i.network is not None and _may_use_dhcp(i)]
            hops: list[tuple[Address | None, Path]] = [
                (route.via, (section, name, "routes", index, "via")) for index, route in enumerate(node.routes)
            ]
            if draft.problems.within((section, name, "interfaces" if section == "routers" else "nics")):
                continue  # without its right address a node reaches nothing; the address is what has to be mended
            if section == "routers":
                hops.append((resolved.routers[name].default_gateway, (section, name, "default_gateway")))
            else:
                hops.append((resolved.guests[name].gateway, gateway_place(name, draft.model.guests[name] or Guest())))
            for hop, place in hops:
                if hop is not None:
                    _check_hop(draft, resolved, name, hop, links, on_dhcp, holders, place)


def _may_use_dhcp(interface: ResolvedInterface) -> bool:
    return not interface.addresses or (interface.dhcp is not None and all(each.version == 6 for each in interface.addresses))


def _check_hop(
    draft: Draft,
    resolved: ResolvedTopology,
    node: str,
    hop: Address,
    links: list[tuple[str | None, Interface]],
    on_dhcp: list[str],
    holders: set[tuple[str, Address]],
    place: Path,
) -> None:
    if any(address.ip == hop for _, address in links):
        draft.problems.error("unreachable-gateway", place, f"{hop} is {node}'s own address; a gateway is another node")
        return
    for network, address in links:
        if hop.version == address.version and hop in address.network:
            if network is not None:
                _check_somebody(draft, resolved, network, hop, holders, place)
            return
    for network in on_dhcp:
        subnet = draft.subnets.get(network)
        if subnet is None or (hop.version == subnet.version and hop in subnet):
            return
    subnets = [str(address.network) for _, address in links] + [str(draft.subnets[name]) for name in on_dhcp]
    nets = ", ".join(subnets) or "no subnet at all"
    draft.problems.error("unreachable-gateway", place, f"{node} cannot reach {hop}: it is on {nets}")


def _check_somebody(
    draft: Draft, resolved: ResolvedTopology, network: str, hop: Address, holders: set[tuple[str, Address]], place: Path
) -> None:
    """Warn of a next hop that nobody has: on an internal network nobody ever will (unless a guest takes it by itself)."""
    misread = draft.problems.within(("routers",)) or draft.problems.within(("guests",))  # perhaps it was somebody's
    if (network, hop) not in holders and not misread and not resolved.networks[network].open_end:
        text = f"nobody on network {network!r} has the address {hop}; packets sent there get lost"
        draft.problems.warning("missing-gateway", place, text)


def forwards_lead_somewhere(draft: Draft, resolved: ResolvedTopology) -> None:
    """A port forward leads to an address that somebody inside has for sure."""
    fixed = {static.address.ip for static in draft.statics if not static.router}
    fixed |= {address for scope in draft.dhcp.values() for address in scope.reservations.values()}
    for name, router in resolved.routers.items():
        model = draft.model.routers[name].nat
        if router.nat is None or model is None:
            continue
        for forward in router.nat.forwards:
            index = next(i for i, f in enumerate(model.forwards) if (f.protocol, f.port) == (forward.protocol, forward.port))
            if forward.address in fixed or not any(forward.address in source for source in router.nat.sources):
                continue
            path: Path = ("routers", name, "nat", "forwards", index, "to")
            if any(_in_range(forward.address, scope) for scope in draft.dhcp.values()):
                text = f"{forward.address} is leased to whoever comes; reserve it for the host that is meant"
                draft.problems.warning("forward-target", path, text)
            else:
                text = f"nobody has the address {forward.address}; forward to a guest that is there"
                draft.problems.error("forward-target", path, text)


def profile_limits(draft: Draft, resolved: ResolvedTopology) -> None:
    """The limits of the product whose profile applies (VS-06, VS-07)."""
    profile = draft.profile
    for name, guest in resolved.guests.items():
        nics = sum(len(interface.cables) for interface in guest.interfaces)
        if profile.most_nics is not None and nics > profile.most_nics:
            text = f"{nics} NICs are more than the {profile.most_nics} that profile {profile.name!r} allows"
            draft.problems.error("profile-limit", ("guests", name, "nics"), text)
    for what, count, usual in (
        ("guests", len(resolved.guests), profile.usual_guests),
        ("networks", len(resolved.networks), profile.usual_networks),
    ):
        if usual is not None and count > usual:
            text = f"{count} {what} are more than the {usual} that {profile.name!r} is meant for"
            draft.problems.warning("profile-limit", (what,), text, key=True)


def nothing_to_run(draft: Draft, resolved: ResolvedTopology) -> None:
    """A lab has somebody in it."""
    if not draft.model.guests and not draft.model.routers and not draft.problems.blamed(("guests",)):
        text = "there are no guests; add some, such as guests: {pc: {nics: [lan]}}"
        draft.problems.warning("no-guests", (), text)


RULES: Final[tuple[Rule, ...]] = (
    subnets_apart,
    addresses_fit,
    addresses_unique,
    ipv6_can_run,
    sub_interfaces_apart,
    bond_targets_near,
    macs_unique,
    dhcp_servers_fit,
    dhcp_ranges_free,
    reservations_fit,
    gateways_reachable,
    forwards_lead_somewhere,
    profile_limits,
    nothing_to_run,
    clients_have_servers,
    adapters_apart,
)
