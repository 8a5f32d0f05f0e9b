"""An emulated host: interfaces, neighbors, routes, IPv4, ICMP, UDP, TCP; no task, no clock, no randomness of its own.

A frame comes in by ``Interface.receive``, which hands IPv4 to ``on_ipv4``: normally ``deliver_ipv4`` here, in a router the
router's, which calls ``deliver_ipv4`` for what is meant for the router itself. What this host says goes through
``send_ipv4`` or, faster, a ``UdpSocket``.

Addresses on this level are packed octets. Callbacks run within the event that caused them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import TYPE_CHECKING, Final, final

from vnet.errors import UsageError
from vnet.ports import NO_OFFLOAD, Port, Randomness, Report, ReportLimit, Scheduler, no_report
from vnet.stack.bond import MAX_MEMBERS, BondConfig
from vnet.stack.bonded_nics import BondedNics
from vnet.stack.echo import OnResult
from vnet.stack.icmp import Icmp
from vnet.stack.igmp import GroupTable
from vnet.stack.interface import Interface
from vnet.stack.ip import Ipv4Input
from vnet.stack.ipv6.node import Ipv6Node
from vnet.stack.routes import RouteTable
from vnet.stack.tcp import OnProbe, TcpTable
from vnet.stack.transport import IcmpError, Transport
from vnet.stack.udp import OnDatagram, UdpSocket, UdpTable
from vnet.stack.vlan import VlanTable
from vnet.units import SECOND, Duration, Rate
from vnet.wire import icmpv4, ipv4
from vnet.wire.ethernet import DEFAULT_MTU
from vnet.wire.ethernet import HEADER_OCTETS as ETHERNET_OCTETS
from vnet.wire.ipv4 import (
    DONT_FRAGMENT,
    LIMITED_BROADCAST,
    MORE_FRAGMENTS,
    OFFSET_MASK,
    PROTOCOL_ICMP,
    PROTOCOL_IGMP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
)
from vnet.wire.virtio_net import UDP_CHECKSUM

if TYPE_CHECKING:
    from vnet.stack.neighbor import Neighbor

_FRAGMENT: Final = MORE_FRAGMENTS | OFFSET_MASK
_UDP_PAYLOAD: Final = 42
"""Where the payload of a datagram starts in a frame without IPv4 options."""
_peek: Final = Struct("!BxHxxHxB14xH").unpack_from
"""Reads version and IHL, total length, fragment word, protocol, UDP length."""
_from_bytes: Final = int.from_bytes


@final
class Host:
    """A host's IPv4 stack.

    ``local`` maps the host's own IPv4 addresses to their interfaces; ``ipv6`` is None as long as it has no use. ``drops``
    counts by reason what was not taken, ``delivered`` what was. ``on_ipv4(interface, frame, offload)`` gets every IPv4 frame
    for an interface's MAC address or a group. ``on_unresolved(interface, packet)`` gets each packet whose next hop did not
    answer. ``on_change`` is called after addresses, routes or a carrier changed. A ``transparent`` host takes packets to any
    address for its own: for whoever ends the connections of others, as ``TcpTable.foreign`` lets one do.
    """

    __slots__ = (
        "_drawn", "_input", "_limit", "_streams", "delivered", "drops", "groups", "icmp", "ident", "interfaces", "ipv6",
        "local", "name", "on_change", "on_ipv4", "on_unresolved", "protocols", "report", "routes", "scheduler", "tcp",
        "transparent", "udp",
    )  # fmt: skip

    def __init__(
        self, name: str, scheduler: Scheduler, streams: Callable[[str], Randomness], report: Report = no_report
    ) -> None:
        """Make a host without interfaces; *streams* makes its random stream for a purpose, the same for the same name."""
        self.name = name
        self.scheduler = scheduler
        self.report = report
        self.interfaces: dict[str, Interface] = {}
        self.local: dict[bytes, Interface] = {}
        self.drops: dict[str, int] = {}
        self.delivered = 0
        self.transparent = False
        self.ident = 0
        self.icmp = Icmp(self)
        self.udp = UdpTable(self)
        self.tcp = TcpTable(self)
        self.groups = GroupTable(self)
        self.protocols: dict[int, Transport] = {
            PROTOCOL_ICMP: self.icmp, PROTOCOL_UDP: self.udp, PROTOCOL_TCP: self.tcp, PROTOCOL_IGMP: self.groups,
        }  # fmt: skip
        self.routes = RouteTable(self.changed)
        self.ipv6: Ipv6Node | None = None
        self.on_change: Callable[[], None] | None = None
        self.on_ipv4: Callable[[Interface, bytes, bytes], None] = self.deliver_ipv4
        self.on_unresolved: Callable[[Interface, bytes], None] = self.undeliverable
        self._streams = streams
        self._drawn: dict[str, Randomness] | None = None
        self._input = Ipv4Input(self)
        self._limit = ReportLimit(report)

    def __repr__(self) -> str:
        return f"<Host {self.name}>"

    # Configuration

    def add_interface(self, name: str, mac: bytes, mtu: int = DEFAULT_MTU) -> Interface:
        """Add an interface; its ``port`` is then to be plugged in. Raise UsageError if the name is taken."""
        if name in self.interfaces or name in self.nics:
            raise UsageError(f"{self.name} has an interface {name} already")
        interface = self.interfaces[name] = Interface(self, name, mac, mtu)
        return interface

    def remove_interface(self, name: str) -> None:
        """Take an interface without sub-interfaces away, with its addresses and routes; nothing is heard by it any more."""
        interface = self.interfaces[name]
        for address in list(interface.addresses):
            interface.remove_address(address)
        if interface.ipv6 is not None:
            for own in list(interface.ipv6.addresses):
                interface.ipv6.remove_address(own.value.ip.packed)
        if self.ipv6 is not None:
            self.ipv6.routes.remove_interface(interface)
        interface.neighbors.flush()
        self.groups.forget(interface)
        interface.abandon()
        del self.interfaces[name]
        self.changed()

    def add_vlan(self, parent: Interface, vid: int, name: str = "") -> Interface:
        """Add a sub-interface for the frames of *parent* that are tagged with *vid*, 1 to 4094; *name* or ``eth0.16``.

        It has the parent's MAC address and MTU, and its carrier. Raise UsageError if name or VID are taken, or the parent
        is a sub-interface itself: there is no stacking of tags.
        """
        if parent.parent is not None:
            raise UsageError(f"{parent.port.name} is a VLAN sub-interface: it cannot have one itself")
        if parent.vlans is None:
            parent.vlans = VlanTable(parent)
        parent.vlans.check(vid)
        made = self.add_interface(name or f"{parent.name}.{vid}", parent.mac, parent.mtu)
        made.parent = parent
        parent.vlans.add(vid, made)
        return made

    def add_bond(
        self, name: str, mac: bytes, members: Mapping[str, Rate | None], config: BondConfig, mtu: int = DEFAULT_MTU
    ) -> Interface:
        """Add an interface that is a bond of several NICs, by name with their rates in bit/s; their ports are in ``nics``.

        Raise UsageError if a name is taken, or there are too few members or too many.
        """
        if not 2 <= len(members) <= MAX_MEMBERS:
            raise UsageError(f"a bond has 2 to {MAX_MEMBERS} members, not {len(members)}")
        taken = [each for each in members if each in self.nics or each in self.interfaces or each == name]
        if taken:
            raise UsageError(f"{self.name} has an interface {taken[0]} already")
        made = self.add_interface(name, mac, mtu)
        made.nics = BondedNics(made, config, members)
        return made

    @property
    def nics(self) -> dict[str, Port]:
        """The ports that have cables, by name: a bond has those of its members, a sub-interface none."""
        found: dict[str, Port] = {}
        for each in self.interfaces.values():
            if each.parent is None:
                found |= {each.name: each.port} if each.nics is None else each.nics.ports
        return found

    def abandon_nics(self) -> None:
        """Leave the cables to a host that comes after this one: nothing is heard or said any more."""
        for interface in self.interfaces.values():
            if interface.nics is not None:
                interface.nics.abandon()
            interface.abandon()

    def adopt_nics(self, ports: Mapping[str, Port]) -> None:
        """Go on with ports that are plugged in already, by NIC: a host that starts again finds its cables as they are."""
        for interface in self.interfaces.values():
            if interface.nics is not None:
                interface.nics.adopt(ports)
            elif interface.parent is None:
                interface.adopt(ports[interface.name])

    def use_ipv6(self) -> Ipv6Node:
        """Return the host's IPv6 side, made when first asked for; it does nothing until an interface has IPv6."""
        if self.ipv6 is None:
            self.ipv6 = Ipv6Node(self)
        return self.ipv6

    def changed(self) -> None:
        """Forget what was cached, because addresses, routes or a carrier changed."""
        self.udp.forget_paths()
        self.tcp.forget_paths()
        if self.on_change is not None:
            self.on_change()

    def stream(self, purpose: str) -> Randomness:
        """Return this host's random stream for a purpose."""
        if self._drawn is None:
            self._drawn = {}
        stream = self._drawn.get(purpose)
        if stream is None:
            stream = self._drawn[purpose] = self._streams(purpose)
        return stream

    def drop(self, reason: str) -> None:
        """Count something that was not taken."""
        self.drops[reason] = self.drops.get(reason, 0) + 1

    def report_seldom(self, kind: str, **fields: str | int | bool | None) -> None:
        """Report what others on the link can bring about as often as they like; too many are left out (``ReportLimit``)."""
        self._limit.report(self.scheduler.now, kind, **fields)

    # In

    def deliver_ipv4(self, interface: Interface, frame: bytes, offload: bytes) -> None:
        """Take an IPv4 frame that is meant for this host; datagrams of a known UDP flow go the short way."""
        known = self.udp.flows.get(frame[26:38])
        size = len(frame)
        if known is not None and size >= _UDP_PAYLOAD:
            first, total, word, protocol, length = _peek(frame, ETHERNET_OCTETS)
            if (
                first == 0x45
                and protocol == PROTOCOL_UDP
                and not word & _FRAGMENT
                and total == size - ETHERNET_OCTETS
                and length == total - ipv4.HEADER_OCTETS
                and not _from_bytes(frame[14:34], "big") % 0xFFFF
                and (offload == UDP_CHECKSUM or (offload == NO_OFFLOAD and _is_udp_sum_right(frame, length)))
            ):
                self.delivered += 1
                socket, source = known
                socket.on_datagram(frame[_UDP_PAYLOAD:], source)
                return
        self._input.receive(interface, frame, offload)

    def is_local(self, address: bytes) -> bool:
        """Tell whether packets to this address stay in the host."""
        return address in self.local or address[0] == 127

    def is_group(self, address: bytes) -> bool:
        """Tell whether the address is a group or the broadcast address of one of the interfaces."""
        if ipv4.is_multicast(address):
            return True
        return any(address in interface.broadcasts for interface in self.interfaces.values())

    # Out

    def next_ident(self) -> int:
        """Draw the next packet identification."""
        self.ident = (self.ident + 1) & 0xFFFF
        return self.ident

    def any_address(self) -> bytes | None:
        """Return the first address of the first interface that has one."""
        return next((i.address for i in self.interfaces.values() if i.address is not None), None)

    def source_for(self, destination: bytes) -> bytes | None:
        """Choose the address to talk to *destination* from, or None if it cannot be reached."""
        if self.is_local(destination):
            return destination
        hop = self.next_hop(destination)
        return (hop[0].source_for(hop[1].address) or self.any_address()) if hop is not None else None

    def next_hop(self, destination: bytes, interface: Interface | None = None) -> tuple[Interface, Neighbor] | None:
        """Find the interface and the neighbor that packets to *destination* are handed to, or None without a route.

        They leave by *interface* if one is given. May be kept until ``on_change`` is called: write
        ``neighbor.header + packet`` to the interface's port, or call ``neighbor.send`` while the header is None.
        """
        route = self.routes.lookup(destination, interface)
        if route is not None and destination != LIMITED_BROADCAST:
            direct = route.gateway is None or ipv4.is_multicast(destination)  # groups are not behind one neighbor
            hop = destination if direct or route.gateway is None else route.gateway
            return route.interface, route.interface.neighbor(hop)
        if interface is None and self.is_group(destination):
            every = self.interfaces.values()  # a trunk's NIC may have no address, and its sub-interfaces have
            interface = next((each for each in every if each.address is not None), next(iter(every), None))
        return (interface, interface.neighbor(destination)) if interface is not None else None

    def send_ipv4(
        self, destination: bytes, protocol: int, payload: bytes, *, source: bytes | None = None,
        interface: Interface | None = None, ttl: int = ipv4.DEFAULT_TTL, tos: int = 0, dont_fragment: bool = False,
    ) -> str | None:  # fmt: skip
        """Send a packet, in fragments if it must be; return None, or why it could not be sent.

        A packet that finds no neighbor is accepted here, and comes back through ``Transport.error`` after 3 s.
        """
        local = self.is_local(destination)
        hop = None if local else self.next_hop(destination, interface)
        if hop is None and not local:
            return "no route"
        if source is None:
            source = destination if hop is None else hop[0].source_for(hop[1].address) or self.any_address()
            if source is None:
                return "no address"
        if len(payload) > ipv4.MAX_PACKET - ipv4.HEADER_OCTETS:
            return "message too long"
        word = DONT_FRAGMENT if dont_fragment else 0
        head = ipv4.build(
            source, destination, protocol, len(payload), ttl=ttl, tos=tos, ident=self.next_ident(), fragment_word=word
        )
        if hop is None:
            self.scheduler.soon(self._input.loop, head + payload)
            return None
        return self._hand_over(hop[0], hop[1], head + payload)

    def loop_group(self, interface: Interface, packet: bytes) -> None:
        """Take a packet that was sent to a group which the host itself listens to on *interface* (RFC 1112, 6.1)."""
        self.scheduler.soon(self._input.loop_group, interface, packet)

    def _hand_over(self, interface: Interface, neighbor: Neighbor, packet: bytes) -> str | None:
        if len(packet) <= interface.mtu:
            neighbor.send(packet, NO_OFFLOAD)
            return None
        if packet[6] & 0x40:
            return "fragmentation needed"
        for part in ipv4.fragment(packet, interface.mtu):
            neighbor.send(part, NO_OFFLOAD)
        return None

    def send_icmp_error(
        self, interface: Interface, packet: bytes, kind: int, code: int, *, rest: int = 0, group: bool = False,
        reporter: bytes | None = None,
    ) -> None:  # fmt: skip
        """Tell the sender of a *packet* that came in by *interface* what became of it, if that may be told.

        Type *kind*, *code* and *rest* are those of its IP version; *reporter* says so, else this host.
        """
        icmp = self.icmp if packet[0] >> 4 == 4 else self.use_ipv6().icmp
        icmp.send_error(interface, packet, kind, code, rest=rest, group=group, reporter=reporter)

    def undeliverable(self, interface: Interface, packet: bytes) -> None:
        """Deal with a packet whose next hop on *interface* does not answer: tell whoever sent it."""
        self.drop("no-neighbor")
        source = packet[12:16]
        if source in self.local:
            error = IcmpError(icmpv4.UNREACHABLE, icmpv4.HOST_UNREACHABLE, source, "host unreachable")
            self.icmp.dispatch(packet, error)
        else:
            self.icmp.send_error(interface, packet, icmpv4.UNREACHABLE, icmpv4.HOST_UNREACHABLE)

    # What programs ask for

    def udp_bind(
        self, port: int = 0, address: bytes | None = None, interface: Interface | None = None, *, on_datagram: OnDatagram,
        shared: bool = False, both: bool = False,
    ) -> UdpSocket:  # fmt: skip
        """Open a UDP socket; port 0 picks a free one. Bound to an *interface* without address it takes what comes to its
        port whatever the destination. Without address it is for IPv4 alone unless *both* is set, with ``::`` for IPv6 alone.
        *shared* lets others that are too have the same port. Raise UsageError if the port is taken."""
        socket = self.udp.bind(port, address, interface, on_datagram, shared=shared)
        socket.both = both
        return socket

    def ping(
        self, destination: bytes, *, on_result: OnResult, size: int = 56, ttl: int = ipv4.DEFAULT_TTL,
        timeout: Duration = SECOND, source: bytes | None = None, dont_fragment: bool = False,
        interface: Interface | None = None,
    ) -> None:  # fmt: skip
        """Send one echo request with *size* octets of data and tell *on_result* what became of it; a link-local address is
        one on the link of *interface*."""
        if len(destination) == 16:
            self.use_ipv6().icmp.ping(
                destination, size, ttl, timeout, on_result, source=source, dont_fragment=dont_fragment, interface=interface
            )
            return
        self.icmp.ping(destination, size, ttl, timeout, on_result, source=source, dont_fragment=dont_fragment)

    def tcp_probe(
        self, destination: bytes, port: int, *, on_result: OnProbe, timeout: Duration = SECOND,
        interface: Interface | None = None,
    ) -> None:  # fmt: skip
        """Find out whether a TCP port is open, refused or silent; a link-local address is one on the link of *interface*."""
        self.tcp.probe(destination, port, timeout, on_result, interface)


def _is_udp_sum_right(frame: bytes, length: int) -> bool:
    """Verify the checksum of a datagram of *length* octets at the end of a frame whose IPv4 header has no options."""
    summed = frame[26:] if not length & 1 else frame[26:] + b"\x00"  # addresses and datagram: what UDP sums
    return not (_from_bytes(summed, "big") + PROTOCOL_UDP + length) % 0xFFFF
