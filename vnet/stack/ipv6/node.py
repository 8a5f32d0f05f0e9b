"""The IPv6 side of a host (RFC 8200): what comes in is checked and handed to a transport, what goes out finds its way.

One ``Ipv6Node`` serves all interfaces of a host. Addresses are packed octets. A link-local destination says nothing about
its link: unless the sender names an interface, the first one with IPv6 is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, final

from vnet.errors import WireError
from vnet.ports import NO_OFFLOAD
from vnet.stack.ipv6.icmp import Icmpv6
from vnet.stack.ipv6.paths import PathMtus
from vnet.stack.ipv6.reassembly import Ipv6Reassembler
from vnet.stack.ipv6.udp import Ipv6Udp
from vnet.stack.routes import RouteTable
from vnet.stack.tcp.over_ipv6 import OverIpv6
from vnet.stack.transport import IcmpError
from vnet.wire import icmpv6, ipv6
from vnet.wire.ethernet import HEADER_OCTETS as ETHERNET_OCTETS
from vnet.wire.ipv6 import FRAGMENT, NO_NEXT_HEADER, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP
from vnet.wire.segmentation import complete
from vnet.wire.virtio_net import DATA_VALID, GSO_TCPV6, NEEDS_CSUM, is_super, is_tcp_super

if TYPE_CHECKING:
    from vnet.ports import Alarm
    from vnet.stack.host import Host
    from vnet.stack.interface import Interface
    from vnet.stack.ipv6.interface import Ipv6Interface
    from vnet.stack.ipv6.neighbor import Ipv6Neighbor

_PAYLOAD_LENGTH_AT: Final = 4
_OFFSET_AT: Final = 2
"""Where a parameter problem points: in the fixed header, in the fragment header."""

_TCP_AT: Final = ETHERNET_OCTETS + ipv6.HEADER_OCTETS
_ADVERTISEMENT: Final = bytes((icmpv6.NEIGHBOR_ADVERTISEMENT,))


class Ipv6Transport(Protocol):
    """A protocol above IPv6."""

    def receive(self, interface: Interface, packet: bytes, offset: int, *, trusted: bool, group: bool) -> None:
        """Take a whole packet sent to this host; the transport's header is at *offset*. The rest as in ``Transport``."""

    def error(self, quoted: bytes, offset: int, error: IcmpError) -> bool:
        """Take an error about a packet of ours, of which *quoted* has the headers and at least 8 octets behind *offset*;
        tell whether anybody was concerned."""


