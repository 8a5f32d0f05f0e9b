"""The TCP transport of a host: connections by their four numbers, listeners by port, and what belongs to nobody.

A segment goes to its connection, else to a probe, else to a listener if it is a SYN, else it is answered with a reset. The
key of a connection is the 12 octets of addresses and ports as they stand in what its peer sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2s
from typing import TYPE_CHECKING, Final, final

from vnet.errors import UsageError
from vnet.stack.tcp.arrival import negotiate
from vnet.stack.tcp.congestion import Congestion, Cubic
from vnet.stack.tcp.connection import TcpConnection
from vnet.stack.tcp.ecn import CE, Ecn
from vnet.stack.tcp.path_mtu import PathMtus
from vnet.stack.tcp.probe import EPHEMERAL_COUNT, EPHEMERAL_FIRST, OnProbe, Probes
from vnet.stack.tcp.receiver import RECEIVE_BUFFER
from vnet.stack.tcp.sender import SEND_BUFFER
from vnet.stack.tcp.states import MASK, Segment, State, unwrap
from vnet.stack.transport import IcmpError
from vnet.units import MICROSECOND, SECOND, Duration, Instant
from vnet.wire import icmpv4, ipv4
from vnet.wire.checksum import is_valid, pseudo_header_sum
from vnet.wire.ipv4 import PROTOCOL_TCP
from vnet.wire.tcp import ACK, HEADER, HEADER_OCTETS, RST, SYN, Tcp, reset_answering
from vnet.wire.tcp_options import decode

if TYPE_CHECKING:
    from vnet.stack.host import Host
    from vnet.stack.interface import Interface

MAX_CONNECTIONS: Final = 32768
"""Connections of one host in all states; SYNs beyond are dropped."""
MAX_TIME_WAIT: Final = 8192
"""Connections in TIME-WAIT; the oldest gives way."""
HALF_OPEN_GRACE: Final[Duration] = 1 * SECOND
"""How long a handshake is safe from giving way to another when the backlog is full."""
_ISN_TICK: Final[Duration] = 4 * MICROSECOND


@final
class TcpListener:
    """Takes connections to a port; made by ``TcpTable.listen``.

    ``backlog`` bounds the handshakes under way and the connections not taken together: when it is full, the oldest handshake
    of more than a second gives way, else the SYN is dropped and will come again. ``on_ready`` is called when ``accept`` has
    something.
    """

    __slots__ = ("_pending", "_ready", "_table", "address", "backlog", "is_closed", "on_ready", "port")

    def __init__(self, table: TcpTable, port: int, address: bytes | None, backlog: int) -> None:
        self._table = table
        self.port = port
        self.address = address
        self.backlog = max(1, backlog)
        self.on_ready: Callable[[], None] | None = None
        self.is_closed = False
        self._pending: dict[bytes, tuple[Instant, TcpConnection]] = {}
        self._ready: deque[TcpConnection] = deque()

    def accept(self) -> TcpConnection | None:
        """Take the next connection, or None; it may have failed since."""
        return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        """Listen no more; connections that nobody took are reset."""
        if not self.is_closed:
            self.is_closed = True
            self._table.unlisten(self)
            for connection in [*(pending for _, pending in self._pending.values()), *self._ready]:
                connection.abort()
            self._ready.clear()

    # For the table and its connections

    def admit(self, connection: TcpConnection, now: Instant) -> bool:
        """Begin a handshake if there is room.

        Its age counts from here: a peer that goes on repeating its SYN must not keep the whole backlog from giving way.
        """
        if len(self._pending) + len(self._ready) >= self.backlog:
            admitted_at, oldest = next(iter(self._pending.values()), (now, None))
            if oldest is None or now - admitted_at < HALF_OPEN_GRACE:
                return False
            oldest.fail("timed out")
        self._pending[connection.key] = now, connection
        return True

    def established(self, connection: TcpConnection) -> None:
        """Offer a connection to the user."""
        if self._pending.pop(connection.key, None) is not None:
            self._ready.append(connection)
            if self.on_ready is not None:
                self.on_ready()

    def forget(self, connection: TcpConnection) -> None:
        """Give up a handshake."""
        if self._pending.get(connection.key, (0, None))[1] is connection:
            del self._pending[connection.key]


@final
@dataclass(slots=True, kw_only=True)
class TcpSettings:
    """What new connections of a host begin with; buffers in octets. Peers differ, and so may emulated ones."""

    send_buffer: int = SEND_BUFFER
    receive_buffer: int = RECEIVE_BUFFER
    sack: bool = True
    timestamps: bool = True
    window_scaling: bool = True
    ecn: Ecn = Ecn.ACCEPT
    coalesced: int = 0
    """Super-frames acknowledged together, see ``Receiver``."""
    congestion: Callable[[int], Congestion] = Cubic
    """Makes the congestion control from the segment size: ``Cubic`` or ``NewReno``."""


OnForeign = Callable[["Interface", bytes, bytes, Segment], bool]


@final
class TcpTable:
    """The TCP transport of a host.

    ``foreign(interface, packet, key, segment)`` is asked about each segment that is nobody's; if it is seen to, it returns
    True, and may ``admit`` a SYN later. With a ``transparent`` host, these are the connections of all others.
    """

    __slots__ = ("_connections", "_listeners", "_probes", "_secret", "_waiting", "foreign", "host", "path_mtus", "settings")

    def __init__(self, host: Host) -> None:
        self.host = host
        self.settings = TcpSettings()
        self._connections: dict[bytes, TcpConnection] = {}
        self._waiting: dict[bytes, TcpConnection] = {}
        self._listeners: dict[int, list[TcpListener]] = {}
        self.path_mtus = PathMtus(host.scheduler)
        self._probes = Probes(host)
        self._secret: bytes | None = None
        self.foreign: OnForeign | None = None

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def connections(self) -> tuple[TcpConnection, ...]:
        """All connections, those in TIME-WAIT too, in the order they began."""
        return tuple(self._connections.values())

    def find(self, key: bytes) -> TcpConnection | None:
        """Find a connection by its key."""
        return self._connections.get(key)

    # What users ask for

    def connect(self, destination: bytes, port: int, *, source: bytes | None = None, source_port: int = 0) -> TcpConnection:
        """Begin a connection: its SYN goes out at once, or it has failed with ``error`` set, as ``on_change`` tells later.

        Port 0 picks a free dynamic one (RFC 6056, 3.3.1). Raise UsageError if the port is taken or cannot be.
        """
        if not 1 <= port <= 0xFFFF or not 0 <= source_port <= 0xFFFF:
            raise UsageError(f"{port} and {source_port} must be ports: 1 to 65535, the source's may be 0")
        host = self.host
        problem = None
        if source is None:
            source = None if host.is_group(destination) else host.source_for(destination)
        if source is None:
            source, problem = ipv4.ANY, "no route"
        if len(self._connections) >= MAX_CONNECTIONS:
            raise UsageError(f"{host.name} has {MAX_CONNECTIONS} TCP connections already")
        local_port = source_port or self._free_port(destination, source, port)
        key = destination + source + port.to_bytes(2, "big") + local_port.to_bytes(2, "big")
        if key in self._connections:
            raise UsageError(f"TCP port {local_port} of {host.name} is taken for that destination")
        connection = TcpConnection(self, key, (source, local_port), (destination, port))
        self._connections[key] = connection
        connection.open(problem)
        return connection

    def listen(self, port: int = 0, address: bytes | None = None, *, backlog: int = 128) -> TcpListener:
        """Listen on a port of one address or of all; port 0 picks a free dynamic one. Raise UsageError if it is taken."""
        if not 0 <= port <= 0xFFFF:
            raise UsageError(f"{port} is not a port: it must be 0 to 65535")
        if port == 0:
            port = self._free_listening_port()
        listeners = self._listeners.get(port, [])
        if any(other.address == address or None in (other.address, address) for other in listeners):
            raise UsageError(f"TCP port {port} of {self.host.name} is taken")
        listener = TcpListener(self, port, address, backlog)
        self._listeners[port] = [*listeners, listener]
        return listener

    def probe(self, destination: bytes, port: int, timeout: Duration, on_result: OnProbe) -> None:
        """Send one SYN and see what comes back; *on_result* is called once, never from within this call."""
        self._probes.probe(destination, port, timeout, on_result, self._connections)

    # What arrives

    def receive(self, interface: Interface, packet: bytes, octets: int, *, trusted: bool, group: bool) -> None:
        """Take a segment, or a super-frame of them."""
        host = self.host
        size = len(packet) - octets
        if size < HEADER_OCTETS:
            host.drop("tcp-malformed")
            return
        _, destination_port, sequence, acknowledgment, offset, flags, window, _, _ = HEADER.unpack_from(packet, octets)
        start = octets + (offset >> 4 << 2)
        if not octets + HEADER_OCTETS <= start <= len(packet) or not (
            trusted or is_valid(packet[octets:], pseudo_header_sum(packet[12:16], packet[16:20], PROTOCOL_TCP, size))
        ):
            host.drop("tcp-malformed")
            return
        if group:
            host.drop("tcp-group")  # RFC 9293, 3.9.2.3 (MUST-57)
            return
        key = packet[12:20] + packet[octets : octets + 4]
        options, marked = packet[octets + HEADER_OCTETS : start], packet[1] & CE == CE
        segment = Segment(sequence, acknowledgment, flags, window, options, packet[start:], marked)
        connection = self._connections.get(key)
        if connection is not None and (
            connection.state is not State.TIME_WAIT or not self._may_replace(connection, segment)
        ):
            host.delivered += 1
            connection.arrive(segment)
            return
        if self._probes.take(key, segment):
            if segment.flags & RST:
                return
        elif flags & (SYN | ACK | RST) == SYN and (listener := self._listener(packet[16:20], destination_port)) is not None:
            self._open(listener, key, segment)
            return
        elif self.foreign is not None and self.foreign(interface, packet, key, segment):
            return
        else:
            host.drop("tcp-port")
        self.refuse(key, segment)

    def refuse(self, key: bytes, segment: Segment) -> None:
        """Answer a segment of no connection with a reset, unless it is one (RFC 9293, 3.10.7.1)."""
        remote, local = key[:4], key[4:8]
        whole = Tcp(
            source_port=key[8] << 8 | key[9], destination_port=key[10] << 8 | key[11], sequence=segment.sequence,
            acknowledgment=segment.acknowledgment, flags=segment.flags, payload=segment.payload,
        )  # fmt: skip
        answer = reset_answering(whole)
        if answer is not None:
            self.host.send_ipv4(remote, PROTOCOL_TCP, answer.encode(local, remote), source=local)

    def admit(self, key: bytes, segment: Segment) -> TcpConnection | None:
        """Answer a SYN that ``foreign`` saw to; None if there are too many connections. ``on_change`` tells the outcome."""
        is_full = len(self._connections) >= MAX_CONNECTIONS
        return None if is_full or key in self._connections else self._take(None, key, segment)

    def expects(self, packet: bytes, octets: int) -> bool:
        """Tell whether somebody waits for the segment in *packet*, whose IPv4 header has *octets*."""
        key = packet[12:20] + packet[octets : octets + 4]
        if key in self._connections or self._probes.is_waiting(key):
            return True
        return self._listener(packet[16:20], int.from_bytes(key[10:], "big")) is not None

    def error(self, quoted: bytes, octets: int, error: IcmpError) -> bool:
        """Take an ICMP error about a segment of ours (RFC 9293, 3.9.2.2; RFC 5927 for the check of its number)."""
        if self._probes.error(quoted, octets, error):
            return True
        ports = quoted[octets + 2 : octets + 4] + quoted[octets : octets + 2]
        connection = self._connections.get(quoted[16:20] + quoted[12:16] + ports)
        if connection is None:
            return False
        sender = connection.sender
        sequence = unwrap(int.from_bytes(quoted[octets + 4 : octets + 8], "big"), sender.nxt)
        if not sender.una <= sequence <= sender.high:
            return False
        if error.kind == icmpv4.UNREACHABLE and error.code == icmpv4.FRAGMENTATION_NEEDED:
            connection.out.too_large(error.mtu)
        elif error.kind == icmpv4.UNREACHABLE and connection.state is State.SYN_SENT:
            connection.fail(error.text)
            connection.tell()
        return True  # else it may pass: data goes on being sent until patience ends

    # For connections

    def remove(self, connection: TcpConnection) -> None:
        """Forget a connection that is over."""
        if self._connections.get(connection.key) is connection:
            del self._connections[connection.key]
        self._waiting.pop(connection.key, None)

    def wait(self, connection: TcpConnection) -> None:
        """Note a connection that enters TIME-WAIT."""
        self._waiting[connection.key] = connection
        if len(self._waiting) > MAX_TIME_WAIT:
            oldest = next(iter(self._waiting.values()))
            oldest.enter(State.CLOSED)
            oldest.tell()

    def unlisten(self, listener: TcpListener) -> None:
        """Forget a listener."""
        left = [other for other in self._listeners.get(listener.port, []) if other is not listener]
        if left:
            self._listeners[listener.port] = left
        else:
            self._listeners.pop(listener.port, None)

    def reset(self, connection: TcpConnection, sequence: int) -> None:
        """Send a reset with this number to the connection's peer."""
        (local, local_port), (remote, remote_port) = connection.local, connection.remote
        segment = Tcp(source_port=local_port, destination_port=remote_port, sequence=sequence, flags=RST)
        self.host.send_ipv4(remote, PROTOCOL_TCP, segment.encode(local, remote), source=local)

    def initial_numbers(self, key: bytes) -> tuple[int, int]:
        """Choose the first sequence number and the timestamp offset of a connection (RFC 6528, section 3; RFC 7323, 5.4).

        The number grows by one in 4 us from where a keyed hash of the connection's key puts it, so that a connection that
        follows another of the same key goes on behind it.
        """
        if self._secret is None:
            self._secret = self.host.stream("tcp-isn").octets(32)
        digest = blake2s(key, key=self._secret, digest_size=8).digest()
        isn = int.from_bytes(digest[:4], "big") + self.host.scheduler.now // _ISN_TICK
        return isn & MASK, int.from_bytes(digest[4:], "big")

    def forget_paths(self) -> None:
        """Look every route up again, because something changed."""
        for connection in self._connections.values():
            connection.out.forget_path()

    # Inside

    def _may_replace(self, connection: TcpConnection, segment: Segment) -> bool:
        """Tell whether a SYN may take the place of a connection in TIME-WAIT, which then ends (RFC 6191, section 2)."""
        if segment.flags & (SYN | ACK | RST) != SYN or (self.foreign is None and self._listener(*connection.local) is None):
            return False
        receiver = connection.receiver
        stamps = decode(segment.options).timestamps
        if connection.stamps and stamps is not None:
            newer = unwrap(stamps[0], receiver.recent) > receiver.recent
        else:
            newer = False
        if not newer and unwrap(segment.sequence, receiver.nxt) <= receiver.nxt:
            return False
        connection.enter(State.CLOSED)
        return True

    def _open(self, listener: TcpListener, key: bytes, segment: Segment) -> None:
        """Take a SYN (RFC 9293, 3.10.7.2)."""
        host = self.host
        if len(self._connections) >= MAX_CONNECTIONS:
            host.drop("tcp-connections-full")
            return
        if self._take(listener, key, segment) is None:
            host.drop("tcp-backlog")

    def _take(self, listener: TcpListener | None, key: bytes, segment: Segment) -> TcpConnection | None:
        local = key[4:8], int.from_bytes(key[10:], "big")
        remote = key[:4], int.from_bytes(key[8:10], "big")
        connection = TcpConnection(self, key, local, remote)
        if listener is not None and not listener.admit(connection, self.host.scheduler.now):
            return None
        self.host.delivered += 1
        self._connections[key] = connection
        connection.listener = listener
        connection.state = State.SYN_RECEIVED
        connection.receiver.start(segment.sequence)
        negotiate(connection, decode(segment.options))
        connection.ecn.take_syn(segment.flags, is_first=True)
        connection.out.send_syn()
        return connection

    def _listener(self, address: bytes, port: int) -> TcpListener | None:
        for listener in self._listeners.get(port, ()):
            if listener.address is None or listener.address == address:
                return listener
        return None

    def _free_port(self, destination: bytes, source: bytes, port: int) -> int:
        head = destination + source + port.to_bytes(2, "big")
        offset = self.host.stream("tcp-ports").below(EPHEMERAL_COUNT)
        for step in range(EPHEMERAL_COUNT):
            candidate = EPHEMERAL_FIRST + (offset + step) % EPHEMERAL_COUNT
            key = head + candidate.to_bytes(2, "big")
            if key not in self._connections and not self._probes.is_waiting(key) and candidate not in self._listeners:
                return candidate
        raise UsageError(f"every dynamic TCP port of {self.host.name} is taken for that destination")

    def _free_listening_port(self) -> int:
        offset = self.host.stream("tcp-ports").below(EPHEMERAL_COUNT)
        for step in range(EPHEMERAL_COUNT):
            candidate = EPHEMERAL_FIRST + (offset + step) % EPHEMERAL_COUNT
            if candidate not in self._listeners:
                return candidate
        raise UsageError(f"every dynamic TCP port of {self.host.name} is taken")
