"""The connections that pass through a router: what the firewall let in, and how NAT translates it.

A connection is known by two *tuples*, each the twelve octets that stand at ``frame[26:38]`` of an IPv4 packet without
options: source, destination, source port, destination port. ``original`` is the tuple of the packets that the originator
sends, as they *arrive* at the router; ``reply`` that of the packets coming back, as they arrive. Without NAT one is the
other turned round. With NAT they differ, and that difference is the whole translation: a packet that matches one tuple
leaves with the other one, turned round. So translation, firewall state and hairpinning need one table and one lookup.

ICMP queries have no ports: a request carries its identifier as source port, a reply as destination port, the other is zero
(RFC 5508 section 3.1). Protocols without ports have two zeros.

Bounds: ``max_connections`` in all; when full, the oldest ended TCP connection gives way, else the oldest that was never
answered, else the new one is refused. ``max_per_host`` connections that have not ended per originator, so that one scanning
guest cannot take the table from the others.

Time: traffic moves ``deadline`` in the connection and nothing else. The heap holds one entry for each connection at an
instant no later than its deadline; when that comes up the entry goes back at the true deadline, or the connection ends. So a
packet costs no heap operation, and the connection still ends at its exact instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final, final

from vnet.services.firewall.tcp_state import ENDED, LASTING, TRANSITIONS, TcpState, segment_kind
from vnet.units import MINUTE, SECOND, Duration, Instant
from vnet.wire.checksum import delta
from vnet.wire.ipv4 import PROTOCOL_ICMP, PROTOCOL_TCP

MAX_CONNECTIONS: Final = 65_536
MAX_PER_HOST: Final = 16_384


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a connection without traffic is kept: RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-1.

    *tcp_transitory* holds while TCP opens and after it closed. *other* is for protocols without ports.
    """

    udp: Duration = 300 * SECOND
    tcp_established: Duration = 124 * MINUTE
    tcp_transitory: Duration = 4 * MINUTE
    icmp: Duration = 60 * SECOND
    other: Duration = 600 * SECOND


def turned(tuple_: bytes) -> bytes:
    """Turn a tuple round: the one of packets in the other direction."""
    return tuple_[4:8] + tuple_[:4] + tuple_[10:12] + tuple_[8:10]


@final
class Direction:
    """One direction of a connection: what its packets look like when they arrive and when they leave.

    ``address_change`` is the checksum delta of the addresses alone (IP header, and a checksum still to be completed),
    ``transport_change`` that of all that a complete transport checksum covers.
    """

    __slots__ = ("address_change", "arrives", "cached", "connection", "from_originator", "leaves", "transport_change")

    def __init__(self, connection: Connection, arrives: bytes, leaves: bytes, from_originator: bool) -> None:
        self.connection = connection
        self.arrives = arrives
        self.leaves = leaves
        self.from_originator = from_originator
        self.address_change = delta(arrives[:8], leaves[:8])
        # ICMP has no pseudo-header: its checksum does not cover addresses
        self.transport_change = (
            delta(arrives[8:], leaves[8:]) if connection.protocol == PROTOCOL_ICMP else delta(arrives, leaves)
        )
        self.cached: list[bytes] = []
        """Keys of the fast path's entries for this direction, for whoever must take them out."""

    @property
    def ingress(self) -> str:
        """Name the network that the packets come from."""
        return self.connection.from_network if self.from_originator else self.connection.to_network

    @property
    def egress(self) -> str:
        """Name the network that the packets go to."""
        return self.connection.to_network if self.from_originator else self.connection.from_network


@final
class Connection:
    """A tracked connection. ``deadline`` is when it ends unless a packet passes; ``timeout`` is what a packet adds to now.

    ``tcp`` is None for other protocols. ``answered`` tells whether a packet came back, for TCP whether the connection was
    established; until then it may have to give way to a new one. ``lasting`` tells whether plain
    traffic only moves the deadline, so that a fast path may do that alone.
    """

    __slots__ = (
        "_scheduled", "answered", "deadline", "from_network", "lasting", "original", "protocol",
        "reply", "tcp", "timeout", "to_network",
    )  # fmt: skip

    def __init__(self, protocol: int, original: bytes, reply: bytes, from_network: str, to_network: str) -> None:
        self.protocol = protocol
        self.from_network = from_network
        self.to_network = to_network
        self.original = Direction(self, original, turned(reply), True)
        self.reply = Direction(self, reply, turned(original), False)
        self.tcp: TcpState | None = TcpState.OPENING if protocol == PROTOCOL_TCP else None
        self.answered = False
        self.lasting = self.tcp is None
        self.deadline: Instant = 0
        self.timeout: Duration = 0
        self._scheduled: Instant = -1

    @property
    def originator(self) -> bytes:
        """Name the host that opened the connection, by its address before translation."""
        return self.original.arrives[:4]


