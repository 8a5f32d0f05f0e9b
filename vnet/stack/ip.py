"""The long way in for IPv4 packets: every check of RFC 1122 section 3.2.1, offload, reassembly, then the transport."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from vnet.errors import WireError
from vnet.ports import NO_OFFLOAD
from vnet.stack.reassembly import Reassembler
from vnet.wire import icmpv4, ipv4
from vnet.wire.ethernet import HEADER_OCTETS
from vnet.wire.ipv4 import PROTOCOL_TCP, PROTOCOL_UDP
from vnet.wire.segmentation import complete
from vnet.wire.virtio_net import DATA_VALID, GSO_TCPV4, NEEDS_CSUM, is_super, is_tcp_super

if TYPE_CHECKING:
    from vnet.ports import Alarm
    from vnet.stack.host import Host
    from vnet.stack.interface import Interface

_TCP_AT: Final = HEADER_OCTETS + 20


@final
class Ipv4Input:
    """Checks packets and hands them to their transport."""

    __slots__ = ("_alarm", "_host", "_reassembler")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._reassembler: Reassembler | None = None
        self._alarm: Alarm | None = None

    def receive(self, interface: Interface, frame: bytes, offload: bytes) -> None:
        """Take a frame with EtherType IPv4; drop and count it if anything is wrong."""
        trusted = False
        if offload != NO_OFFLOAD:
            if len(offload) != len(NO_OFFLOAD):
                self._host.drop("offload-malformed")
                return
            if is_super(offload):
                is_plain = len(frame) >= _TCP_AT and frame[14] & 0x0F == 5 and not (frame[20] & 0x3F or frame[21])
                if is_plain and frame[23] == PROTOCOL_TCP and is_tcp_super(offload, GSO_TCPV4, _TCP_AT):
                    self._packet(interface, frame, True)
                else:  # what is odd in any way is cut, or found to be a lie
                    self._segments(interface, frame, offload)
                return
            trusted = bool(offload[0] & (NEEDS_CSUM | DATA_VALID))
        self._packet(interface, frame, trusted)

    def loop(self, packet: bytes) -> None:
        """Take a packet that the host sent to itself."""
        interface = self._host.local.get(packet[16:20]) or next(iter(self._host.interfaces.values()), None)
        if interface is not None:
            self._deliver(interface, packet, (packet[0] & 0x0F) << 2, trusted=True, group=False)

    def loop_group(self, interface: Interface, packet: bytes) -> None:
        """Take a packet that the host sent to a group of its own."""
        self._deliver(interface, packet, (packet[0] & 0x0F) << 2, trusted=True, group=True)

    def _segments(self, interface: Interface, frame: bytes, offload: bytes) -> None:
        try:
            frames = complete(frame, offload)
        except WireError:
            self._host.drop("offload-malformed")
            return
        for part in frames:
            self._packet(interface, part, False)

    def _packet(self, interface: Interface, frame: bytes, trusted: bool) -> None:
        host = self._host
        packet = frame[HEADER_OCTETS:]
        try:
            octets = ipv4.header_octets(packet)
        except WireError:
            host.drop("ipv4-malformed")
            return
        packet = packet[: packet[2] << 8 | packet[3]]
        source, destination = packet[12:16], packet[16:20]
        if not ipv4.may_be_source(source) or source in host.local or source in interface.broadcasts:
            host.drop("ipv4-source")
            return
        group = bool(frame[0] & 1)
        if destination not in host.local:
            if interface.is_group(destination):
                group = True
            elif not (host.transparent or self._before_address(interface, packet, octets)):
                host.drop("ipv4-not-ours")
                return
        if packet[6] & 0x3F or packet[7]:
            whole = self._reassemble(interface, packet)
            if whole is None:
                return
            packet, octets, trusted = whole, (whole[0] & 0x0F) << 2, False
        self._deliver(interface, packet, octets, trusted=trusted, group=group)

    def _before_address(self, interface: Interface, packet: bytes, octets: int) -> bool:
        """Tell whether a DHCP client is waiting for this: RFC 2131, 4.1 has offers sent to the address being offered."""
        if interface.address is not None or packet[9] != PROTOCOL_UDP or packet[16] >= 0xE0:
            return False
        return self._host.udp.wants(interface, packet, octets)

    def _deliver(self, interface: Interface, packet: bytes, octets: int, *, trusted: bool, group: bool) -> None:
        transport = self._host.protocols.get(packet[9])
        if transport is not None:
            transport.receive(interface, packet, octets, trusted=trusted, group=group)
            return
        self._host.drop("ipv4-protocol")
        self._host.icmp.send_error(interface, packet, icmpv4.UNREACHABLE, icmpv4.PROTOCOL_UNREACHABLE, group=group)

    def _reassemble(self, interface: Interface, packet: bytes) -> bytes | None:
        if self._reassembler is None:
            self._reassembler = Reassembler(self._host.drop)
            self._alarm = self._host.scheduler.alarm(self._expire)
        whole = self._reassembler.add(self._host.scheduler.now, interface, packet)
        self._arm()
        return whole

    def _expire(self) -> None:
        if self._reassembler is not None:
            for interface, first in self._reassembler.expire(self._host.scheduler.now):
                self._host.icmp.send_error(interface, first, icmpv4.TIME_EXCEEDED, icmpv4.REASSEMBLY_EXCEEDED)
            self._arm()

    def _arm(self) -> None:
        if self._reassembler is not None and self._alarm is not None:
            self._alarm.set(self._reassembler.next_deadline())