@final
class Ipv6Node:
    """What a host needs for IPv6; made by ``Host.use_ipv6``.

    ``local`` maps the addresses in use to their interfaces. ``protocols`` are the transports by number: a packet for any
    other is answered by "unrecognized next header". ``on_frame(interface, frame, offload)`` gets every frame with IPv6.
    """

    __slots__ = (
        "_alarm", "_ident", "_reassembler", "host", "icmp", "local", "on_frame", "paths", "protocols", "routes", "tcp",
        "udp",
    )  # fmt: skip

    def __init__(self, host: Host) -> None:
        self.host = host
        self.local: dict[bytes, Ipv6Interface] = {}
        self.on_frame: Callable[[Interface, bytes, bytes], None] = self.receive
        self.routes = RouteTable(host.changed)
        self.paths = PathMtus()
        self.icmp = Icmpv6(self)
        self.udp = Ipv6Udp(self)
        self.tcp = OverIpv6(host.tcp, self)
        self.protocols: dict[int, Ipv6Transport] = {
            PROTOCOL_ICMPV6: self.icmp, PROTOCOL_UDP: self.udp, PROTOCOL_TCP: self.tcp,
        }  # fmt: skip
        self._ident: int | None = None
        self._reassembler: Ipv6Reassembler | None = None
        self._alarm: Alarm | None = None

    # In

    def receive(self, interface: Interface, frame: bytes, offload: bytes) -> None:
        """Take a frame with EtherType IPv6; drop and count it if anything is wrong."""
        if frame[:6] != interface.mac and not frame[0] & 1:
            interface.ignored += 1
            return
        trusted = False
        if offload != NO_OFFLOAD:
            if len(offload) != len(NO_OFFLOAD):
                self.host.drop("offload-malformed")
                return
            if is_super(offload):
                is_plain = len(frame) >= _TCP_AT and frame[20] == PROTOCOL_TCP  # else it is cut, or found to be a lie
                if is_plain and is_tcp_super(offload, GSO_TCPV6, _TCP_AT):
                    self._packet(interface, frame, True)
                    return
                try:
                    frames = complete(frame, offload)
                except WireError:
                    self.host.drop("offload-malformed")
                    return
                for part in frames:
                    self._packet(interface, part, False)
                return
            trusted = bool(offload[0] & (NEEDS_CSUM | DATA_VALID))
        self._packet(interface, frame, trusted)

    def _packet(self, interface: Interface, frame: bytes, trusted: bool) -> None:
        side = interface.ipv6
        if side is None:
            return
        packet = frame[ETHERNET_OCTETS:]
        try:
            packet = packet[: ipv6.packet_octets(packet)]
        except WireError:
            self.host.drop("ipv6-malformed")
            return
        source, destination, group = packet[8:24], packet[24:40], bool(frame[0] & 1)
        if frame[6:12] == interface.mac:
            interface.ignored += 1  # our own, sent back to us: no sign of a duplicate (RFC 4862, 5.4.3)
            return
        if not ipv6.may_be_source(source) or (source in self.local and not _is_claim(packet)):
            self.host.drop("ipv6-source")
            return
        if ipv6.is_multicast(destination):
            if not side.is_group(destination):
                interface.ignored += 1
                return
        elif not self._is_ours(side, destination, group=group):
            self.host.drop("ipv6-not-ours")
            return
        self._unwrap(interface, packet, frame[6:12], trusted=trusted, group=group)

    def _is_ours(self, side: Ipv6Interface, destination: bytes, *, group: bool) -> bool:
        if ipv6.is_link_local(destination):  # sub-interfaces share their parent's: each is asked for its own
            own = side.find(destination)
            return own is not None and own.usable
        if destination in self.local:
            return True
        if not self.host.transparent or destination in (ipv6.ANY, ipv6.LOOPBACK):  # not on a wire (RFC 4291, 2.5.2, 2.5.3)
            return False
        if group:  # who is on the link gets that as well, and nobody may answer it for another (RFC 1812, 5.3.4)
            return False
        return side.find(destination) is None  # what is ours in a while is not yet (RFC 4862, 5.4)

    def loop(self, packet: bytes) -> None:
        """Take a packet that the host sent to itself."""
        side = self.local.get(packet[24:40]) or next(iter(self.sides()), None)
        interface = side.interface if side is not None else next(iter(self.host.interfaces.values()), None)
        if interface is not None:
            self._unwrap(interface, packet, interface.mac, trusted=True, group=False)

    def loop_group(self, group: bytes, interface: Interface | None, packet: bytes) -> None:
        """Take a packet that the host sends to a group, as an event, if it listens to that on the interface it leaves by."""
        side = interface.ipv6 if interface is not None else next(iter(self.sides()), None)
        if side is not None and side.is_group(group):
            unwrap = partial(self._unwrap, side.interface, packet, side.mac, trusted=True, group=True)
            self.host.scheduler.soon(unwrap)

    def _unwrap(self, interface: Interface, packet: bytes, sender: bytes, *, trusted: bool, group: bool) -> None:
        """Walk the extension headers, put fragments together, and hand over what is inside."""
        host = self.host
        for again in (False, True):
            try:
                found = ipv6.walk(packet)
            except WireError:
                host.drop("ipv6-malformed")
                return
            if found.problem is not None:
                host.drop("ipv6-parameter")
                if not found.silent:
                    self.icmp.send_error(
                        interface, packet, icmpv6.PARAMETER_PROBLEM, found.problem, rest=found.pointer, group=group,
                        even_group=found.even_group,
                    )  # fmt: skip
                return
            if found.protocol != FRAGMENT:
                break
            if again:
                host.drop("ipv6-malformed")  # fragments within fragments
                return
            whole = self._reassemble(interface, packet, found, group)
            if whole is None:
                return
            packet, trusted = whole, False
        if found.protocol == PROTOCOL_ICMPV6:
            self.icmp.receive_from(interface, packet, found.offset, sender, trusted=trusted)
        elif packet[8:24] == ipv6.ANY:
            host.drop("ipv6-source")  # ICMPv6 alone is said by nobody, who could not be answered (RFC 4291, 2.5.2)
        elif (transport := self.protocols.get(found.protocol)) is not None:
            transport.receive(interface, packet, found.offset, trusted=trusted, group=group)
        elif found.protocol == NO_NEXT_HEADER:
            host.drop("ipv6-nothing")
        else:
            host.drop("ipv6-protocol")
            self.icmp.send_error(
                interface, packet, icmpv6.PARAMETER_PROBLEM, ipv6.UNKNOWN_NEXT_HEADER, rest=found.named_at, group=group
            )

    def _reassemble(self, interface: Interface, packet: bytes, found: ipv6.Walk, group: bool) -> bytes | None:
        try:
            header = ipv6.decode_fragment(packet, found.offset)
        except WireError:
            self.host.drop("ipv6-malformed")
            return None
        start = found.offset + ipv6.FRAGMENT_OCTETS
        if header.offset == 0 and not header.more:  # alone: nothing to wait for, whatever else is here (RFC 6946)
            named = packet[: found.named_at] + bytes((header.next_header,)) + packet[found.named_at + 1 : found.offset]
            length = len(packet) - ipv6.HEADER_OCTETS - ipv6.FRAGMENT_OCTETS
            return named[:4] + length.to_bytes(2, "big") + named[6:] + packet[start:]
        size = len(packet) - start
        pointer = None
        if header.more and size % 8:
            pointer = _PAYLOAD_LENGTH_AT
        elif header.offset + size > ipv6.MAX_PAYLOAD:
            pointer = found.offset + _OFFSET_AT
        if pointer is not None:
            self.host.drop("fragment-malformed")
            kind, code = icmpv6.PARAMETER_PROBLEM, ipv6.ERRONEOUS_HEADER
            self.icmp.send_error(interface, packet, kind, code, rest=pointer, group=group)
            return None
        if self._reassembler is None:
            self._reassembler = Ipv6Reassembler(self.host.drop)
            self._alarm = self.host.scheduler.alarm(self._expire)
        whole = self._reassembler.add(self.host.scheduler.now, interface, packet, found, header)
        self._arm()
        return whole

    def _expire(self) -> None:
        if self._reassembler is not None:
            for interface, first in self._reassembler.expire(self.host.scheduler.now):
                self.icmp.send_error(interface, first, icmpv6.TIME_EXCEEDED, icmpv6.REASSEMBLY_EXCEEDED)
            self._arm()

    def _arm(self) -> None:
        if self._reassembler is not None and self._alarm is not None:
            self._alarm.set(self._reassembler.next_deadline())

    # Out

    def is_local(self, address: bytes) -> bool:
        """Tell whether packets to this address stay in the host: its own, and the loopback address."""
        return address in self.local or address == ipv6.LOOPBACK

    def sides(self) -> list[Ipv6Interface]:
        """List the interfaces that speak IPv6."""
        return [interface.ipv6 for interface in self.host.interfaces.values() if interface.ipv6 is not None]

    def next_hop(self, destination: bytes, interface: Interface | None = None) -> tuple[Ipv6Interface, Ipv6Neighbor] | None:
        """Find the interface and the neighbor that packets to *destination* are handed to, or None without a route."""
        if destination[0] == 0xFF or ipv6.is_link_local(destination):
            side = interface.ipv6 if interface is not None else next(iter(self.sides()), None)
            return None if side is None else (side, side.neighbor(destination))
        route = self.routes.lookup(destination, interface)
        if route is None or route.interface.ipv6 is None:
            return None
        hop = destination if route.gateway is None else route.gateway
        return route.interface.ipv6, route.interface.ipv6.neighbor(hop)

    def source_for(self, destination: bytes, side: Ipv6Interface) -> bytes | None:
        """Choose the address to talk from: one of the outgoing interface, or else any that reaches as far (RFC 6724)."""
        found = side.source_for(destination)
        if found is not None and (ipv6.scope(found) >= ipv6.scope(destination) or ipv6.is_multicast(destination)):
            return found
        others = (other.source_for(destination) for other in self.sides() if other is not side)
        return next((each for each in others if each is not None and not ipv6.is_link_local(each)), found)

    def send(
        self, destination: bytes, protocol: int, payload: bytes, *, source: bytes | None = None,
        interface: Interface | None = None, hop_limit: int | None = None, traffic_class: int = 0,
        dont_fragment: bool = False,
    ) -> str | None:  # fmt: skip
        """Send a packet, in fragments if it must be; return None, or why it could not be sent.

        What finds no neighbor is accepted here, and comes back through ``Ipv6Transport.error`` after 3 s. Checksums are the
        caller's, who has to know the source: see ``route``.
        """
        local = self.is_local(destination)
        hop = None if local else self.next_hop(destination, interface)
        if hop is None and not local:
            return "no route"
        if source is None:
            source = destination if hop is None else self.source_for(destination, hop[0])
            if source is None:
                return "no address"
        if len(payload) > ipv6.MAX_PAYLOAD:
            return "message too long"
        if hop_limit is None:
            hop_limit = ipv6.DEFAULT_HOP_LIMIT if hop is None else hop[0].hop_limit
        packet = ipv6.build(
            source, destination, protocol, len(payload), hop_limit=hop_limit, traffic_class=traffic_class
        ) + payload  # fmt: skip
        if hop is None:
            self.host.scheduler.soon(self.loop, packet)
            return None
        side, neighbor = hop
        mtu = self.paths.get(self.host.scheduler.now, destination, side.mtu)
        if len(packet) <= mtu:
            neighbor.send(packet)
        elif dont_fragment:
            return "packet too big"
        else:
            for part in ipv6.fragment(packet, mtu, self._next_ident()):
                neighbor.send(part)
        return None

    def route(self, destination: bytes, interface: Interface | None = None) -> bytes | str:
        """Choose the source for a destination, which a transport needs for its checksum; or return why there is none."""
        if self.is_local(destination):
            return destination
        hop = self.next_hop(destination, interface)
        if hop is None:
            return "no route"
        return self.source_for(destination, hop[0]) or "no address"

    def undeliverable(self, packet: bytes) -> None:
        """Tell whoever sent a packet whose next hop does not answer."""
        self.host.drop("no-neighbor")
        source = packet[8:24]
        if source in self.local:
            text = icmpv6.describe(icmpv6.UNREACHABLE, icmpv6.ADDRESS_UNREACHABLE)
            self.icmp.dispatch(packet, IcmpError(icmpv6.UNREACHABLE, icmpv6.ADDRESS_UNREACHABLE, source, text))

    def _next_ident(self) -> int:
        """Count fragmented packets, from where nobody guesses (RFC 7739)."""
        if self._ident is None:
            self._ident = self.host.stream("ipv6").below(1 << 32)
        self._ident = (self._ident + 1) & 0xFFFFFFFF
        return self._ident


def _is_claim(packet: bytes) -> bool:
    """Tell whether a packet is an advertisement: from an address of ours it means that somebody else claims to have it."""
    return packet[6] == PROTOCOL_ICMPV6 and packet[40:41] == _ADVERTISEMENT
