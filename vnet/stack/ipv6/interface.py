"""The IPv6 side of one interface: its addresses with duplicate address detection, groups, and neighbors.

Addresses are taken into use one second after the cable is in (RFC 4862, section 5.4), plus up to one more drawn at random so
that a whole lab does not ask at once. When the cable was out they are asked for again.
"""

from __future__ import annotations

from ipaddress import IPv6Interface
from typing import TYPE_CHECKING, Final, Protocol, final

from vnet.addresses import Mac, format_mac, multicast_mac
from vnet.ports import NO_OFFLOAD, Port
from vnet.stack.ipv6.addresses import AddressState, Origin, OwnAddress, choose_source
from vnet.stack.ipv6.autoconf import Autoconfiguration
from vnet.stack.ipv6.discovery import Discovery
from vnet.stack.ipv6.listener import Listener
from vnet.stack.ipv6.neighbor import Ipv6Neighbor, Ipv6NeighborCache
from vnet.stack.neighbor import REACHABLE_TIME, RETRANSMIT_TIME
from vnet.units import SECOND, Duration, Instant
from vnet.wire import ipv6, ndp
from vnet.wire.ethernet import ETHERTYPE_IPV6
from vnet.wire.ipv6 import ALL_NODES, PROTOCOL_ICMPV6, text

if TYPE_CHECKING:
    from vnet.stack.interface import Interface
    from vnet.stack.ipv6.node import Ipv6Node

MAX_DELAY: Final = 1 * SECOND
"""MAX_RTR_SOLICITATION_DELAY (RFC 4861, section 10)."""
TRANSMITS: Final = 1
"""The default of DupAddrDetectTransmits (RFC 4862, section 5.1)."""


class Router(Protocol):
    """Whoever advertises a router on an interface (RFC 4861, section 6.2); its calls say when it may and should."""

    def ready(self) -> None:
        """Begin, or begin anew: the link-local address, which advertisements come from, has come into use."""

    def solicited(self) -> None:
        """Answer a host that looks for routers."""

    def lost(self) -> None:
        """Stop: the cable is out."""


