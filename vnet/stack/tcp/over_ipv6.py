"""TCP over IPv6 (RFC 8200, 8.1 and 8.3): the way in, and the way from a connection to its peer.

As over IPv4 more data than fits one segment leaves as a super-frame, with its checksum pending. What the host sends to
itself goes round in one packet. A link-local peer is one on a certain link: the connection's interface.
"""

from __future__ import annotations

from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Final, final

from vnet.stack.tcp.ecn import CE
from vnet.stack.tcp.states import Segment, State
from vnet.stack.transport import IcmpError, TransportAddress
from vnet.wire import icmpv6, ipv6
from vnet.wire.checksum import is_valid, pseudo_header_sum
from vnet.wire.ethernet import HEADER_OCTETS as ETHERNET_OCTETS
from vnet.wire.ipv6 import PROTOCOL_TCP
from vnet.wire.tcp import CWR, HEADER
from vnet.wire.tcp import HEADER_OCTETS as TCP_OCTETS
from vnet.wire.virtio_net import TCP6_CHECKSUM, tcp6_super

if TYPE_CHECKING:
    from vnet.stack.interface import Interface
    from vnet.stack.ipv6.interface import Ipv6Interface
    from vnet.stack.ipv6.neighbor import Ipv6Neighbor
    from vnet.stack.ipv6.node import Ipv6Node
    from vnet.stack.tcp.tables import TcpTable

DEFAULT_MSS: Final = 1220
"""What a peer that says nothing takes (RFC 9293, MUST-15)."""
_HEADERS: Final = ipv6.HEADER_OCTETS + TCP_OCTETS
_MAX_MTU: Final = 0xFFFF
"""Of the way to ourselves."""

_pack: Final = Struct("!IHH32s4sIIHHHH").pack
_from_bytes: Final = int.from_bytes


@final
class Ipv6Path:
    """Sends segments from *local* to *remote*; see ``Path``."""

    __slots__ = (
        "_addresses", "_hop_limit", "_interface", "_neighbor", "_node", "_ports", "_pseudo_sum", "announced_mss", "mss",
        "mtu",
    )  # fmt: skip

    def __init__(
        self,
        node: Ipv6Node,
        hop: tuple[Ipv6Interface, Ipv6Neighbor] | None,
        local: TransportAddress,
        remote: TransportAddress,
    ) -> None:
        """Make a path by *hop*, or within the host if that is None."""
        self._node = node
        self._interface: Interface | None = None
        self._neighbor: Ipv6Neighbor | None = None
        hop_limit, self.mtu = ipv6.DEFAULT_HOP_LIMIT, _MAX_MTU
        self.announced_mss = self.mtu - _HEADERS
        if hop is not None:
            side, self._neighbor = hop
            self._interface = side.interface
            hop_limit = side.hop_limit
            self.announced_mss = min(side.mtu, _MAX_MTU) - _HEADERS
            self.mtu = min(node.paths.get(node.host.scheduler.now, remote[0], side.mtu), _MAX_MTU)
        self.mss = self.mtu - _HEADERS
        self._hop_limit = PROTOCOL_TCP << 8 | hop_limit
        self._addresses = local[0] + remote[0]
        self._ports = local[1].to_bytes(2, "big") + remote[1].to_bytes(2, "big")
        self._pseudo_sum = (_from_bytes(self._addresses, "big") + PROTOCOL_TCP) % 0xFFFF

    def send(
        self, sequence: int, acknowledgment: int, flags: int, window: int, options: bytes, payload: bytes, mss: int,
        ecn: int = 0,
    ) -> str | None:  # fmt: skip
        """Send a segment or a super-frame; see ``Path``."""
        octets = TCP_OCTETS + len(options)
        length = octets + len(payload)
        head = _pack(
            6 << 28 | ecn << 20, length, self._hop_limit, self._addresses, self._ports, sequence, acknowledgment,
            octets << 10 | flags, window, (self._pseudo_sum + length) % 0xFFFF, 0,
        )  # fmt: skip
        neighbor = self._neighbor
        if neighbor is None or self._interface is None:
            self._node.host.scheduler.soon(self._node.loop, b"".join((head, options, payload)))
            return None
        if len(payload) <= mss:
            offload = TCP6_CHECKSUM
        else:
            offload = tcp6_super(ETHERNET_OCTETS + ipv6.HEADER_OCTETS + octets, mss, cwr=bool(flags & CWR))
        header = neighbor.header
        if header is not None:
            self._interface.port.send(b"".join((header, head, options, payload)), offload)  # one copy, as over IPv4
        else:
            neighbor.send(b"".join((head, options, payload)), offload)
        return None