@final
class ConnectionTable:
    """All connections of a router, found by the tuple of an arriving packet.

    ``on_removed`` is called with each connection that ends, ``on_earlier`` when ``next_deadline`` came nearer. ``evicted``
    counts the connections that gave way to new ones.
    """

    __slots__ = (
        "_ended", "_heap", "_hosts", "_sequence", "_table", "_unanswered",
        "evicted", "max_connections", "max_per_host", "on_earlier", "on_removed", "timeouts",
    )  # fmt: skip

    def __init__(
        self,
        timeouts: Timeouts,
        on_removed: Callable[[Connection], None],
        max_connections: int = MAX_CONNECTIONS,
        max_per_host: int = MAX_PER_HOST,
    ) -> None:
        self.timeouts = timeouts
        self.on_removed = on_removed
        self.on_earlier: Callable[[], None] | None = None
        self.max_connections = max_connections
        self.max_per_host = max_per_host
        self.evicted = 0
        self._table: dict[tuple[int, bytes], Direction] = {}
        self._heap: list[tuple[Instant, int, Connection]] = []
        self._sequence = 0
        self._hosts: dict[bytes, int] = {}
        # dicts for their order: the first key is the oldest
        self._ended: dict[Connection, None] = {}
        self._unanswered: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._table) // 2

    def __iter__(self) -> Iterator[Connection]:
        return (direction.connection for direction in self._table.values() if direction.from_originator)

    def find(self, now: Instant, protocol: int, arrives: bytes) -> Direction | None:
        """Look up what an arriving packet belongs to; a connection whose deadline is *now* has ended."""
        direction = self._table.get((protocol, arrives))
        if direction is not None and direction.connection.deadline <= now:
            self.remove(direction.connection)
            return None
        return direction

    def open(
        self, now: Instant, protocol: int, original: bytes, reply: bytes, from_network: str, to_network: str
    ) -> Connection | str:
        """Enter a connection whose first packet arrives now, or return the reason why there is no room for it.

        A TCP connection begins with a SYN: that is the caller's to check.
        """
        host = original[:4]
        if original == reply or (protocol, original) in self._table or (protocol, reply) in self._table:
            return "tuple-in-use"
        if self._hosts.get(host, 0) >= self.max_per_host:
            return "host-limit"
        if len(self) >= self.max_connections and not self._make_room():
            return "table-full"
        connection = Connection(protocol, original, reply, from_network, to_network)
        self._table[protocol, original] = connection.original
        self._table[protocol, reply] = connection.reply
        self._hosts[host] = self._hosts.get(host, 0) + 1
        self._unanswered[connection] = None
        self._settle(connection, now)
        return connection

    def pass_packet(self, now: Instant, direction: Direction, tcp_flags: int = 0) -> None:
        """Take note of a packet that is being let through; *tcp_flags* is octet 13 of a TCP header."""
        connection = direction.connection
        before = connection.tcp
        if before is None:
            connection.deadline = now + connection.timeout
            if not connection.answered and not direction.from_originator:
                self._answer(connection)
            return
        after = TRANSITIONS.get((before, segment_kind(tcp_flags, direction.from_originator)), before)
        if after is before:
            if after not in ENDED:
                connection.deadline = now + connection.timeout
            return
        connection.tcp = after
        if after in ENDED and before not in ENDED:
            self._uncount(connection)
            self._unanswered.pop(connection, None)
            self._ended[connection] = None
        elif before in ENDED:
            del self._ended[connection]
            host = connection.originator
            self._hosts[host] = self._hosts.get(host, 0) + 1
            connection.answered = False
            self._unanswered[connection] = None
        self._settle(connection, now)
        if connection.lasting and not connection.answered:
            self._answer(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a connection, before its time or at it."""
        if self._table.pop((connection.protocol, connection.original.arrives), None) is None:
            return
        del self._table[connection.protocol, connection.reply.arrives]
        connection.deadline = -1  # whoever still holds it sees that it has ended
        if connection in self._ended:
            del self._ended[connection]
        else:
            self._uncount(connection)
            self._unanswered.pop(connection, None)
        self.on_removed(connection)
        # entries of removed connections are taken out in bulk, so that the heap stays within twice the table
        if len(self._heap) > 2 * len(self) + 1024:
            self._heap = [item for item in self._heap if item[2].deadline >= 0 and item[0] == item[2]._scheduled]
            heapify(self._heap)

    def clear(self) -> None:
        """Forget every connection."""
        for connection in list(self):
            self.remove(connection)

    def next_deadline(self) -> Instant | None:
        """Name an instant at or before which nothing ends: when ``expire`` wants to be called."""
        return self._heap[0][0] if self._heap else None

    def expire(self, now: Instant) -> None:
        """End the connections whose deadline has come."""
        while self._heap and self._heap[0][0] <= now:
            scheduled, _, connection = heappop(self._heap)
            if connection.deadline < 0 or scheduled != connection._scheduled:
                continue  # removed earlier, or another entry stands for it
            if connection.deadline <= now:
                self.remove(connection)
            else:
                self._schedule(connection)

    def _settle(self, connection: Connection, now: Instant) -> None:
        """Give a connection the timeout of its new state."""
        timeouts = self.timeouts
        if connection.tcp is not None:
            connection.lasting = connection.tcp in LASTING
            connection.timeout = timeouts.tcp_established if connection.lasting else timeouts.tcp_transitory
        else:
            connection.timeout = {1: timeouts.icmp, 17: timeouts.udp}.get(connection.protocol, timeouts.other)
        connection.deadline = now + connection.timeout
        if connection._scheduled < 0 or connection.deadline < connection._scheduled:
            self._schedule(connection)

    def _answer(self, connection: Connection) -> None:
        connection.answered = True
        self._unanswered.pop(connection, None)

    def _schedule(self, connection: Connection) -> None:
        self._sequence += 1
        connection._scheduled = connection.deadline
        heappush(self._heap, (connection.deadline, self._sequence, connection))
        if self.on_earlier is not None and self._heap[0][1] == self._sequence:
            self.on_earlier()

    def _make_room(self) -> bool:
        victim = next(iter(self._ended), None) or next(iter(self._unanswered), None)
        if victim is None:
            return False
        self.evicted += 1
        self.remove(victim)
        return True

    def _uncount(self, connection: Connection) -> None:
        host = connection.originator
        left = self._hosts[host] - 1
        if left:
            self._hosts[host] = left
        else:
            del self._hosts[host]
