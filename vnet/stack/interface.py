"""One interface of a host: its port, MAC address, IPv4 addresses and neighbors; it takes frames and sorts them.

``receive`` is on the frame path: IPv4 for this interface goes to ``host.on_ipv4``, ARP that concerns nobody here is let go
after two looks at the addresses, which matters on a LAN of a thousand hosts.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, final

from vnet.addresses import BROADCAST, ZERO_MAC, format_mac, multicast_mac
from vnet.errors import UsageError, WireError
from vnet.ports import NO_OFFLOAD, Handler, Port
from vnet.stack.bonded_nics import BondedNics
from vnet.stack.conflict import ConflictDetector
from vnet.stack.ipv6.interface import Ipv6Interface
from vnet.stack.neighbor import Neighbor, NeighborCache
from vnet.stack.vlan import VlanTable, receive_tagged
from vnet.wire import arp, ipv4, udp
from vnet.wire.ethernet import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN
from vnet.wire.ipv4 import ALL_HOSTS, ANY, LIMITED_BROADCAST, PROTOCOL_UDP, text
from vnet.wire.ipv6 import MIN_MTU

if TYPE_CHECKING:
    from vnet.stack.host import Host


@final
class Interface:
    """An Ethernet interface.

    ``address`` is the first IPv4 address as packed octets, or None. ``on_conflict(address, mac)`` is called when somebody
    else uses one of our addresses, ``on_link(up)`` when the cable goes up or down. ``ignored`` counts the frames that are
    none of our business: ARP among others, flooded unicast frames. ``parent`` is the interface that a VLAN sub-interface
    lies on, else None; ``vlans`` are the sub-interfaces on this one, ``nics`` those of a bond, if there are any.
    """

    __slots__ = (
        "_conflicts", "_groups", "_listeners", "_was_up", "address", "addresses", "broadcasts", "host", "ignored", "ipv6",
        "mac", "mtu", "name", "neighbors", "nics", "on_conflict", "on_link", "parent", "port", "vlans", "watched",
    )  # fmt: skip

    def __init__(self, host: Host, name: str, mac: bytes, mtu: int) -> None:
        self.host = host
        self.name = name
        self.mac = mac
        self.mtu = mtu
        self.address: bytes | None = None
        self.addresses: tuple[IPv4Interface, ...] = ()
        self.broadcasts: tuple[bytes, ...] = (LIMITED_BROADCAST,)
        self.watched: dict[bytes, None] = {}  # what an ARP packet must mention to be looked at
        self.neighbors = NeighborCache(self)
        self.ipv6: Ipv6Interface | None = None
        self.on_conflict: Callable[[bytes, bytes], None] | None = None
        self.on_link: Callable[[bool], None] | None = None
        self.ignored = 0
        self.parent: Interface | None = None
        self.vlans: VlanTable | None = None
        self.nics: BondedNics | None = None
        self._was_up = False
        self._listeners: tuple[Handler, ...] = ()
        self._groups: tuple[bytes, ...] = (ALL_HOSTS,)
        self._conflicts: ConflictDetector | None = None
        self.port = Port(f"{host.name}:{name}", self.receive)
        self.port.on_carrier = self._carrier

    @property
    def up(self) -> bool:
        """Tell whether a cable is plugged in and up."""
        return self.port.carrier

    def adopt(self, port: Port) -> None:
        """Go on with a port that is plugged in already: a host that starts again finds its cables as they are."""
        port.on_carrier = self._carrier
        port.set_handler(self.handler)
        self.port = port
        if self.vlans is not None:
            self.vlans.carrier(port.carrier)

    def abandon(self) -> None:
        """Leave the port to whoever adopts it; from now on nothing is heard, and nothing that is sent gets out."""
        self.port.set_handler(_nowhere)
        self.port.on_carrier = None
        self.port = Port(self.port.name, _nowhere)

    def announce_addresses(self) -> None:
        """Have neighbors and switches learn where our addresses are now, those of sub-interfaces too: once, by ARP
        announcements (RFC 5227, 2.3) and unsolicited neighbor advertisements (RFC 4861, 7.2.6)."""
        for address in self.addresses:
            self.send(arp.request_frame(self.mac, address.ip.packed, address.ip.packed))
        if self.ipv6 is not None:
            self.ipv6.announce()
        for member in self.vlans.members.values() if self.vlans is not None else ():
            member.announce_addresses()

    def announce_groups(self) -> None:
        """Tell of all groups that are listened to, here and on sub-interfaces, because the switch port is another one."""
        self.host.groups.announce(self)
        if self.ipv6 is not None:
            self.ipv6.listener.announce()
        for member in self.vlans.members.values() if self.vlans is not None else ():
            member.announce_groups()

    def receive(self, frame: bytes, offload: bytes) -> None:
        """Take a frame from the cable."""
        kind = frame[12:14]
        if kind == ETHERTYPE_IPV4:
            if frame[:6] == self.mac or frame[0] & 1:
                self.host.on_ipv4(self, frame, offload)
            else:
                self.ignored += 1
        elif kind == ETHERTYPE_ARP:
            if frame[38:42] in self.watched or frame[28:32] in self.watched:
                self._receive_arp(frame)
            else:
                self.ignored += 1
        elif kind == ETHERTYPE_IPV6:
            if self.ipv6 is not None:
                self.ipv6.node.on_frame(self, frame, offload)
            else:
                self.host.drop("ipv6")
        elif kind == ETHERTYPE_VLAN:
            receive_tagged(self, frame, offload)
        else:
            self.host.drop("ethertype" if len(kind) == 2 else "short-frame")

    @property
    def handler(self) -> Handler:
        """What the port does with frames that arrive: ``receive``, which nobody who listens makes slower for others."""
        return self._receive_heard if self._listeners else self.receive

    def listen(self, on_frame: Handler) -> None:
        """Hand each frame that arrives to *on_frame* as well, whomever it is for, before the stack takes it."""
        self._listeners += (on_frame,)
        self.port.set_handler(self.handler)

    def unlisten(self, on_frame: Handler) -> None:
        """Stop that; who does not listen is let be."""
        self._listeners = tuple(other for other in self._listeners if other != on_frame)
        self.port.set_handler(self.handler)

    def _receive_heard(self, frame: bytes, offload: bytes) -> None:
        for on_frame in self._listeners:
            on_frame(frame, offload)
        self.receive(frame, offload)

    def send(self, frame: bytes) -> None:
        """Send a plain frame as it is."""
        self.port.send(frame, NO_OFFLOAD)

    def neighbor(self, address: bytes) -> Neighbor:
        """Find the entry for an address on this link; broadcast and groups have a permanent one."""
        if address in self.broadcasts:
            return Neighbor(self, address, BROADCAST)
        if ipv4.is_multicast(address):
            return Neighbor(self, address, multicast_mac(address))
        return self.neighbors.lookup(address)

    def send_udp_raw(
        self, destination_mac: bytes, source: bytes, destination: bytes, source_port: int, destination_port: int,
        payload: bytes, ttl: int = ipv4.DEFAULT_TTL,
    ) -> None:  # fmt: skip
        """Send a datagram with every address given: for DHCP, which talks before there are any."""
        datagram = udp.build(source, destination, source_port, destination_port, payload)
        head = ipv4.build(source, destination, PROTOCOL_UDP, len(datagram), ttl=ttl, ident=self.host.next_ident())
        packet = head + datagram
        parts = [packet] if len(packet) <= self.mtu else ipv4.fragment(packet, self.mtu)
        for part in parts:
            self.send(destination_mac + self.mac + ETHERTYPE_IPV4 + part)

    # Addresses

    def enable_ipv6(self) -> Ipv6Interface:
        """Speak IPv6 from now on: with a link-local address, and whatever is added to what this returns.

        Raise UsageError if the MTU is below the 1280 octets that every IPv6 link has (RFC 8200, section 5).
        """
        if self.ipv6 is None:
            if self.mtu < MIN_MTU:
                raise UsageError(f"{self.port.name} has an MTU of {self.mtu}; IPv6 needs at least {MIN_MTU}")
            self.ipv6 = Ipv6Interface(self.host.use_ipv6(), self)
        return self.ipv6

    def add_address(self, address: IPv4Interface) -> None:
        """Use an address from now on, and reach its network by this interface; one that is there already is left alone."""
        if address in self.addresses:
            return
        self.addresses += (address,)
        self._readdress()
        if address.network.prefixlen < 32:
            self.host.routes.add(address.network, None, self)
        self.host.changed()

    def remove_address(self, address: IPv4Interface) -> None:
        """Stop using an address; with the last one all routes by this interface go."""
        if address not in self.addresses:
            return
        self.addresses = tuple(other for other in self.addresses if other != address)
        self._readdress()
        self.unwatch(address.ip.packed)
        routes = self.host.routes
        if not self.addresses:
            routes.remove_interface(self)
        elif all(other.network != address.network for other in self.addresses):
            for route in list(routes):
                connected = route.network == address.network and route.gateway is None
                if route.interface is self and connected:
                    routes.remove(route)
        self.host.changed()

    def owns(self, address: bytes) -> bool:
        """Tell whether this is one of the interface's own addresses."""
        return self.host.local.get(address) is self

    def source_for(self, destination: bytes) -> bytes | None:
        """Choose the own address to talk to a neighbor with: one in its subnet, or else the first."""
        for candidate in self.addresses:
            mask = int(candidate.netmask)
            if int(candidate.ip) & mask == int.from_bytes(destination, "big") & mask:
                return candidate.ip.packed
        return self.address

    def join(self, group: bytes) -> None:
        """Receive what is sent to a multicast group."""
        if group not in self._groups:
            self._groups += (group,)

    def leave(self, group: bytes) -> None:
        """Stop receiving a group."""
        self._groups = tuple(other for other in self._groups if other != group)

    def is_group(self, address: bytes) -> bool:
        """Tell whether packets to this broadcast or group address are for us."""
        return address in self.broadcasts or address in self._groups

    def _readdress(self) -> None:
        self.address = self.addresses[0].ip.packed if self.addresses else None
        directed = (a.network.broadcast_address.packed for a in self.addresses if a.network.prefixlen < 31)
        self.broadcasts = (LIMITED_BROADCAST, *dict.fromkeys(directed))
        local = self.host.local
        for address in [address for address, owner in local.items() if owner is self]:
            del local[address]
        for own in self.addresses:
            packed = own.ip.packed
            local.setdefault(packed, self)
            self.watched[packed] = None

    # Conflicts (RFC 5227)

    def probe(self, address: bytes, done: Callable[[bool], None]) -> None:
        """Find out whether somebody else has *address*; *done* gets True if so. Takes 4 to 7 s when nobody answers."""
        self._detector().probe(address, done)

    def cancel_probe(self, address: bytes) -> None:
        """Stop a probe; its *done* is not called."""
        if self._conflicts is not None:
            self._conflicts.cancel(address)

    def announce(self, address: bytes) -> None:
        """Tell the link that *address* is ours, so that others renew what they remember."""
        self._detector().announce(address)

    def claim(self, address: IPv4Interface, done: Callable[[bool], None] | None = None) -> None:
        """Probe for an address, and use and announce it if it is free; *done* gets True if it is taken."""

        def decided(conflict: bool) -> None:
            if not conflict:
                self.add_address(address)
                self.announce(address.ip.packed)
            if done is not None:
                done(conflict)

        self.probe(address.ip.packed, decided)

    def conflict(self, address: bytes, mac: bytes) -> None:
        """Note that somebody else uses our address."""
        self.host.report_seldom("address-conflict", interface=self.name, address=text(address), by=format_mac(mac))
        if self.on_conflict is not None:
            self.on_conflict(address, mac)

    def unwatch(self, address: bytes) -> None:
        """Let ARP that mentions *address* go, unless something still waits for it."""
        probing = self._conflicts is not None and self._conflicts.probing(address)
        if not (probing or self.owns(address) or address in self.neighbors.entries):
            self.watched.pop(address, None)

    def _detector(self) -> ConflictDetector:
        if self._conflicts is None:
            self._conflicts = ConflictDetector(self)
        return self._conflicts

    def _receive_arp(self, frame: bytes) -> None:
        """Process an ARP packet in the order of RFC 826, "Packet Reception"."""
        try:
            packet = arp.decode(frame)
        except WireError:
            self.host.drop("arp-malformed")
            return
        to_us = frame[:6] == self.mac
        sender_mac = packet.sender_mac
        if sender_mac == self.mac or not (to_us or frame[0] & 1):
            self.ignored += 1
            return
        if sender_mac[0] & 1 or sender_mac == ZERO_MAC or packet.operation not in (arp.REQUEST, arp.REPLY):
            self.host.drop("arp-malformed")
            return
        ours = self.owns(packet.target)
        self._detect_conflict(packet)
        if packet.sender != ANY and not self.owns(packet.sender) and ipv4.may_be_source(packet.sender):
            entry = self.neighbors.entries.get(packet.sender)
            if entry is None and ours and packet.operation == arp.REQUEST:
                entry = self.neighbors.lookup(packet.sender)
            if entry is not None:
                entry.heard(sender_mac, confirmed=to_us and packet.operation == arp.REPLY)
        if ours and packet.operation == arp.REQUEST:
            self.send(arp.reply_frame(self.mac, packet.target, sender_mac, packet.sender))

    def _detect_conflict(self, packet: arp.Arp) -> None:
        if self._conflicts is not None:
            self._conflicts.receive(packet)
        elif packet.sender != ANY and self.owns(packet.sender):
            self._detector().receive(packet)

    def _carrier(self, up: bool) -> None:
        if not up:
            self.neighbors.flush()
        if self.ipv6 is not None:
            self.ipv6.carrier(up)
        if self._was_up:  # the first cable is no news: a lab that starts plugs in a thousand of them
            self.host.report("link", interface=self.name, up=up)
        self._was_up = True
        if up:
            self.host.groups.announce(self)
        self.host.changed()
        if self.on_link is not None:
            self.on_link(up)
        if self.vlans is not None:
            self.vlans.carrier(up)


def _nowhere(frame: bytes, offload: bytes) -> None:
    """Stand for a node that does not listen."""
