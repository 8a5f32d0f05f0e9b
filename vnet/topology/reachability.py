"""Tell who should reach whom: what VLANs, routes, NAT and firewall rules say, before anybody measures it.

A probe is followed on paper from guest to guest the way its packets would go, and its reply back. Nothing here runs: ``vnet
pingall`` prints these verdicts beside what it measures, and a difference is a bug in the lab or in vnet. One simplification:
DHCP clients are taken to hold their leases, in file order from the start of the range.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final, Literal, TypeAlias, final

from vnet.topology.describe import network_of
from vnet.topology.resolved import (
    ResolvedGuest,
    ResolvedInterface,
    ResolvedRouter,
    ResolvedRule,
    ResolvedTopology,
)

Probe: TypeAlias = Literal["icmp", "tcp", "udp"]

MOST_HOPS: Final = 32


@final
@dataclass(frozen=True, slots=True)
class Expectation:
    """Whether a probe is answered, why (not), and the routers on its way.

    ``dial`` is the address and port to probe where the target is reached by a port forward only, not at its own address.
    """

    allowed: bool
    reason: str
    through: tuple[str, ...] = ()
    dial: tuple[IPv4Address, int] | None = None


@final
@dataclass(frozen=True, slots=True)
class _Attachment:
    """A guest's address on a network, and the gateway that goes with it."""

    network: str
    address: IPv4Address
    subnet: IPv4Network
    gateway: IPv4Address | None


@final
class _Blocked(Exception):
    """The packet ends here; the text says why."""


@final
@dataclass(slots=True)
class _Packet:
    """The packet on its way; the routers that remember its connection, and those of them that translated its source."""

    source: IPv4Address
    destination: IPv4Address
    protocol: Probe
    port: int | None
    through: list[str]
    tracked: set[str]
    hidden: dict[str, IPv4Address]
    """By NAT router: the source address before it."""


def expected(
    resolved: ResolvedTopology, protocol: Probe = "icmp", port: int | None = None
) -> dict[tuple[str, str], Expectation]:
    """Return a verdict for each ordered pair of guests (source, target); *port* is the target's, for tcp and udp."""
    walker = _Walker(resolved, protocol, port)
    return {
        (source, target): walker.probe(source, target)
        for source in resolved.guests
        for target in resolved.guests
        if source != target
    }


