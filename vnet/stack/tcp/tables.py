"""The TCP transport of a host: connections by their four numbers, listeners by port, and what belongs to nobody.

A segment goes to its connection, else to a probe, else to a listener if it is a SYN, else it is answered with a reset. The
key of a connection is the addresses and ports as they stand in what its peer sends: 12 octets of IPv4, 36 of IPv6, so that
both are found in one table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2s
from typing import TYPE_CHECKING, Final, final

from vnet.errors import UsageError
from vnet.stack.tcp.arrival import negotiate
from vnet.stack.tcp.congestion import Congestion, Cubic
from vnet.stack.tcp.connection import TcpConnection
from vnet.stack.tcp.ecn import CE, Ecn
from vnet.stack.tcp.listener import TcpListener
from vnet.stack.tcp.over_ipv4 import OverIpv4
from vnet.stack.tcp.path import LowerLevel
from vnet.stack.tcp.path_mtu import PathMtus
from vnet.stack.tcp.probe import EPHEMERAL_COUNT, EPHEMERAL_FIRST, OnProbe, Probes
from vnet.stack.tcp.receiver import RECEIVE_BUFFER
from vnet.stack.tcp.sender import SEND_BUFFER
from vnet.stack.tcp.states import MASK, Segment, State, split, unwrap
from vnet.stack.transport import IcmpError, overlap
from vnet.units import MICROSECOND, Duration
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
_ISN_TICK: Final[Duration] = 4 * MICROSECOND


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

    ``foreign(interface, packet, key, segment)`` is asked about each segment that is nobody's; if it is seen to,
    it returns True, and may ``admit`` a SYN later. With a ``transparent`` host, these are the connections of all others.
    """

    __slots__ = (
        "_connections", "_ipv4", "_listeners", "_probes", "_secret", "_waiting", "find", "foreign", "host", "settings",
    )  # fmt: skip

    def __init__(self, host: Host) -> None:
        self.host = host
        self.settings = TcpSettings()
        self._connections: dict[bytes, TcpConnection] = {}
        self._waiting: dict[bytes, TcpConnection] = {}
        self._listeners: dict[int, list[TcpListener]] = {}
        self._ipv4 = OverIpv4(host)
        self._probes = Probes(host)
        self.find: Callable[[bytes], TcpConnection | None] = self._connections.get
        self._secret: bytes | None = None
        self.foreign: OnForeign | None = None

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def connections(self) -> tuple[TcpConnection, ...]:
        """All connections, those in TIME-WAIT too, in the order they began."""
        return tuple(self._connections.values())

    @property
    def path_mtus(self) -> PathMtus:
        """What is known of the MTUs on the ways to IPv4 destinations; those of IPv6 are ``Ipv6Node.paths``."""
        return self._ipv4.mtus

    # What users ask for

    def connect(
        self, destination: bytes, port: int, *, source: bytes | None = None, source_port: int = 0,
        interface: Interface | None = None,
    ) -> TcpConnection:  # fmt: skip
        """Begin a connection: its SYN goes out at once, or it has failed with ``error`` set, as ``on_change`` tells later.

        Port 0 picks a free dynamic one (RFC 6056, 3.3.1). A link-local destination is one on the link of *interface*, or
        else of the first with IPv6. Raise UsageError if the port is taken or cannot be.
        """
        if not 1 <= port <= 0xFFFF or not 0 <= source_port <= 0xFFFF:
            raise UsageError(f"{port} and {source_port} must be ports: 1 to 65535, the source's may be 0")
        if source is not None and len(source) != len(destination):
            raise UsageError("source and destination must be of the same IP version")
        host = self.host
        problem = None
        lower = self._lower(destination)
        chosen = lower.source_for(destination, interface) if source is None else source
        if isinstance(chosen, str):
            source, problem = lower.unspecified, chosen
        else:
            source = chosen
        if len(self._connections) >= MAX_CONNECTIONS:
            raise UsageError(f"{host.name} has {MAX_CONNECTIONS} TCP connections already")
        local_port = source_port or self._free_port(destination, source, port)
        key = destination + source + port.to_bytes(2, "big") + local_port.to_bytes(2, "big")
        if key in self._connections:
            raise UsageError(f"TCP port {local_port} of {host.name} is taken for that destination")
        scope = lower.scope_of(destination, interface)
        connection = TcpConnection(self, lower, key, (source, local_port), (destination, port), scope)
        self._connections[key] = connection
        connection.open(problem)
        return connection

    def listen(self, port: int = 0, address: bytes | None = None, *, backlog: int = 128, both: bool = False) -> TcpListener:
        """Listen on a port of one address or of all; port 0 picks a free dynamic one.

        Without *address* it is for IPv4, with ``::`` for IPv6, and with *both* for both. Raise UsageError if it is taken.
        """
        if not 0 <= port <= 0xFFFF:
            raise UsageError(f"{port} is not a port: it must be 0 to 65535")
        if port == 0:
            port = self._free_listening_port()
        listeners = self._listeners.get(port, [])
        if any(overlap(other.address, other.both, address, both) for other in listeners):
            raise UsageError(f"TCP port {port} of {self.host.name} is taken")
        listener = TcpListener(self, port, address, backlog, both=both)
        self._listeners[port] = [*listeners, listener]
        return listener

    def probe(
        self, destination: bytes, port: int, timeout: Duration, on_result: OnProbe, interface: Interface | None = None
    ) -> None:
        """Send one SYN and see what comes back; *on_result* is called once, never from within this call."""
        self._probes.probe(self._lower(destination), destination, port, timeout, on_result, self._connections, interface)

    # What arrives

    def receive(self, interface: Interface, packet: bytes, octets: int, *, trusted: bool, group: bool) -> None:
        """Take a segment, or a super-frame of them."""
        host = self.host
        size = len(packet) - octets
        if size < HEADER_OCTETS:
            host.drop("tcp-malformed")
            return
        _, _, sequence, acknowledgment, offset, flags, window, _, _ = HEADER.unpack_from(packet, octets)
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
        if connection is not None and (connection.state is not State.TIME_WAIT or not self.may_replace(connection, segment)):
            host.delivered += 1
            connection.arrive(segment)
            return
        foreign = None if self.foreign is None else partial(self.foreign, interface, packet, key, segment)
        self.unexpected(self._ipv4, key, segment, None, foreign)

    def unexpected(
        self, lower: LowerLevel, key: bytes, segment: Segment, scope: Interface | None,
        foreign: Callable[[], bool] | None = None,
    ) -> None:  # fmt: skip
        """Take a segment that belongs to no connection: to a probe, to a listener, or to nobody (RFC 9293, 3.10.7.1)."""
        flags = segment.flags
        destination, port = split(key)[1]
        if self._probes.take(key, segment):
            if flags & RST:
                return
        elif flags & (SYN | ACK | RST) == SYN and (listener := self._listener(destination, port)) is not None:
            self._open(lower, listener, key, segment, scope)
            return
        elif foreign is not None and foreign():
            return
        else:
            self.host.drop("tcp-port")
        self._refuse(lower, key, segment, scope)

    def refuse(self, key: bytes, segment: Segment) -> None:
        """Answer a segment that ``foreign`` saw to with a reset."""
        self._refuse(self._lower(split(key)[0][0]), key, segment, None)

    def admit(self, key: bytes, segment: Segment) -> TcpConnection | None:
        """Answer a SYN that ``foreign`` saw to; None if there are too many connections. ``on_change`` tells the outcome."""
        if len(self._connections) >= MAX_CONNECTIONS or key in self._connections:
            return None
        return self._take(self._lower(split(key)[0][0]), None, key, segment, None)

    def _refuse(self, lower: LowerLevel, key: bytes, segment: Segment, scope: Interface | None) -> None:
        """Answer a segment of no connection with a reset, unless it is one (RFC 9293, 3.10.7.1)."""
        (source, source_port), (destination, port) = split(key)
        whole = Tcp(
            source_port=source_port, destination_port=port, sequence=segment.sequence,
            acknowledgment=segment.acknowledgment, flags=segment.flags, payload=segment.payload,
        )  # fmt: skip
        answer = reset_answering(whole)
        if answer is not None:
            lower.send(source, answer.encode(destination, source), destination, scope)

    def expects(self, packet: bytes, octets: int) -> bool:
        """Tell whether somebody waits for the segment in *packet*, whose IPv4 header has *octets*."""
        key = packet[12:20] + packet[octets : octets + 4]
        if key in self._connections or self._probes.is_waiting(key):
            return True
        return self._listener(packet[16:20], int.from_bytes(key[10:], "big")) is not None

    def error(self, quoted: bytes, octets: int, error: IcmpError) -> bool:
        """Take an ICMP error about a segment of ours."""
        ports = quoted[octets + 2 : octets + 4] + quoted[octets : octets + 2]
        number = int.from_bytes(quoted[octets + 4 : octets + 8], "big")
        return self.failed(quoted[16:20] + quoted[12:16] + ports, number, error)

    def failed(self, key: bytes, number: int, error: IcmpError) -> bool:
        """Take an error about segment *number* of what has this key; tell whether anybody was concerned.

        RFC 9293, 3.9.2.2; RFC 5927 for the check of the number.
        """
        if self._probes.error(key, number, error):
            return True
        connection = self._connections.get(key)
        if connection is None:
            return False
        sender = connection.sender
        if not sender.una <= unwrap(number, sender.nxt) <= sender.high:
            return False
        if connection.lower.is_too_large(error):
            connection.out.too_large(error.mtu)
        elif connection.state is State.SYN_SENT and connection.lower.is_refusal(error):
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
        connection.lower.send(remote, segment.encode(local, remote), local, connection.scope)

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

    def may_replace(self, connection: TcpConnection, segment: Segment) -> bool:
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

    # Inside

    def _lower(self, address: bytes) -> LowerLevel:
        return self._ipv4 if len(address) == 4 else self.host.use_ipv6().tcp

    def _open(self, lower: LowerLevel, listener: TcpListener, key: bytes, segment: Segment, scope: Interface | None) -> None:
        """Take a SYN (RFC 9293, 3.10.7.2)."""
        host = self.host
        if len(self._connections) >= MAX_CONNECTIONS:
            host.drop("tcp-connections-full")
            return
        if self._take(lower, listener, key, segment, scope) is None:
            host.drop("tcp-backlog")

    def _take(
        self, lower: LowerLevel, listener: TcpListener | None, key: bytes, segment: Segment, scope: Interface | None
    ) -> TcpConnection | None:
        remote, local = split(key)
        connection = TcpConnection(self, lower, key, local, remote, scope)
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
            if listener.takes(address):
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