@final
class OverIpv6:
    """What TCP does differently over IPv6, and the transport that an ``Ipv6Node`` hands segments to."""

    __slots__ = ("_node", "_table")

    unspecified = ipv6.ANY
    default_mss = DEFAULT_MSS
    headers = _HEADERS
    black_hole_mtu = ipv6.MIN_MTU

    def __init__(self, table: TcpTable, node: Ipv6Node) -> None:
        self._table = table
        self._node = node

    # The way in

    def receive(self, interface: Interface, packet: bytes, offset: int, *, trusted: bool, group: bool) -> None:
        """Take a segment, or a super-frame of them."""
        table, host = self._table, self._node.host
        size = len(packet) - offset
        if size < TCP_OCTETS:
            host.drop("tcp-malformed")
            return
        _, _, sequence, acknowledgment, words, flags, window, _, _ = HEADER.unpack_from(packet, offset)
        start = offset + (words >> 4 << 2)
        if not offset + TCP_OCTETS <= start <= len(packet) or not (
            trusted or is_valid(packet[offset:], pseudo_header_sum(packet[8:24], packet[24:40], PROTOCOL_TCP, size))
        ):
            host.drop("tcp-malformed")
            return
        if group:
            host.drop("tcp-group")  # RFC 9293, 3.9.2.3 (MUST-57)
            return
        key = packet[8:40] + packet[offset : offset + 4]
        options, marked = packet[offset + TCP_OCTETS : start], packet[1] >> 4 & CE == CE
        segment = Segment(sequence, acknowledgment, flags, window, options, packet[start:], marked)
        connection = table.find(key)
        if connection is not None and (
            connection.state is not State.TIME_WAIT or not table.may_replace(connection, segment)
        ):
            host.delivered += 1
            connection.arrive(segment)
            return
        foreign = None if table.foreign is None else partial(table.foreign, interface, packet, key, segment)
        table.unexpected(self, key, segment, self.scope_of(packet[8:24], interface), foreign)

    def error(self, quoted: bytes, offset: int, error: IcmpError) -> bool:
        """Take an ICMPv6 error about a segment of ours."""
        ports = quoted[offset + 2 : offset + 4] + quoted[offset : offset + 2]
        number = _from_bytes(quoted[offset + 4 : offset + 8], "big")
        return self._table.failed(quoted[24:40] + quoted[8:24] + ports, number, error)

    # The way out

    def source_for(self, destination: bytes, interface: Interface | None) -> bytes | str:
        """Choose the address to talk from, or return why there is none."""
        return "no route" if ipv6.is_multicast(destination) else self._node.route(destination, interface)

    def scope_of(self, remote: bytes, interface: Interface | None) -> Interface | None:
        """Return the *interface* if the address is a link-local one."""
        return interface if ipv6.is_link_local(remote) else None

    def path(self, local: TransportAddress, remote: TransportAddress, interface: Interface | None) -> Ipv6Path | None:
        """Find the way to a peer, by *interface* if its address is link-local; None without a route."""
        node, address = self._node, remote[0]
        if node.is_local(address):
            return Ipv6Path(node, None, local, remote)
        hop = node.next_hop(address, interface or self._link_of(local[0]))
        return None if hop is None else Ipv6Path(node, hop, local, remote)

    def learn(self, destination: bytes, mtu: int, present: int) -> bool:
        """Take what is said of a path's MTU, *present* until now; tell whether it is of use (RFC 8201, 4).

        So it is to a connection that did not know yet what another one was told.
        """
        now, paths = self._node.host.scheduler.now, self._node.paths
        paths.reduce(now, destination, mtu, present)
        return paths.get(now, destination, present) < present

    def send(self, destination: bytes, segment: bytes, source: bytes, interface: Interface | None) -> str | None:
        """Send a segment that belongs to no connection, complete; return None, or why it could not be sent."""
        via = interface or self._link_of(source)
        return self._node.send(destination, PROTOCOL_TCP, segment, source=source, interface=via)

    def is_too_large(self, error: IcmpError) -> bool:
        """Tell whether an error says that a segment was too large."""
        return error.kind == icmpv6.PACKET_TOO_BIG

    def is_refusal(self, error: IcmpError) -> bool:
        """Tell whether an error ends the opening of a connection (RFC 9293, 3.9.2.2; RFC 4443, 3.4 for unknown headers)."""
        unknown = error.kind == icmpv6.PARAMETER_PROBLEM and error.code == ipv6.UNKNOWN_NEXT_HEADER
        return error.kind == icmpv6.UNREACHABLE or unknown

    def _link_of(self, source: bytes) -> Interface | None:
        """Return the interface whose link-local address this is."""
        side = self._node.local.get(source) if ipv6.is_link_local(source) else None
        return None if side is None else side.interface