@final
class _Walker:
    """Follows packets through one topology."""

    def __init__(self, resolved: ResolvedTopology, protocol: Probe, port: int | None) -> None:
        self.resolved = resolved
        self.protocol: Probe = protocol
        self.port = port
        scopes = [(network.name, network.dhcp) for network in resolved.networks.values() if network.dhcp is not None]
        self.pools = {
            name: map(IPv4Address, range(int(scope.range_start), int(scope.range_end) + 1)) for name, scope in scopes
        }
        self.kept = {name: {*scope.reservations.values(), *self._statics(name)} for name, scope in scopes}
        self.guests = {name: self._attachments(guest) for name, guest in resolved.guests.items()}
        self.owners: dict[tuple[str, IPv4Address], str] = {}
        for node, interface in resolved.endpoints():
            network = network_of(resolved, interface)
            for address in interface.addresses:
                if network is not None and isinstance(address.ip, IPv4Address):
                    self.owners.setdefault((network, address.ip), node)
        for name, attachments in self.guests.items():
            for attachment in attachments:
                self.owners.setdefault((attachment.network, attachment.address), name)

    def _statics(self, network: str) -> list[IPv4Address]:
        """List the static addresses on a network; the DHCP server finds out about them by probing."""
        found = [address.ip for _, interface in self.resolved.endpoints() for address in interface.addresses]
        subnet = self.resolved.networks[network].subnet
        return [a for a in found if isinstance(a, IPv4Address) and subnet is not None and a in subnet]

    def _attachments(self, guest: ResolvedGuest) -> list[_Attachment]:
        found: list[_Attachment] = []
        for interface in guest.interfaces:
            network = network_of(self.resolved, interface)
            if network is None:
                continue
            static = [a for a in interface.addresses if isinstance(a.ip, IPv4Address)]
            gateway = guest.gateway if isinstance(guest.gateway, IPv4Address) else None
            found += [_Attachment(network, IPv4Address(a.ip), IPv4Network(a.network), gateway) for a in static]
            if not static:
                leased = self._lease(guest, interface, network, gateway)
                found += [leased] if leased is not None else []
        return found

    def _lease(
        self, guest: ResolvedGuest, interface: ResolvedInterface, network: str, gateway: IPv4Address | None
    ) -> _Attachment | None:
        """Return what a DHCP client gets; a namespace or machine is taken to run a client of its own."""
        scope = self.resolved.networks[network].dhcp
        own_client = guest.kind != "emulated" and interface.network is not None  # on a trunk nobody knows what it asks for
        if scope is None or not (interface.dhcp or own_client):
            return None
        address = scope.reservations.get(interface.mac)
        if address is None:
            address = next((free for free in self.pools[network] if free not in self.kept[network]), None)
        if address is None:
            return None  # the range is used up
        return _Attachment(network, address, scope.subnet, gateway or scope.gateway)

    def probe(self, source: str, target: str) -> Expectation:
        """Send a probe and its reply."""
        for guest in (source, target):
            if not self.guests[guest]:
                return Expectation(False, f"{guest} has no address")
        goal = self.guests[target][0]
        verdict = self._try(source, target, goal.address)
        if verdict.allowed or self.protocol == "icmp":
            return verdict
        forwarded = self._by_forward(source, target, goal.address)
        return forwarded or verdict

    def _by_forward(self, source: str, target: str, address: IPv4Address) -> Expectation | None:
        """Try the port forwards that lead to the target."""
        for router in self.resolved.routers.values():
            for forward in router.nat.forwards if router.nat is not None else ():
                if (forward.protocol, forward.address, forward.to_port) != (self.protocol, address, self.port):
                    continue
                outside = _address_on(router, router.nat.outside) if router.nat is not None else None
                if outside is None:
                    continue
                verdict = self._try(source, target, outside, forward.port)
                if verdict.allowed:
                    reason = f"port {forward.port} of {router.name} ({outside}) is forwarded"
                    return Expectation(True, reason, verdict.through, (outside, forward.port))
        return None

    def _try(self, source: str, target: str, destination: IPv4Address, port: int | None = None) -> Expectation:
        packet = _Packet(destination, destination, self.protocol, port or self.port, [], set(), {})
        try:
            arrived = self._send(source, packet)
            if arrived != target:
                return Expectation(False, f"{destination} is {arrived}", tuple(packet.through))
            reply = self._reply(target, packet)
        except _Blocked as end:
            return Expectation(False, str(end), tuple(packet.through))
        if reply != source:
            return Expectation(False, f"the reply goes to {reply}", tuple(packet.through))
        if not packet.through:
            return Expectation(True, "same network", ())
        nat = next(iter(packet.hidden), None)
        way = " and ".join(packet.through)
        return Expectation(True, f"through {way}" + (f", as {packet.source}" if nat else ""), tuple(packet.through))

    def _send(self, source: str, packet: _Packet) -> str:
        """Follow the packet from a guest; return the node where it ends."""
        network, hop, packet.source = self._from_guest(source, packet.destination)
        for _ in range(MOST_HOPS):
            node = self.owners.get((network, hop))
            if node is None:
                raise _Blocked(f"nobody on {network} has {hop}")
            router = self.resolved.routers.get(node)
            if router is None:
                if hop != packet.destination:
                    raise _Blocked(f"{node} ({hop}) does not forward")
                return node
            forwarded = self._translate_inbound(router, network, packet)
            if not forwarded and self._is_own(router, packet.destination):
                return node
            packet.through.append(node)
            network, hop = self._forward(router, network, packet, forwarded)
        raise _Blocked("the packet goes round in circles")

    def _from_guest(self, guest: str, destination: IPv4Address) -> tuple[str, IPv4Address, IPv4Address]:
        """Choose network, next hop and source address by the guest's routes, longest prefix first."""
        attachments = self.guests[guest]
        for own in attachments:
            if destination in own.subnet:
                return own.network, destination, own.address
        hops = [
            (route.destination.prefixlen, route.via)
            for route in self.resolved.guests[guest].routes
            if isinstance(route.via, IPv4Address) and destination in route.destination
        ]
        hops += [(-1, own.gateway) for own in attachments if own.gateway is not None]
        for _, hop in sorted(hops, key=lambda pair: -pair[0]):
            for own in attachments:
                if hop in own.subnet:
                    return own.network, hop, own.address
        raise _Blocked(f"{guest} has no route to {destination}")

    @staticmethod
    def _is_own(router: ResolvedRouter, address: IPv4Address) -> bool:
        return any(address == own.ip for interface in router.interfaces for own in interface.addresses)

    def _translate_inbound(self, router: ResolvedRouter, network: str, packet: _Packet) -> bool:
        """Apply a port forward; True if there was one."""
        nat = router.nat
        if nat is None or packet.destination != _address_on(router, nat.outside):
            return False
        if network != nat.outside and not nat.hairpin:
            return False
        for forward in nat.forwards:
            if (forward.protocol, forward.port) == (packet.protocol, packet.port):
                packet.destination, packet.port = forward.address, forward.to_port
                packet.tracked.add(router.name)
                if network in nat.inside:
                    # a hairpinned connection shows the outside address to its server (RFC 4787, REQ-9)
                    packet.hidden[router.name] = packet.source
                    packet.source = _address_on(router, nat.outside) or packet.source
                return True
        return False

    def _forward(self, router: ResolvedRouter, network: str, packet: _Packet, forwarded: bool) -> tuple[str, IPv4Address]:
        """Route the packet, with firewall and NAT; return network and next hop."""
        out, hop = _route(router, packet.destination)
        nat, source = router.nat, packet.source
        unsolicited = nat is not None and network == nat.outside and out in nat.inside and not forwarded
        if nat is not None and unsolicited and any(packet.destination in prefix for prefix in nat.sources):
            raise _Blocked(f"NAT of {router.name}: unsolicited")
        if router.firewall is not None and network != out:
            packet.tracked.add(router.name)
            if not forwarded and not _let_in(router, packet, network, out):
                raise _Blocked(f"firewall of {router.name}: no rule allows {network} to {out}")
        outward = nat is not None and out == nat.outside and network in nat.inside
        if nat is not None and outward and any(source in prefix for prefix in nat.sources):
            packet.hidden[router.name] = source
            packet.tracked.add(router.name)
            packet.source = _address_on(router, nat.outside) or source
        return out, hop

    def _reply(self, target: str, packet: _Packet) -> str:
        """Follow the reply: routers let it through only if they saw the connection begin."""
        network, hop, _ = self._from_guest(target, packet.source)
        destination = packet.source
        for _ in range(MOST_HOPS):
            node = self.owners.get((network, hop))
            if node is None:
                raise _Blocked(f"the reply is lost: nobody on {network} has {hop}")
            router = self.resolved.routers.get(node)
            if router is None:
                if hop != destination:
                    raise _Blocked(f"the reply is lost: {node} ({hop}) does not forward")
                return node
            if node in packet.hidden and destination == _address_on(router, router.nat.outside if router.nat else ""):
                destination = packet.hidden[node]
            out, hop = _route(router, destination)
            stateful = router.firewall is not None or (router.nat is not None and out == router.nat.outside)
            if stateful and network != out and node not in packet.tracked:
                raise _Blocked(f"the reply comes by {node}, whose firewall has not seen the request")
            network = out
        raise _Blocked("the reply goes round in circles")


