"""The long way through a router: every check of RFC 1812 section 5, then NAT and firewall, then out.

::

    header valid? --> fragment? --> ICMP error? --> known connection? --> for the router? --> may be forwarded?
                                                                                                   |
       out <-- remember the flow <-- translate, TTL - 1 <-- fits the MTU? <-- may begin? <-- TTL? route?

Errors quote the packet as it came, and are sent before anything is translated, so their receiver recognises what it sent.
What the router itself sends and receives (echo replies, these errors, ARP) is the affair of the ``Host`` underneath, and is
not tracked.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, TypeAlias, final

from vnet.errors import WireError
from vnet.ports import NO_OFFLOAD
from vnet.services.firewall.conntrack import Direction, turned
from vnet.services.firewall.tcp_state import STATE_FLAGS
from vnet.services.nat.rewrite import quoted_tuple, translate, translate_error, tuple_of
from vnet.services.router.drops import DropLog
from vnet.services.router.flows import FlowTable, pending_at
from vnet.services.router.fragments import FragmentTracker
from vnet.services.router.sessions import UNSOLICITED, Refusal, Sessions, may_begin
from vnet.wire import icmpv4, ipv4
from vnet.wire.checksum import update
from vnet.wire.ethernet import ETHERTYPE_IPV4, HEADER_OCTETS
from vnet.wire.ipv4 import PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP
from vnet.wire.segmentation import complete, largest_frame
from vnet.wire.tcp import decode as decode_tcp
from vnet.wire.tcp import reset_answering
from vnet.wire.virtio_net import NEEDS_CSUM, is_super

if TYPE_CHECKING:
    from vnet.stack.host import Host
    from vnet.stack.interface import Interface
    from vnet.stack.neighbor import Neighbor

_CACHED: Final = (PROTOCOL_TCP, PROTOCOL_UDP)
_SHORTEST: Final = {PROTOCOL_TCP: 20, PROTOCOL_UDP: 8, PROTOCOL_ICMP: 8}
"""Octets of a transport header that a packet, and the first fragment of one, must show (RFC 1858)."""
_TTL_STEP: Final = 0x0100


@final
class Fate(Enum):
    """What became of a packet that has no connection."""

    ROUTED = auto()
    DELIVERED = auto()
    """To the router itself."""
    DROPPED = auto()


Outcome: TypeAlias = Direction | Fate


@final
class Forwarder:
    """Decides about packets one at a time; ``flows`` does the same for those that look alike."""

    __slots__ = ("_broadcasts", "_host", "drops", "flows", "fragments", "sessions")

    def __init__(self, host: Host, sessions: Sessions, drops: DropLog, on_earlier: Callable[[], None]) -> None:
        """Forward for *host*; *on_earlier* is called when there is a deadline to wait for."""
        self._host = host
        self._broadcasts: frozenset[bytes] = frozenset()
        self.sessions = sessions
        self.drops = drops
        self.flows = FlowTable(host.scheduler, self.receive)
        self.fragments = FragmentTracker(drops.count, on_earlier)

    def changed(self) -> None:
        """Forget what was learned, because addresses, routes or configuration changed."""
        self._broadcasts = frozenset(b for interface in self._host.interfaces.values() for b in interface.broadcasts)
        self.flows.clear()
        self.fragments.clear()

    def receive(self, interface: Interface, frame: bytes, offload: bytes) -> None:
        """Take a frame with EtherType IPv4 from an interface."""
        if len(offload) != len(NO_OFFLOAD):
            self.drops.count("offload-malformed")
            return
        packet = frame[HEADER_OCTETS:]
        try:
            octets = ipv4.header_octets(packet)
        except WireError:
            self.drops.count("ipv4-malformed")
            return
        packet = packet[: packet[2] << 8 | packet[3]]
        if offload[0] & NEEDS_CSUM and offload[6:] != pending_at(octets, packet[9]):
            self.drops.count("offload-malformed")
            return
        destination = packet[16:20]
        if interface.is_group(destination) or interface.address is None:
            self._host.deliver_ipv4(interface, frame, offload)
        elif frame[0] & 1:
            self.drops.count("group-frame")  # RFC 1812 5.3.4: a packet for one host in a frame for many
        elif not self.sessions.active:
            if destination in self._host.local:
                self._host.deliver_ipv4(interface, frame, offload)
            else:
                self._forward(interface, packet, octets, offload, None)
        elif packet[6] & 0x3F or packet[7]:
            self._fragment(interface, packet, octets, offload)
        else:
            self._whole(interface, packet, octets, offload)

    # What belongs to what

    def _whole(self, interface: Interface, packet: bytes, octets: int, offload: bytes) -> Outcome:
        """Find the connection of a packet, or of the first fragment of one, and forward or deliver it."""
        protocol = packet[9]
        if len(packet) - octets < _SHORTEST.get(protocol, 0):
            self.drops.count("fragment-tiny" if packet[6] & 0x20 else "transport-cut-off")
            return Fate.DROPPED
        arrives = tuple_of(packet, octets)
        if arrives is None:
            return self._icmp(interface, packet, octets, offload)
        direction = self.sessions.connections.find(self._host.scheduler.now, protocol, arrives)
        if direction is None:
            return self._new(interface, packet, octets, offload, arrives)
        if direction.ingress != interface.name:
            self.drops.count("wrong-network")
            return Fate.DROPPED
        self._forward(interface, packet, octets, offload, direction)
        return direction

    def _new(self, interface: Interface, packet: bytes, octets: int, offload: bytes, arrives: bytes) -> Outcome:
        """Deal with a packet that belongs to no connection."""
        now, protocol = self._host.scheduler.now, packet[9]
        mapping = None
        if packet[16:20] in self._host.local:
            found = self.sessions.inbound(interface.name, protocol, arrives)
            if found is None and self._is_expected(interface, packet, octets):
                self._host.deliver_ipv4(interface, _frame(interface, packet), offload)
                return Fate.DELIVERED
            if found is None or isinstance(found, Refusal):
                self.drops.refuse(now, UNSOLICITED.reason, protocol, arrives, interface.name, interface.name)
                return Fate.DROPPED
            mapping = found
        if not self._may_be_forwarded(interface, packet, offload):
            return Fate.DROPPED
        hop = self._next_hop(interface, packet, offload, packet[16:20] if mapping is None else mapping.address)
        if hop is None:
            return Fate.DROPPED
        opened = self.sessions.open(
            now, interface.name, hop[0].name, protocol, arrives, begins=may_begin(packet, octets), mapping=mapping
        )
        if isinstance(opened, Refusal):
            self.drops.refuse(now, opened.reason, protocol, arrives, interface.name, hop[0].name)
            if opened.action == "reject":
                self._reject(interface, packet, octets, offload)
            return Fate.DROPPED
        self._send(interface, packet, octets, offload, opened, hop)
        return opened or Fate.ROUTED

    def _icmp(self, interface: Interface, packet: bytes, octets: int, offload: bytes) -> Fate:
        """Deal with an ICMP message that is no query: an error about a connection passes with it, anything else does not."""
        arrives = quoted_tuple(packet, octets)
        direction = None
        if arrives is not None:
            protocol = packet[octets + 8 + 9]
            direction = self.sessions.connections.find(self._host.scheduler.now, protocol, arrives)
        if direction is None:
            if packet[16:20] in self._host.local:
                self._host.deliver_ipv4(interface, _frame(interface, packet), offload)
                return Fate.DELIVERED
            if self._is_untracked(interface, packet[16:20]):
                self._forward(interface, packet, octets, offload, None)
                return Fate.ROUTED
            self.drops.count("icmp-unrelated")
        elif direction.ingress != interface.name or packet[16:20] != direction.arrives[4:8]:
            self.drops.count("icmp-unrelated")
        elif self._may_be_forwarded(interface, packet, offload):
            translated = bytearray(packet)
            translate_error(translated, octets, direction)
            hop = self._next_hop(interface, packet, offload, direction.leaves[4:8])
            if hop is not None:
                self._send(interface, bytes(translated), octets, NO_OFFLOAD, None, hop, original=packet)
        return Fate.DROPPED  # an error is never split, so what its fragments would be is nobody's

    def _fragment(self, interface: Interface, packet: bytes, octets: int, offload: bytes) -> None:
        """Deal with a fragment: the first goes as a whole packet would, the others go its way."""
        now = self._host.scheduler.now
        key = packet[12:20] + packet[4:6] + packet[9:10] + interface.name.encode()
        offset = (packet[6] & 0x1F) << 8 | packet[7]
        if offset == 1 and packet[9] == PROTOCOL_TCP:
            self.drops.count("fragment-tiny")  # it would overwrite the flags that the first one showed (RFC 3128)
        elif offset:
            self.fragments.later(now, key, packet)
        else:
            outcome = self._whole(interface, packet, octets, offload)
            self.fragments.first(now, key, lambda later: self._later_fragment(interface, later, outcome))

    def _later_fragment(self, interface: Interface, packet: bytes, outcome: Outcome) -> None:
        if outcome is Fate.DELIVERED:
            self._host.deliver_ipv4(interface, _frame(interface, packet), NO_OFFLOAD)
        elif outcome is Fate.DROPPED:
            self.drops.count("fragment-refused")
        else:
            direction = outcome if isinstance(outcome, Direction) else None
            if direction is not None and direction.connection.deadline <= self._host.scheduler.now:
                self.drops.count("no-connection")
                return
            self._forward(interface, packet, (packet[0] & 15) * 4, NO_OFFLOAD, direction)

    def _is_untracked(self, interface: Interface, destination: bytes) -> bool:
        """Tell whether packets from here to there are routed without a memory."""
        hop = self._host.next_hop(destination)
        nat = self.sessions.translator
        if hop is None or interface is hop[0]:
            return True  # the sender of the first sort will be told
        if self.sessions.rules is not None:
            return False
        return nat is None or nat.config.outside not in (interface.name, hop[0].name)

    def _is_expected(self, interface: Interface, packet: bytes, octets: int) -> bool:
        """Tell whether a packet to the router itself is to be delivered: from outside a NAT only what somebody waits for.

        ICMP always is, so that the router answers echo requests and hears of its own troubles.
        """
        nat = self.sessions.translator
        if nat is None or interface.name != nat.config.outside:
            return True
        if not interface.owns(packet[16:20]):
            return False  # the router's inside addresses do not exist outside
        if packet[9] == PROTOCOL_TCP:
            return self._host.tcp.expects(packet, octets)
        return packet[9] != PROTOCOL_UDP or self._host.udp.expects(packet, octets)

    # Whether and where to

    def _may_be_forwarded(self, interface: Interface, packet: bytes, offload: bytes) -> bool:
        """Check addresses and TTL (RFC 1812 5.3.7, 5.3.1); say why not, and tell the sender where that is due."""
        source, destination = packet[12:16], packet[16:20]
        host = self._host
        if not ipv4.may_be_source(source) or source[0] == 0 or source in host.local or source in self._broadcasts:
            self.drops.count("martian-source")
        elif destination[0] in (0, 127) or destination[0] >= 0xE0:
            self.drops.count("martian-destination")
        elif source[:2] == b"\xa9\xfe" or destination[:2] == b"\xa9\xfe":
            self.drops.count("link-local")  # RFC 3927 section 7
        elif packet[8] <= 1:
            self.drops.count("ttl")
            self._tell(interface, packet, offload, icmpv4.TIME_EXCEEDED, icmpv4.TTL_EXCEEDED)
        else:
            return True
        return False

    def _next_hop(
        self, interface: Interface, packet: bytes, offload: bytes, destination: bytes
    ) -> tuple[Interface, Neighbor] | None:
        """Find the way to *destination*, which may be a translated one; tell the sender if there is none."""
        host = self._host
        hop = host.next_hop(destination)
        if hop is None:
            self.drops.count("no-route")
            self._tell(interface, packet, offload, icmpv4.UNREACHABLE, icmpv4.NET_UNREACHABLE)
            return None
        if destination in hop[0].broadcasts:
            self.drops.count("directed-broadcast")  # RFC 2644
            return None
        if destination in host.local:
            self.drops.count("martian-destination")  # a translation that points back at the router
            return None
        return hop

    # Out

    def _forward(
        self, interface: Interface, packet: bytes, octets: int, offload: bytes, direction: Direction | None
    ) -> None:
        """Forward a packet of a known connection, or an untracked one."""
        if not self._may_be_forwarded(interface, packet, offload):
            return
        hop = self._next_hop(interface, packet, offload, packet[16:20] if direction is None else direction.leaves[4:8])
        if hop is None:
            return
        if direction is not None and hop[0].name != direction.egress:
            self.drops.count("route-changed")
            self.sessions.connections.remove(direction.connection)  # the next packet is judged anew
            return
        self._send(interface, packet, octets, offload, direction, hop)

    def _send(
        self, interface: Interface, packet: bytes, octets: int, offload: bytes, direction: Direction | None,
        hop: tuple[Interface, Neighbor], original: bytes | None = None,
    ) -> None:  # fmt: skip
        """Translate, count the TTL down and send; *original* is the packet as it came if *packet* is no longer."""
        egress, neighbor = hop
        fits = len(packet) <= egress.mtu or self._parts_fit(packet, offload, egress.mtu)
        if not fits and packet[6] & 0x40:
            self.drops.count("mtu")
            quoted = original or packet
            self._tell(interface, quoted, offload, icmpv4.UNREACHABLE, icmpv4.FRAGMENTATION_NEEDED, rest=egress.mtu)
            return
        first = not (packet[6] & 0x1F or packet[7])
        flags = packet[octets + 13] if packet[9] == PROTOCOL_TCP and first and len(packet) > octets + 13 else 0
        work = bytearray(packet)
        if direction is not None:
            if first:
                connections = self.sessions.connections
                connections.pass_packet(self._host.scheduler.now, direction, flags)
                if not direction.connection.lasting:
                    self.flows.forget(direction.connection)
            if direction.arrives != direction.leaves:
                translate(work, octets, direction, first=first, partial=bool(offload[0] & NEEDS_CSUM))
        work[8] -= 1
        work[10:12] = update(work[10] << 8 | work[11], _TTL_STEP).to_bytes(2, "big")
        leaves = bytes(work)
        if fits:
            neighbor.send(leaves, offload)
            self.flows.forwarded += 1
            plain = octets == 20 and packet[9] in _CACHED and not (flags & STATE_FLAGS or packet[6] & 0x3F or packet[7])
            if plain and len(packet) >= 28 and (direction is None or direction.connection.lasting):
                self.flows.remember(interface, bytes(HEADER_OCTETS) + packet, egress, neighbor, direction)
        else:
            self._send_in_pieces(leaves, offload, egress, neighbor)

    def _send_in_pieces(self, packet: bytes, offload: bytes, egress: Interface, neighbor: Neighbor) -> None:
        """Finish what offload left to do, then cut into fragments (RFC 791 section 3.2)."""
        try:
            frames = complete(_frame(egress, packet), offload)
        except WireError:
            self.drops.count("offload-malformed")
            return
        try:
            parts = [part for frame in frames for part in ipv4.fragment(frame[HEADER_OCTETS:], egress.mtu)]
        except WireError:
            self.drops.count("fragment-malformed")
            return
        self.flows.forwarded += 1
        for part in parts:
            neighbor.send(part, NO_OFFLOAD)

    def _parts_fit(self, packet: bytes, offload: bytes, mtu: int) -> bool:
        """Tell whether every frame that a super-frame stands for fits."""
        return is_super(offload) and largest_frame(bytes(HEADER_OCTETS) + packet, offload) <= mtu + HEADER_OCTETS

    def _tell(self, interface: Interface, packet: bytes, offload: bytes, kind: int, code: int, rest: int = 0) -> None:
        """Send an ICMP error; it quotes the packet as a wire would have carried it, with its checksum."""
        if offload != NO_OFFLOAD:
            with suppress(WireError):  # a header that lies about its packet: quote what is there
                packet = complete(_frame(interface, packet), offload)[0][HEADER_OCTETS:]
        self._host.send_icmp_error(interface, packet, kind, code, rest=rest)

    def _reject(self, interface: Interface, packet: bytes, octets: int, offload: bytes) -> None:
        """Tell the sender of a refused packet (RFC 1812 5.2.7.1); TCP by a reset, which ends its attempt at once."""
        if packet[9] != PROTOCOL_TCP:
            self._tell(interface, packet, offload, icmpv4.UNREACHABLE, icmpv4.COMMUNICATION_PROHIBITED)
            return
        source, destination = packet[12:16], packet[16:20]
        try:
            segment = decode_tcp(packet[octets:], source, destination, verify=False)
        except WireError:
            return
        reset = reset_answering(segment)
        if reset is not None:
            self._host.send_ipv4(source, PROTOCOL_TCP, reset.encode(destination, source), source=destination)

    def unresolved(self, egress: Interface, packet: bytes) -> None:
        """Tell the sender of a packet that its next hop, or the destination itself, does not answer.

        The packet has been translated. The error is made as the router's outside shows it, and goes through NAT as any
        other error would that comes from there.
        """
        octets = (packet[0] & 15) * 4
        arrives = tuple_of(packet, octets) if not (packet[6] & 0x1F or packet[7]) else None
        direction = None
        if arrives is not None:
            direction = self.sessions.connections.find(self._host.scheduler.now, packet[9], turned(arrives))
        if direction is None or egress.address is None or direction.arrives == direction.leaves:
            back = None if packet[12:16] in self._host.local else self._host.next_hop(packet[12:16])
            self._host.undeliverable(egress if back is None else back[0], packet)
            return
        self._host.drop("no-neighbor")
        message = icmpv4.build(icmpv4.UNREACHABLE, icmpv4.HOST_UNREACHABLE, 0, packet[: icmpv4.MAX_QUOTE])
        error = bytearray(ipv4.build(egress.address, packet[12:16], PROTOCOL_ICMP, len(message)) + message)
        translate_error(error, 20, direction)
        self._host.send_ipv4(direction.leaves[4:8], PROTOCOL_ICMP, bytes(error[20:]), source=bytes(error[12:16]))


def _frame(interface: Interface, packet: bytes) -> bytes:
    """Put a header before a packet again, as if it had come to *interface* for the host alone."""
    return interface.mac + bytes(6) + ETHERTYPE_IPV4 + packet