@final
class Ipv6Interface:
    """What an ``Interface`` has more when it speaks IPv6; made by ``Interface.enable_ipv6``.

    ``addresses`` are all, whatever their state. ``hop_limit``, ``mtu``, ``retransmit_time`` and ``base_reachable`` may be
    set by router advertisements. ``autoconf`` is there if the interface configures itself, ``router`` if it is a router's.
    ``transmits`` is DupAddrDetectTransmits (RFC 4862, section 5.1): with 0 addresses are taken into use at once, unasked.
    """

    __slots__ = (
        "_start", "addresses", "autoconf", "base_reachable", "discovery", "groups", "hop_limit", "interface", "listener",
        "mac", "mtu", "neighbors", "node", "retransmit_time", "router", "transmits",
    )  # fmt: skip

    def __init__(self, node: Ipv6Node, interface: Interface) -> None:
        self.node = node
        self.interface = interface
        self.mac: Mac = interface.mac
        self.mtu = interface.mtu
        self.hop_limit = ipv6.DEFAULT_HOP_LIMIT
        self.retransmit_time: Duration = RETRANSMIT_TIME
        self.base_reachable: Duration = REACHABLE_TIME
        self.addresses: list[OwnAddress] = []
        self.groups: dict[bytes, int] = {}  # how often each was joined
        self.neighbors = Ipv6NeighborCache(self)
        self.listener = Listener(self)
        self.discovery = Discovery(self)
        self.autoconf: Autoconfiguration | None = None
        self.router: Router | None = None
        self.transmits = TRANSMITS
        self._start = self._draw_start() if interface.up else 0
        self._add(OwnAddress(ipv6.link_local(interface.mac), 64, Origin.LINK_LOCAL))

    # Configuration

    def add_address(self, address: IPv6Interface, *, deprecated: bool = False) -> None:
        """Use an address as soon as it is known that nobody else does, and reach its network by this interface.

        From a *deprecated* one nothing new is sent while there is another (RFC 6724, section 5, rule 3).
        """
        own = OwnAddress(address.ip.packed, address.network.prefixlen, Origin.STATIC)
        if deprecated:
            own.preferred_until = 0
        found = self.find(own.address)
        if found is None:
            self._add(own)
        elif found.origin is Origin.AUTO:  # it no longer goes with a router's word
            found.origin = Origin.STATIC
            found.preferred_until = found.valid_until = None
            if found.usable:
                found.settle(self.node.host.scheduler.now)
        if own.prefix_length < 128 and not ipv6.is_link_local(own.address):
            self.node.routes.add(address.network, None, self.interface)

    def remove_address(self, address: bytes) -> None:
        """Stop using an address; its network stays reachable while another address or a router's prefix is in it."""
        own = self.find(address)
        if own is None:
            return
        self.addresses.remove(own)
        self._unassign(own)
        own.attempt += 1
        self._leave_for(own)
        network = own.value.network
        if own.origin is Origin.STATIC and all(other.value.network != network for other in self.addresses):
            for route in [each for each in self.node.routes if each.network == network and each.gateway is None]:
                if route.interface is self.interface and route.metric == 0:
                    self.node.routes.remove(route)
        self.node.host.changed()

    def configure_itself(self) -> None:
        """Have addresses and routers from router advertisements from now on (RFC 4862, section 5.5)."""
        if self.autoconf is None:
            self.autoconf = Autoconfiguration(self)
            link_local = self.find(ipv6.link_local(self.mac))
            if link_local is not None and link_local.usable:
                self.autoconf.start()

    def add_auto(self, own: OwnAddress) -> None:
        """Take an address that was made from a router's prefix."""
        self._add(own)

    def find(self, address: bytes) -> OwnAddress | None:
        """Return the own address, whatever its state."""
        return next((own for own in self.addresses if own.address == address), None)

    @property
    def is_router(self) -> bool:
        """Tell whether it is a router's, as neighbors are told (RFC 4861, section 7.2.4)."""
        return self.router is not None

    @property
    def port(self) -> Port:
        """The interface's port, which may be replaced."""
        return self.interface.port

    @property
    def settled(self) -> bool:
        """Tell whether no address is being asked for; without a cable none is."""
        return not self.interface.up or all(own.state is not AddressState.TENTATIVE for own in self.addresses)

    def usable_addresses(self) -> list[IPv6Interface]:
        """List the addresses in use, link-local ones last."""
        found = [own for own in self.addresses if own.usable]
        return [own.value for own in sorted(found, key=lambda own: ipv6.is_link_local(own.address))]

    def source_for(self, destination: bytes) -> bytes | None:
        """Choose the address to talk to *destination* from."""
        return choose_source(self.addresses, destination)

    def reachable_time(self) -> Duration:
        """Draw how long a neighbor counts as reachable: half to one and a half of the base (RFC 4861, section 6.3.2)."""
        base = self.base_reachable
        return base // 2 + self.node.host.stream("ndp").below(base + 1)

    # Groups

    def join(self, group: bytes) -> None:
        """Receive what is sent to a group, and tell routers and snooping switches so."""
        self.groups[group] = self.groups.get(group, 0) + 1
        if self.groups[group] == 1:
            self.listener.changed(group, joined=True)

    def leave(self, group: bytes) -> None:
        """Stop receiving a group, once for each ``join``."""
        left = self.groups.get(group, 0) - 1
        if left > 0:
            self.groups[group] = left
        elif left == 0:
            del self.groups[group]
            self.listener.changed(group, joined=False)

    def is_group(self, address: bytes) -> bool:
        """Tell whether packets to this group are for us; everybody is in the group of all nodes."""
        return address == ALL_NODES or address in self.groups

    # What is sent

    def neighbor(self, address: bytes) -> Ipv6Neighbor:
        """Find the entry for an address on this link; groups have a permanent one."""
        if ipv6.is_multicast(address):
            return Ipv6Neighbor(self, address, multicast_mac(address))
        return self.neighbors.lookup(address)

    def send_discovery(self, message: ndp.Message, source: bytes, destination: bytes, mac: Mac | None = None) -> None:
        """Send a neighbor discovery message; without *mac* to the group's."""
        octets = ndp.encode(message).encode(source, destination)
        head = ipv6.build(source, destination, PROTOCOL_ICMPV6, len(octets), hop_limit=ndp.HOP_LIMIT)
        self.send_frame(mac or multicast_mac(destination), head + octets)

    def announce(self) -> None:
        """Advertise the addresses in use to everybody, who override what they knew (RFC 4861, section 7.2.6)."""
        for own in self.addresses:
            if own.usable:
                options = ndp.Options(target_mac=self.mac)
                self.send_discovery(
                    ndp.NeighborAdvertisement(own.address, self.is_router, False, True, options), own.address, ALL_NODES
                )

    def send_frame(self, mac: Mac, packet: bytes) -> None:
        """Send a packet to a MAC address."""
        self.port.send(mac + self.mac + ETHERTYPE_IPV6 + packet, NO_OFFLOAD)

    def solicit(self, target: bytes, asking: bytes | None, mac: Mac | None) -> None:
        """Ask who has *target*, everybody or only who had it at *mac* (RFC 4861, section 7.2.2)."""
        own = self.find(asking) if asking is not None else None
        source = own.address if own is not None and own.usable else self.source_for(target)
        if source is not None:
            message = ndp.NeighborSolicitation(target, ndp.Options(source_mac=self.mac))
            self.send_discovery(message, source, ipv6.solicited_node(target) if mac is None else target, mac)

    # Duplicate address detection (RFC 4862, section 5.4)

    def carrier(self, up: bool) -> None:
        """Ask for all addresses again when the cable is in; forget the neighbors when it is out."""
        if not up:
            self.neighbors.flush()
            if self.router is not None:
                self.router.lost()
            return
        self._start = self._draw_start()
        for own in self.addresses:
            self._unassign(own)
            self._ask(own)
        if self.autoconf is not None:
            self.autoconf.stop()  # it starts when the link-local address is there

    def taken(self, own: OwnAddress, mac: Mac) -> None:
        """Note that somebody else has an address that we asked for, and do without it (5.4.5)."""
        self._unassign(own)
        own.state = AddressState.DUPLICATE
        own.attempt += 1
        self._leave_for(own)
        host = self.node.host
        host.report_seldom("address-taken", interface=self.interface.name, address=text(own.address), by=format_mac(mac))
        host.changed()
        self.conflict(own.address, mac)

    def conflict(self, address: bytes, mac: Mac) -> None:
        """Tell whoever wants to know that somebody else uses an address of ours."""
        if self.interface.on_conflict is not None:
            self.interface.on_conflict(address, mac)

    def defended(self, own: OwnAddress, mac: Mac) -> None:
        """Note that somebody else speaks for an address in use (5.4.4): it stays, and the event log says so."""
        self.node.host.report_seldom(
            "address-conflict", interface=self.interface.name, address=text(own.address), by=format_mac(mac)
        )
        self.conflict(own.address, mac)

    def no_router(self, address: bytes) -> None:
        """Stop using a neighbor as a default router, because it says it is none (RFC 4861, section 7.3.3)."""
        if self.autoconf is not None:
            self.autoconf.forget_router(address)

    def router_lost(self, address: bytes) -> None:
        """Prefer other default routers to one that does not answer (RFC 4861, section 6.3.6)."""
        if self.autoconf is not None:
            self.autoconf.router_lost(address)

    def _draw_start(self) -> Instant:
        host = self.node.host
        return host.scheduler.now + host.stream("ndp").below(MAX_DELAY + 1)

    def _add(self, own: OwnAddress) -> None:
        self.addresses.append(own)
        if self.interface.up:
            self._ask(own)

    def _unassign(self, own: OwnAddress) -> None:
        if self.node.local.get(own.address) is self:
            del self.node.local[own.address]
            for other in self.node.sides():  # a VLAN sub-interface has its parent's link-local address
                twin = other.find(own.address) if other is not self else None
                if twin is not None and twin.usable:
                    self.node.local.setdefault(own.address, other)

    def _ask(self, own: OwnAddress) -> None:
        own.state = AddressState.TENTATIVE
        own.attempt += 1
        scheduler = self.node.host.scheduler
        start = max(scheduler.now, self._start) if self.transmits else scheduler.now
        if own.origin is Origin.AUTO:  # everybody heard the same advertisement (5.4.2)
            start += self.node.host.stream("ndp").below(MAX_DELAY + 1)
        scheduler.at(start, self._step, own, own.attempt, 0)

    def _step(self, own: OwnAddress, attempt: int, sent: int) -> None:
        if own.attempt != attempt or not self.interface.up:
            return
        scheduler = self.node.host.scheduler
        if sent == 0:
            self._join_for(own)
        if sent < self.transmits:
            target = own.address
            self.send_discovery(ndp.NeighborSolicitation(target), ipv6.ANY, ipv6.solicited_node(target))
            scheduler.at(scheduler.now + self.retransmit_time, self._step, own, attempt, sent + 1)
            return
        own.settle(scheduler.now)
        self.node.local.setdefault(own.address, self)
        if own.origin is Origin.LINK_LOCAL:
            self.listener.announce()
            if self.autoconf is not None:
                self.autoconf.start()
            if self.router is not None:
                self.router.ready()
        self.node.host.changed()

    def _join_for(self, own: OwnAddress) -> None:
        if not own.joined:
            own.joined = True
            self.join(ipv6.solicited_node(own.address))

    def _leave_for(self, own: OwnAddress) -> None:
        if own.joined:
            own.joined = False
            self.leave(ipv6.solicited_node(own.address))