def _address_on(router: ResolvedRouter, network: str) -> IPv4Address | None:
    for interface in router.interfaces:
        if interface.name == network:
            return next((IPv4Address(a.ip) for a in interface.addresses if isinstance(a.ip, IPv4Address)), None)
    return None


def _route(router: ResolvedRouter, destination: IPv4Address) -> tuple[str, IPv4Address]:
    """Look a router's next hop up: connected networks first, then the longest prefix, then the default gateway."""
    for interface in router.interfaces:
        if any(destination in own.network for own in interface.addresses):
            return interface.name, destination
    hops = [(r.destination.prefixlen, r.via) for r in router.routes if destination in r.destination]
    if router.default_gateway is not None:
        hops.append((-1, router.default_gateway))
    for _, hop in sorted(hops, key=lambda pair: -pair[0]):
        for interface in router.interfaces:
            if isinstance(hop, IPv4Address) and any(hop in own.network for own in interface.addresses):
                return interface.name, hop
    raise _Blocked(f"{router.name} has no route to {destination}")


def _let_in(router: ResolvedRouter, packet: _Packet, network: str, out: str) -> bool:
    if router.firewall is None or router.firewall.policy == "accept":
        return True
    return any(_matches(rule, packet, network, out) for rule in router.firewall.allow)


def _matches(rule: ResolvedRule, packet: _Packet, network: str, out: str) -> bool:
    """Tell whether a rule allows the packet: everything that it names has to fit."""
    port = packet.port
    return (
        (not rule.from_networks or network in rule.from_networks)
        and (not rule.to_networks or out in rule.to_networks)
        and rule.protocol in ("any", packet.protocol)
        and (not rule.ports or (port is not None and any(low <= port <= high for low, high in rule.ports)))
        and (not rule.sources or any(packet.source in prefix for prefix in rule.sources))
        and (not rule.destinations or any(packet.destination in prefix for prefix in rule.destinations))
    )
