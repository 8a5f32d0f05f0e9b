"""UDP over IPv6 (RFC 8200 section 8.1): the sockets are those of ``Host.udp_bind``, which serve both families.

A socket without an address takes datagrams of both if it has ``both``; where it sends to decides over what. There is no
short way as for IPv4: checksums are complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from vnet.errors import WireError
from vnet.stack.transport import IcmpError, TransportAddress
from vnet.wire import icmpv6, ipv6, udp
from vnet.wire.ipv6 import PROTOCOL_UDP

if TYPE_CHECKING:
    from vnet.stack.interface import Interface
    from vnet.stack.ipv6.node import Ipv6Node
    from vnet.stack.udp import UdpSocket

MAX_PAYLOAD: Final = ipv6.MAX_PAYLOAD - udp.HEADER_OCTETS


@final
class Ipv6Udp:
    """The UDP transport over IPv6 of a host."""

    __slots__ = ("_node",)

    def __init__(self, node: Ipv6Node) -> None:
        self._node = node

    def send(
        self, socket: UdpSocket, payload: bytes, destination: TransportAddress, interface: Interface | None = None
    ) -> str | None:
        """Send a datagram from a socket, by *interface* if one is named; return None, or why it could not be sent.

        What goes to a group is also for those on this host that listen to it, unless the socket has ``group_loop6`` off.
        """
        node = self._node
        address, port = destination
        if len(payload) > MAX_PAYLOAD:
            return "message too long"
        if not socket.both if socket.address is None else len(socket.address) != len(address):
            return "no address"
        group = ipv6.is_multicast(address)
        interface = interface or (socket.group_interface if group else None) or socket.interface
        own = socket.address
        if own is None or own == ipv6.ANY or ipv6.is_multicast(own):
            found = node.route(address, interface)
            if isinstance(found, str):
                return found
            own = found
        elif interface is None and ipv6.is_link_local(own) and own in node.local:
            interface = node.local[own].interface
        datagram = udp.build(own, address, socket.port, port, payload)
        traffic_class = socket.tos if socket.traffic_class is None else socket.traffic_class
        if group:
            hop_limit: int | None = socket.group_hop_limit
            if socket.group_loop6:
                head = ipv6.build(own, address, PROTOCOL_UDP, len(datagram), traffic_class=traffic_class)
                node.loop_group(address, interface, head + datagram)
            if not hop_limit:
                return None
        elif socket.hop_limit is not None:
            hop_limit = socket.hop_limit
        else:
            hop_limit = socket.ttl
        return node.send(
            address, PROTOCOL_UDP, datagram, source=own, interface=interface, traffic_class=traffic_class,
            hop_limit=None if hop_limit == ipv6.DEFAULT_HOP_LIMIT else hop_limit,  # else what routers say
        )  # fmt: skip

    def receive(self, interface: Interface, packet: bytes, offset: int, *, trusted: bool, group: bool) -> None:
        """Hand a datagram to the socket that fits best, or to all that fit if it was sent to a group."""
        host = self._node.host
        source, destination = packet[8:24], packet[24:40]
        try:
            datagram = udp.decode(packet[offset:], source, destination, verify=not trusted)
        except WireError:
            host.drop("udp-malformed")
            return
        if not trusted and packet[offset + 6 : offset + 8] == b"\0\0":
            host.drop("udp-malformed")  # here a checksum is a must (RFC 8200, 8.1)
            return
        fitting = host.udp.fitting(datagram.destination_port, destination, interface)
        if not fitting:
            host.drop("udp-port")
            if trusted:  # the checksum is perhaps pending: quote the packet as a wire would carry it
                ports = datagram.source_port, datagram.destination_port
                packet = packet[:offset] + udp.build(source, destination, *ports, datagram.payload)
            self._node.icmp.send_error(interface, packet, icmpv6.UNREACHABLE, icmpv6.PORT_UNREACHABLE, group=group)
            return
        host.delivered += 1
        for socket in fitting if group else fitting[:1]:
            socket.arrived_by = interface
            socket.on_datagram(datagram.payload, (source, datagram.source_port))

    def error(self, quoted: bytes, offset: int, error: IcmpError) -> bool:
        """Hand an ICMPv6 error to the socket that sent the quoted datagram."""
        source_port, port = (int.from_bytes(quoted[at : at + 2], "big") for at in (offset, offset + 2))
        fitting = self._node.host.udp.fitting(source_port, quoted[8:24], None)
        if not fitting:
            return False
        if fitting[0].on_error is not None:
            fitting[0].on_error((quoted[24:40], port), error)
        return True
