"""UDP sockets in callback style (RFC 768, RFC 1122 section 4.1).

The way out: for each destination a socket keeps a ``_Path``: the neighbor and the sums of everything in the headers that
does not change, so that a datagram costs one ``pack``. Its checksum is left pending, as a NIC with checksum offload has it:
whoever needs it, such as a capture, completes it. The way in: ``Host.deliver_ipv4`` finds
the socket of a known flow in ``UdpTable.flows`` by the 12 octets of addresses and ports. Both caches are emptied by
``Host.changed``.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Final, final

from vnet.errors import UsageError, WireError
from vnet.stack.transport import IcmpError, TransportAddress
from vnet.wire import icmpv4, ipv4, udp
from vnet.wire.ipv4 import PROTOCOL_UDP
from vnet.wire.ipv6 import ANY as ANY6
from vnet.wire.virtio_net import UDP_CHECKSUM

if TYPE_CHECKING:
    from vnet.stack.host import Host
    from vnet.stack.interface import Interface
    from vnet.stack.neighbor import Neighbor

EPHEMERAL_FIRST: Final = 49152
EPHEMERAL_LAST: Final = 65535
"""Dynamic ports (RFC 6335, section 6)."""
MAX_PATHS: Final = 4096
MAX_FLOWS: Final = 4096

OnDatagram = Callable[[bytes, TransportAddress], None]
OnError = Callable[[TransportAddress, IcmpError], None]

_pack: Final = Struct("!14sHHH4sH12sHH").pack
_from_bytes: Final = int.from_bytes


@final
class _Path:
    """What is the same in every datagram from one socket to one destination."""

    __slots__ = ("addresses", "fixed", "ip_sum", "mtu", "neighbor", "port", "pseudo_sum", "version_tos")

    def __init__(
        self, interface: Interface, neighbor: Neighbor, source: TransportAddress, destination: TransportAddress,
        ttl: int, tos: int,
    ) -> None:  # fmt: skip
        ports = source[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big")
        self.neighbor = neighbor
        self.port = interface.port
        self.mtu = interface.mtu
        self.version_tos = 0x4500 | tos
        self.fixed = bytes((0, 0, ttl, PROTOCOL_UDP))
        self.addresses = source[0] + destination[0] + ports
        addresses = _from_bytes(source[0] + destination[0], "big")
        self.ip_sum = (self.version_tos + _from_bytes(self.fixed, "big") + addresses) % 0xFFFF
        # send_to adds the length counted from the IP header, hence 20
        self.pseudo_sum = (addresses + PROTOCOL_UDP - 20) % 0xFFFF


@final
class UdpSocket:
    """A bound socket; make it with ``Host.udp_bind``.

    ``on_datagram(payload, source)`` is called for each datagram, ``on_error(destination, error)`` for each ICMP error about
    one that was sent here; both may be replaced. ``ttl`` and ``tos`` may be set. For what is sent to multicast groups there
    are ``group_ttl``, 0 to 255, ``group_interface``, and ``group_loop``: whether listeners on this host get it too. Sockets
    that are all ``shared`` may be bound to the same port. A socket without an address takes and sends IPv6 datagrams too if
    it has ``both``; else whoever reads it sees IPv4 addresses only. One bound to ``::`` is for IPv6 alone.

    For IPv6 ``hop_limit`` and ``traffic_class`` take the place of ``ttl`` and ``tos`` if they are set, and
    ``group_hop_limit`` and ``group_loop6`` that of the two for groups. While ``on_datagram`` is called ``arrived_by`` is the
    interface by which an IPv6 datagram came.
    """

    __slots__ = (
        "_paths", "_tos", "_ttl", "address", "arrived_by", "both", "group_hop_limit", "group_interface", "group_loop",
        "group_loop6", "group_ttl", "hop_limit", "host", "interface", "on_datagram", "on_error", "port", "shared",
        "traffic_class",
    )  # fmt: skip

    def __init__(
        self, host: Host, port: int, address: bytes | None, interface: Interface | None, handler: OnDatagram
    ) -> None:
        self.host = host
        self.port = port
        self.address = address
        self.interface = interface
        self.on_datagram = handler
        self.on_error: OnError | None = None
        self.both = False
        self._ttl = ipv4.DEFAULT_TTL
        self._tos = 0
        self._paths: dict[TransportAddress, _Path] = {}
        self.group_ttl = 1  # RFC 1112, 6.1
        self.group_interface: Interface | None = None
        self.group_loop: bool | int = True
        self.shared = False
        self.hop_limit: int | None = None
        self.traffic_class: int | None = None
        self.group_hop_limit = 1  # RFC 3493, 5.2
        self.group_loop6: bool | int = True
        self.arrived_by: Interface | None = None

    @property
    def ttl(self) -> int:
        """Time to live of what is sent, 1 to 255."""
        return self._ttl

    @ttl.setter
    def ttl(self, value: int) -> None:
        self._ttl = value
        self._paths.clear()

    @property
    def tos(self) -> int:
        """DSCP and ECN octet of what is sent."""
        return self._tos

    @tos.setter
    def tos(self, value: int) -> None:
        self._tos = value
        self._paths.clear()

    def send_to(self, payload: bytes, destination: TransportAddress) -> str | None:
        """Send a datagram; return None, or why it could not be sent ("no route", "message too long", ...)."""
        path = self._paths.get(destination)
        if path is not None and (header := path.neighbor.header) is not None:
            length = len(payload) + 28
            if length <= path.mtu:
                host = self.host
                host.ident = ident = (host.ident + 1) & 0xFFFF
                path.port.send(
                    _pack(
                        header, path.version_tos, length, ident, path.fixed, -(path.ip_sum + length + ident) % 0xFFFF,
                        path.addresses, length - 20, (path.pseudo_sum + length) % 0xFFFF,
                    ) + payload,
                    UDP_CHECKSUM,
                )  # fmt: skip
                return None
        return self._send_slowly(payload, destination)

    def send_by(self, interface: Interface, payload: bytes, destination: TransportAddress) -> str | None:
        """Do the same with an IPv6 destination that is on the link of *interface*: a link-local one, or a group."""
        return self.host.use_ipv6().udp.send(self, payload, destination, interface)

    def close(self) -> None:
        """Receive nothing more and free the port."""
        self.host.udp.remove(self)

    def forget_paths(self) -> None:
        """Look every route up again, because something changed."""
        self._paths.clear()

    def _send_slowly(self, payload: bytes, destination: TransportAddress) -> str | None:
        host = self.host
        address, port = destination
        if len(address) == 16:
            return host.use_ipv6().udp.send(self, payload, destination)
        if len(payload) > udp.MAX_PAYLOAD:
            return "message too long"
        if ipv4.is_multicast(address):
            return self._send_to_group(payload, destination)
        if host.is_local(address):
            source = self.address or address
        elif self.address is not None and len(self.address) == 16:
            return "no address"
        else:
            hop = host.next_hop(address, self.interface)
            if hop is None:
                return "no route"
            interface, neighbor = hop
            found = self.address or interface.source_for(neighbor.address) or host.any_address()
            if found is None:
                return "no address"
            source = found
            if len(self._paths) >= MAX_PATHS:
                self._paths.clear()
            path = _Path(interface, neighbor, (source, self.port), destination, self._ttl, self._tos)
            self._paths[destination] = path
        datagram = udp.build(source, address, self.port, port, payload)
        return host.send_ipv4(
            address, PROTOCOL_UDP, datagram, source=source, interface=self.interface, ttl=self._ttl, tos=self._tos
        )

    def _send_to_group(self, payload: bytes, destination: TransportAddress) -> str | None:
        """Send to a multicast group (RFC 1112, 6.1); a TTL of 0 stays within the host."""
        host = self.host
        group, port = destination
        hop = host.next_hop(group, self.group_interface or self.interface)
        if hop is None:
            return "no route"
        interface = hop[0]
        own = None if self.address is None or host.is_group(self.address) else self.address
        source = own or interface.source_for(group) or host.any_address()
        if source is None:
            return "no address"
        datagram = udp.build(source, group, self.port, port, payload)
        if self.group_loop and interface.is_group(group):
            head = ipv4.build(source, group, PROTOCOL_UDP, len(datagram), ttl=self.group_ttl, tos=self._tos)
            host.loop_group(interface, head + datagram)
        if not self.group_ttl:
            return None
        return host.send_ipv4(
            group, PROTOCOL_UDP, datagram, source=source, interface=interface, ttl=self.group_ttl, tos=self._tos
        )


@final
class UdpTable:
    """The UDP transport of a host: its sockets by port."""

    __slots__ = ("_host", "_sockets", "flows")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._sockets: dict[int, list[UdpSocket]] = {}
        self.flows: dict[bytes, tuple[UdpSocket, TransportAddress]] = {}
        """Sockets by source address, destination address and ports of what they receive."""

    @property
    def sockets(self) -> tuple[UdpSocket, ...]:
        """All sockets that are open."""
        return tuple(socket for sockets in self._sockets.values() for socket in sockets)

    def bind(
        self, port: int, address: bytes | None, interface: Interface | None, handler: OnDatagram, *, shared: bool = False
    ) -> UdpSocket:
        """Make a socket; port 0 picks a free dynamic one. Raise UsageError if the port is taken and not *shared* by all."""
        if not 0 <= port <= 0xFFFF:
            raise UsageError(f"{port} is not a port: it must be 0 to 65535")
        if port == 0:
            port = self._free_port()
        for other in self._sockets.get(port, ()):
            if other.address == address and other.interface is interface and not (shared and other.shared):
                raise UsageError(f"UDP port {port} of {self._host.name} is taken")
        socket = UdpSocket(self._host, port, address, interface, handler)
        socket.shared = shared
        self._sockets.setdefault(port, []).append(socket)
        self.flows.clear()
        return socket

    def remove(self, socket: UdpSocket) -> None:
        """Forget a socket; one that is closed already is no error."""
        sockets = self._sockets.get(socket.port, [])
        if socket in sockets:
            sockets.remove(socket)
            if not sockets:
                del self._sockets[socket.port]
        self.flows.clear()

    def forget_paths(self) -> None:
        """Look everything up again, because addresses or routes changed."""
        self.flows.clear()
        for sockets in self._sockets.values():
            for socket in sockets:
                socket.forget_paths()

    def fitting(self, port: int, address: bytes, interface: Interface | None) -> list[UdpSocket]:
        """List the sockets that take what comes to *port* of an IPv6 *address*, the most specific first.

        Without *interface* it may have come by any.
        """
        found = [
            socket
            for socket in self._sockets.get(port, ())
            if (socket.address in (address, ANY6) or (socket.address is None and socket.both))
            and (interface is None or socket.interface in (None, interface))
        ]
        return sorted(found, key=_specificity, reverse=True)

    def wants(self, interface: Interface, packet: bytes, octets: int) -> bool:
        """Tell whether a socket waits on this interface for whatever comes to its port: a DHCP client without address."""
        port = _from_bytes(packet[octets + 2 : octets + 4], "big")
        return any(other.interface is interface and other.address is None for other in self._sockets.get(port, ()))

    def expects(self, packet: bytes, octets: int) -> bool:
        """Tell whether a socket is bound to the destination port of *packet*, whose IPv4 header has *octets*."""
        return _from_bytes(packet[octets + 2 : octets + 4], "big") in self._sockets

    def receive(self, interface: Interface, packet: bytes, octets: int, *, trusted: bool, group: bool) -> None:
        """Hand a datagram to the socket that fits best, or to all that fit if it was sent to a group."""
        host = self._host
        source, destination = packet[12:16], packet[16:20]
        try:
            datagram = udp.decode(packet[octets:], source, destination, verify=not trusted)
        except WireError:
            host.drop("udp-malformed")
            return
        fitting = [
            socket
            for socket in self._sockets.get(datagram.destination_port, ())
            if (socket.address is None or socket.address == destination) and socket.interface in (None, interface)
        ]
        if not fitting:
            host.drop("udp-port")
            if trusted and packet[octets + 6] | packet[octets + 7]:  # perhaps pending: quote it as a wire would carry it
                ports = datagram.source_port, datagram.destination_port
                packet = packet[:octets] + udp.build(source, destination, *ports, datagram.payload)
            host.icmp.send_error(interface, packet, icmpv4.UNREACHABLE, icmpv4.PORT_UNREACHABLE, group=group)
            return
        host.delivered += 1
        peer = source, datagram.source_port
        if group:
            for socket in fitting:
                socket.on_datagram(datagram.payload, peer)
            return
        best = max(fitting, key=_specificity)
        # what the host sends to itself is not remembered: the short way does not ask whether a source is the host's own
        if best.interface is None and len(self._sockets[best.port]) == 1 and source not in host.local:
            if len(self.flows) >= MAX_FLOWS:
                self.flows.clear()
            self.flows[source + destination + packet[octets : octets + 4]] = (best, peer)
        best.on_datagram(datagram.payload, peer)

    def error(self, quoted: bytes, octets: int, error: IcmpError) -> bool:
        """Hand an ICMP error to the socket that sent the quoted datagram."""
        source_port = quoted[octets] << 8 | quoted[octets + 1]
        destination = quoted[16:20], quoted[octets + 2] << 8 | quoted[octets + 3]
        fitting = [s for s in self._sockets.get(source_port, ()) if s.address in (None, quoted[12:16])]
        if not fitting:
            return False
        socket = max(fitting, key=_specificity)
        if socket.on_error is not None:
            socket.on_error(destination, error)
        return True

    def _free_port(self) -> int:
        count = EPHEMERAL_LAST - EPHEMERAL_FIRST + 1
        start = self._host.stream("udp-ports").below(count)
        for step in range(count):
            port = EPHEMERAL_FIRST + (start + step) % count
            if port not in self._sockets:
                return port
        raise UsageError(f"every dynamic UDP port of {self._host.name} is taken")


def _specificity(socket: UdpSocket) -> tuple[bool, bool]:
    return socket.address is not None and socket.address != ANY6, socket.interface is not None
