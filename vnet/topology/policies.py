"""Work out what a router does besides forwarding: its NAT, port forwards and firewall rules."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from vnet.topology.draft import Draft
from vnet.topology.model import Forward, Nat, Router, Rule
from vnet.topology.model import NatTimeouts as NatTimeoutsModel
from vnet.topology.problems import Path, suggestion
from vnet.topology.resolved import (
    NatTimeouts,
    Network,
    ResolvedFirewall,
    ResolvedForward,
    ResolvedInterface,
    ResolvedNat,
    ResolvedRoute,
    ResolvedRule,
)
from vnet.topology.shape import numbered, placed
from vnet.units import MINUTE, SECOND, Duration

UDP_TIMEOUT: Final = 300 * SECOND
"""RFC 4787, REQ-5: at least 2 minutes, 5 recommended."""
TCP_ESTABLISHED_TIMEOUT: Final = 124 * MINUTE
"""RFC 5382, REQ-5: at least 2 hours 4 minutes."""
TCP_TRANSITORY_TIMEOUT: Final = 4 * MINUTE
"""RFC 5382, REQ-5: at least 4 minutes."""
ICMP_TIMEOUT: Final = 60 * SECOND
"""RFC 5508, REQ-1: at least 60 seconds."""


def resolve_nat(
    draft: Draft, router: str, model: Nat, interfaces: Sequence[ResolvedInterface], routes: Sequence[ResolvedRoute]
) -> ResolvedNat | None:
    """Resolve a router's NAT and note what is wrong with it."""
    path: Path = ("routers", router, "nat")
    attached = {interface.name: interface for interface in interfaces}
    outside = _attached(draft, router, model.outside, (*path, "outside"), attached)
    if outside is not None and not any(isinstance(a.ip, IPv4Address) for a in attached[outside].addresses):
        text = f"router {router!r} has no IPv4 address on {outside!r} to translate to; give it one"
        draft.problems.error("bad-nat", (*path, "outside"), text)
    inside: list[str] = []
    sources: list[IPv4Network] = []
    if not model.inside:
        text = "inside is empty, so nothing would be translated; name the networks that share the address"
        draft.problems.error("bad-nat", (*path, "inside"), text)
    for index, name in numbered(model.inside):
        place = (*path, "inside", index)
        network = draft.network(name, place)
        if network is None:
            continue
        subnet = draft.subnets.get(network)
        if network == model.outside:
            draft.problems.error("bad-nat", place, f"{network!r} is outside already; a network is on one side only")
        elif subnet is None and draft.problems.lost(("networks", network, "subnet")):
            continue
        elif not isinstance(subnet, IPv4Network):
            draft.problems.error("bad-nat", place, f"{network!r} has no IPv4 subnet to translate; give it one")
        else:
            way = network if network in attached else _way_to(subnet, interfaces, routes)
            if way is None:
                text = f"router {router!r} is not on {network!r} and has no route to {subnet}; add one to routes:"
                draft.problems.error("bad-nat", place, text)
            elif way not in inside:
                inside.append(way)
            sources.append(subnet)
    forwards: list[ResolvedForward] = []
    for index, forward in numbered(model.forwards):
        resolved = _forward(draft, forward, (*path, "forwards", index))
        if resolved is None:
            continue
        if any((f.protocol, f.port) == (resolved.protocol, resolved.port) for f in forwards):
            text = f"{resolved.protocol} port {resolved.port} is forwarded already; a port leads to one host"
            draft.problems.error("duplicate-forward", (*path, "forwards", index, "port"), text)
            continue
        forwards.append(resolved)
        if sources and not any(resolved.address in source for source in sources):
            text = f"{resolved.address} is in none of the networks inside ({', '.join(model.inside)})"
            draft.problems.error("forward-target", (*path, "forwards", index, "to"), text)
    if outside is None:
        return None
    return ResolvedNat(
        outside=outside,
        inside=tuple(inside),
        sources=tuple(sources),
        forwards=tuple(forwards),
        hairpin=model.hairpin,
        timeouts=_timeouts(draft, model, (*path, "timeouts")),
    )


def _way_to(subnet: IPv4Network, interfaces: Sequence[ResolvedInterface], routes: Sequence[ResolvedRoute]) -> str | None:
    """Find the interface by which a router reaches a subnet that it is not on."""
    for route in sorted(routes, key=lambda route: -route.destination.prefixlen):
        if isinstance(route.destination, IPv4Network) and subnet.subnet_of(route.destination):
            return next((i.name for i in interfaces if any(route.via in a.network for a in i.addresses)), None)
    return None


def _attached(
    draft: Draft, router: str, name: str, place: Path, attached: dict[str, ResolvedInterface], hint: str = ""
) -> str | None:
    """Check that a network is one of the router's."""
    if name in attached:
        return name
    network = draft.network(name, place)
    if network in attached:
        return network
    if network == name and not draft.problems.within(("routers", router, "interfaces")):
        text = f"router {router!r} has no interface on {name!r}{hint}; {suggestion(name, list(attached))}"
        draft.problems.error("not-attached", place, text)
    return None


