"""The short way through a router: packets that look like one that was forwarded before.

How it works: the long way (``forwarder``) checks a packet, finds its route, asks the firewall and translates it. What it
found is then the same for every packet with the same fragment word, TTL, protocol, addresses and ports, so it is stored
under exactly those octets, ``frame[20:24] + frame[26:38]``. An entry holds the ready octets and the checksum deltas that
turn such a packet into what leaves: for each further packet there is one look-up, one sum over the header, at most two
checksum updates and one copy. A super-frame costs the same.

What is not in the key is checked for each packet: version and IHL, total length, the header's checksum (RFC 1812 5.2.2), TCP
flags that move the connection's state, the connection's deadline, the egress MTU. Whatever does not fit goes the long way,
so this path only ever does what the long way did for a packet just like it. The neighbor's Ethernet header is read through
its entry: while the neighbor is unresolved or wants to be confirmed, the long way is taken.

The table is emptied when addresses, routes or configuration change. A connection that ends takes its entries with it, and
its deadline lies in the past in case one was overlooked. When the table is full it is emptied too: filling it again costs
one long way for each flow that is alive.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, final

from vnet.ports import NO_OFFLOAD
from vnet.services.firewall.conntrack import Connection, Direction
from vnet.services.firewall.tcp_state import STATE_FLAGS
from vnet.wire.checksum import delta
from vnet.wire.ethernet import HEADER_OCTETS
from vnet.wire.ipv4 import PROTOCOL_TCP, PROTOCOL_UDP
from vnet.wire.segmentation import largest_frame
from vnet.wire.virtio_net import NEEDS_CSUM

if TYPE_CHECKING:
    from collections.abc import Callable

    from vnet.ports import Scheduler
    from vnet.stack.interface import Interface
    from vnet.stack.neighbor import Neighbor

MAX_FLOWS: Final = 131_072
MAX_KEYS: Final = 4
"""Entries of one direction, which differ in TTL or DF; the oldest gives way."""
COPY_LIMIT: Final = 2048
"""From this size on, in octets, joining through a view is faster than slicing first."""
FOREVER: Final = 1 << 62

_peek_ip: Final = Struct("!HHH4xH").unpack_from
"""Version to TOS, total length, identification, header checksum; from offset 14."""
_peek_tcp: Final = Struct("!H2xH").unpack_from
"""Data offset and flags, checksum; from offset 46."""
_pack_plain: Final = Struct("!14s8s2sH").pack
_pack_tcp: Final = Struct("!14s8s2sH12s12sH").pack
_pack_udp: Final = Struct("!14s8s2sH12s2sH").pack
_from_bytes: Final = int.from_bytes


def untracked() -> Connection:
    """Make the connection of packets that belong to none: it never ends."""
    connection = Connection(0, bytes(12), bytes(12), "", "")
    connection.deadline = connection.timeout = FOREVER
    return connection


def pending_at(octets: int, protocol: int) -> bytes:
    """Write csum_start and csum_offset as an offload header must have them, if the packet's checksum is pending.

    *octets* is the length of the IPv4 header. Whoever completes the checksum writes where these point: a lie would change
    what the firewall has judged. Only TCP and UDP have a checksum to be left pending.
    """
    offset = {PROTOCOL_TCP: 16, PROTOCOL_UDP: 6}.get(protocol)
    return b"" if offset is None else (HEADER_OCTETS + octets).to_bytes(2, "little") + offset.to_bytes(2, "little")


def _is_lie(offload: bytes, truth: bytes) -> bool:
    return bool(offload[0] & NEEDS_CSUM) and offload[6:] != truth


@final
class Flow:
    """What is the same for all packets of one key."""

    __slots__ = (
        "address_change", "connection", "header_change", "header_sum", "ingress", "kind", "leaves", "limit", "neighbor",
        "pending_at", "port", "shortest", "transport_change", "ttl_protocol",
    )  # fmt: skip

    def __init__(
        self, ingress: Interface, frame: bytes, egress: Interface, neighbor: Neighbor, direction: Direction | None,
        connection: Connection,
    ) -> None:  # fmt: skip
        protocol = frame[23]
        self.ingress = ingress
        self.connection = connection
        self.neighbor = neighbor
        self.port = egress.port
        self.limit = egress.mtu + HEADER_OCTETS
        self.ttl_protocol = bytes((frame[22] - 1, protocol))
        self.header_sum = (_from_bytes(frame[20:24], "big") + _from_bytes(frame[26:34], "big")) % 0xFFFF
        self.header_change = delta(frame[22:24], self.ttl_protocol)
        self.leaves = frame[26:38]
        self.address_change = self.transport_change = 0
        self.pending_at = pending_at(20, protocol)
        self.kind = 0  # 0: only the IP header changes
        self.shortest = 20
        if direction is not None and direction.arrives != direction.leaves:
            self.kind = protocol
            self.shortest = 40 if protocol == PROTOCOL_TCP else 28
            self.leaves = direction.leaves
            self.address_change = direction.address_change
            self.transport_change = direction.transport_change
            self.header_change = (self.header_change + direction.address_change) % 0xFFFF


@final
class FlowTable:
    """The flows of one router. ``receive`` is the router's handler; what it cannot do goes to *long_way*."""

    __slots__ = ("_flows", "_long_way", "_scheduler", "_untracked", "forwarded")

    def __init__(self, scheduler: Scheduler, long_way: Callable[[Interface, bytes, bytes], None]) -> None:
        self._scheduler = scheduler
        self._long_way = long_way
        self._flows: dict[bytes, Flow] = {}
        self._untracked = untracked()
        self.forwarded = 0

    def __len__(self) -> int:
        return len(self._flows)

    def receive(self, interface: Interface, frame: bytes, offload: bytes) -> None:
        """Forward a frame that the interface took from its cable."""
        flow = self._flows.get(frame[20:24] + frame[26:38])
        if flow is None or flow.ingress is not interface or (header := flow.neighbor.header) is None:
            self._long_way(interface, frame, offload)
            return
        # a frame with a key has 38 octets at least
        version_tos, total, ident, check = _peek_ip(frame, 14)
        size = total + 14
        connection = flow.connection
        now = self._scheduler.now
        if (
            version_tos & 0xFF00 != 0x4500
            or (version_tos + total + ident + check + flow.header_sum) % 0xFFFF
            or total < flow.shortest
            or size > len(frame)
            or connection.deadline <= now
            or frame[0] & 1
            or (offload is not NO_OFFLOAD and (len(offload) != 10 or _is_lie(offload, flow.pending_at)))
            or (size > flow.limit and not (offload[1] and largest_frame(frame, offload) <= flow.limit))
        ):
            self._long_way(interface, frame, offload)
            return
        if size != len(frame):
            frame = frame[:size]  # padding of a short frame
        check = (check + flow.header_change) % 0xFFFF
        kind = flow.kind
        if kind == PROTOCOL_TCP:
            flags, field = _peek_tcp(frame, 46)
            if flags & STATE_FLAGS:
                self._long_way(interface, frame, offload)
                return
            if offload is not NO_OFFLOAD and offload[0] & NEEDS_CSUM:
                field = (field - flow.address_change) % 0xFFFF
            else:
                field = (field + flow.transport_change) % 0xFFFF
            head = _pack_tcp(header, frame[14:22], flow.ttl_protocol, check, flow.leaves, frame[38:50], field)
            start = 52
        elif kind == PROTOCOL_UDP:
            field = frame[40] << 8 | frame[41]
            if offload is not NO_OFFLOAD and offload[0] & NEEDS_CSUM:
                field = (field - flow.address_change) % 0xFFFF
            elif field:
                field = (field + flow.transport_change) % 0xFFFF or 0xFFFF
            head = _pack_udp(header, frame[14:22], flow.ttl_protocol, check, flow.leaves, frame[38:40], field)
            start = 42
        else:
            if frame[23] == PROTOCOL_TCP and (len(frame) < 54 or frame[47] & STATE_FLAGS):
                self._long_way(interface, frame, offload)
                return
            head = _pack_plain(header, frame[14:22], flow.ttl_protocol, check)
            start = 26
        connection.deadline = now + connection.timeout
        self.forwarded += 1
        flow.port.send(head + (frame[start:] if size < COPY_LIMIT else memoryview(frame)[start:]), offload)

    def remember(
        self, ingress: Interface, frame: bytes, egress: Interface, neighbor: Neighbor, direction: Direction | None
    ) -> None:
        """Store how *frame*, which was found good and has no IP options, was forwarded."""
        if len(self._flows) >= MAX_FLOWS:
            self.clear()
        key = frame[20:24] + frame[26:38]
        connection = self._untracked
        if direction is not None:
            connection = direction.connection
            cached = direction.cached
            if key not in cached:
                if len(cached) >= MAX_KEYS:
                    self._flows.pop(cached.pop(0), None)
                cached.append(key)
        self._flows[key] = Flow(ingress, frame, egress, neighbor, direction, connection)

    def forget(self, connection: Connection) -> None:
        """Take out what belongs to a connection."""
        for direction in (connection.original, connection.reply):
            for key in direction.cached:
                self._flows.pop(key, None)
            direction.cached.clear()

    def clear(self) -> None:
        """Forget every flow."""
        self._flows.clear()