def _forward(draft: Draft, model: Forward, path: Path) -> ResolvedForward | None:
    port = draft.reader.whole(model.port, (*path, "port"), 1, 65535, 0)
    host, colon, port_text = model.to.rpartition(":")
    if not colon:
        host, port_text = model.to, str(port)
    to_port = draft.reader.port(port_text)
    if not to_port:
        if port:
            text = f"{model.to!r} is not an address with a port; write one such as 172.17.1.26:80"
            draft.problems.error("bad-port", (*path, "to"), text)
        return None
    address: IPv4Address | None
    if host in draft.model.guests:
        address = next((a for a in draft.guest_addresses(host) if isinstance(a, IPv4Address)), None)
        if address is None and not draft.problems.within(("guests", host)):
            text = f"guest {host!r} has no fixed IPv4 address; give it a static one or a DHCP reservation"
            draft.problems.error("forward-target", (*path, "to"), text)
    elif host[:1].isdigit() or ":" in host:
        address = draft.reader.address4(host, (*path, "to"))
    else:
        if not draft.problems.blamed(("guests",)):
            text = f"there is no guest {host!r}; {suggestion(host, list(draft.model.guests))}"
            draft.problems.error("unknown-guest", (*path, "to"), text)
        address = None
    if address is None or not port:
        return None
    return ResolvedForward(protocol=model.protocol, port=port, address=address, to_port=to_port)


def _timeouts(draft: Draft, model: Nat, path: Path) -> NatTimeouts:
    given = model.timeouts or NatTimeoutsModel()

    def read(key: str, text: str | None, default: Duration) -> Duration:
        value = draft.reader.duration(text, (*path, key), default)
        if value == 0:
            draft.problems.error("out-of-range", (*path, key), "0 would forget every mapping at once; write one such as 60s")
        return value

    return NatTimeouts(
        udp=read("udp", given.udp, UDP_TIMEOUT),
        tcp_established=read("tcp_established", given.tcp_established, TCP_ESTABLISHED_TIMEOUT),
        tcp_transitory=read("tcp_transitory", given.tcp_transitory, TCP_TRANSITORY_TIMEOUT),
        icmp=read("icmp", given.icmp, ICMP_TIMEOUT),
    )


def resolve_firewall(
    draft: Draft, router: str, model: Router, interfaces: Sequence[ResolvedInterface]
) -> ResolvedFirewall | None:
    """Resolve a router's firewall and note what is wrong with its rules."""
    if model.firewall is None:
        return None
    path: Path = ("routers", router, "firewall", "allow")
    rules = tuple(_rule(draft, router, rule, (*path, index), interfaces) for index, rule in numbered(model.firewall.allow))
    if rules and model.firewall.policy == "accept":
        text = "everything passes with policy: accept, so the rules have no effect; did you mean policy: drop?"
        draft.problems.warning("idle-rules", ("routers", router, "firewall", "policy"), text)
    return ResolvedFirewall(policy=model.firewall.policy, allow=rules)


def _rule(draft: Draft, router: str, rule: Rule, path: Path, interfaces: Sequence[ResolvedInterface]) -> ResolvedRule:
    attached = {interface.name: interface for interface in interfaces}

    def networks(value: str | list[str] | None, key: str) -> tuple[str, ...]:
        hint = f" (for what lies beyond, write {'source' if key == 'from' else 'destination'}: with its subnet)"
        pairs = placed(value, (*path, key))
        return tuple(name for place, name in pairs if _attached(draft, router, name, place, attached, hint) is not None)

    def prefixes(value: str | list[str] | None, key: str) -> tuple[Network, ...]:
        pairs = placed(value, (*path, key))
        return tuple(prefix for place, text in pairs for prefix in _prefixes(draft, text, place))

    if rule.port is not None and rule.protocol not in ("tcp", "udp") and not draft.problems.blamed((*path, "protocol")):
        text = f"only tcp and udp have ports, and the protocol here is {rule.protocol}; add protocol: tcp or udp"
        draft.problems.error("bad-rule", (*path, "port"), text, key=True)
    return ResolvedRule(
        from_networks=networks(rule.from_, "from"),
        to_networks=networks(rule.to, "to"),
        protocol=rule.protocol,
        ports=draft.reader.ports(rule.port, (*path, "port")),
        sources=prefixes(rule.source, "source"),
        destinations=prefixes(rule.destination, "destination"),
    )


def _prefixes(draft: Draft, text: str, place: Path) -> list[Network]:
    if text in draft.model.guests:
        addresses = draft.guest_addresses(text)
        if not addresses and not draft.problems.within(("guests", text)):
            wrong = f"guest {text!r} has no fixed address; give it a static one or a DHCP reservation"
            draft.problems.error("bad-rule", place, wrong)
        return [prefix for address in addresses if (prefix := draft.reader.prefix(str(address), place)) is not None]
    if text in draft.subnets:
        return [draft.subnets[text]]
    prefix = draft.reader.prefix(text, place)
    return [] if prefix is None else [prefix]
