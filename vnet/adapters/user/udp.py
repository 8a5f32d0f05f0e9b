"""Guests' datagrams to the outside: a connected host socket for each guest's transport address and destination.

So Linux filters what comes back by the destination's address and port, and tells of ICMP errors, which go on to the guest as
if they had come all the way.
"""

from __future__ import annotations

import socket
from typing import Final, final

from vnet.adapters.user.errors import UNREACHABLE, told
from vnet.adapters.user.flows import FlowTable
from vnet.adapters.user.outside import Outside
from vnet.errors import WireError
from vnet.stack.interface import Interface
from vnet.stack.transport import IcmpError, TransportAddress
from vnet.stack.udp import UdpSocket
from vnet.units import SECOND, Duration, Instant
from vnet.wire import udp

MAX_FLOWS: Final = 8192
LIFETIME: Final[Duration] = 300 * SECOND
"""RFC 4787, REQ-5: not less than 2 minutes, 5 recommended."""
DATAGRAMS_A_WAKE_UP: Final = 32
_LARGEST: Final = 65535


@final
class _Flow:
    """One socket, and the guest's end of it."""

    __slots__ = ("_fd", "_guest", "_out", "_outside", "_quote", "_sock", "_ttl", "used")

    def __init__(self, outside: Outside, sock: socket.socket, guest: TransportAddress, far: TransportAddress) -> None:
        self._outside = outside
        self._sock = sock
        self._fd = sock.fileno()
        self._guest = guest
        self._out = UdpSocket(outside.host, far[1], far[0], None, _nothing)
        self._quote = b""
        self._ttl = 0
        self.used: Instant = outside.scheduler.now
        outside.poller.wants_read(self._fd, self._on_readable)

    def send(self, packet: bytes, octets: int, payload: bytes) -> None:
        """Let a datagram of the guest go on."""
        self.used = self._outside.scheduler.now
        self._quote = packet[: octets + udp.HEADER_OCTETS]
        try:
            if packet[8] != self._ttl:
                self._ttl = packet[8]
                self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, max(1, self._ttl - 1))
            try:
                self._sock.send(payload)
            except ConnectionRefusedError:
                self._tell()
                self._sock.send(payload)  # that was about an earlier one
        except BlockingIOError:
            self._outside.drops["udp-full"] += 1
        except OSError as error:
            self._failed(error)

    def close(self) -> None:
        """Give the socket up."""
        self._outside.close(self._sock)

    def forget_paths(self) -> None:
        """Look the guest up again."""
        self._out.forget_paths()

    def _on_readable(self) -> None:
        receive, send, guest = self._sock.recv, self._out.send_to, self._guest
        try:
            for _ in range(DATAGRAMS_A_WAKE_UP):
                send(receive(_LARGEST), guest)
                self.used = self._outside.scheduler.now
        except BlockingIOError:
            pass
        except OSError:
            self._tell()

    def _failed(self, error: OSError) -> None:
        if not self._tell() and error.errno in UNREACHABLE:
            self._outside.refuse(self._quote, "unreachable", UNREACHABLE[error.errno])
        else:
            self._outside.drops["udp-failed"] += 1

    def _tell(self) -> bool:
        """Pass on what the socket was told of; tell whether there was anything."""
        found = False
        for error in told(self._sock):
            found = True
            self._outside.tell(self._quote, error)
        return found


@final
class UdpRelay:
    """The UDP transport of an adapter's host: what is not for the adapter itself goes on by sockets."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._local = outside.host.udp
        self._table: FlowTable[_Flow] = FlowTable(outside.scheduler, LIFETIME, MAX_FLOWS, self._is_full)

    def __len__(self) -> int:
        return len(self._table)

    def receive(self, interface: Interface, packet: bytes, octets: int, *, trusted: bool, group: bool) -> None:
        """Take a datagram."""
        outside = self._outside
        destination = packet[16:20]
        if group or destination == outside.own:
            self._local.receive(interface, packet, octets, trusted=trusted, group=group)
            return
        try:
            datagram = udp.decode(packet[octets:], packet[12:16], destination, verify=not trusted)
        except WireError:
            outside.drops["udp-malformed"] += 1
            return
        key = packet[12:20] + packet[octets : octets + 4]
        flow = self._table.flows.get(key)
        if packet[8] <= 1 and outside.expire(packet):
            return
        if flow is None:
            flow = self._open(key, packet, datagram)
            if flow is None:
                return
        flow.send(packet, octets, datagram.payload)

    def error(self, quoted: bytes, octets: int, error: IcmpError) -> bool:
        """Take an error about what the adapter itself sent."""
        return self._local.error(quoted, octets, error)

    def forget_paths(self) -> None:
        """Look guests up again, because a carrier changed."""
        for flow in self._table.flows.values():
            flow.forget_paths()

    def retire(self) -> None:
        """End all flows."""
        self._table.clear()

    def _open(self, key: bytes, packet: bytes, datagram: udp.Udp) -> _Flow | None:
        outside = self._outside
        address = outside.destinations.resolve(key[4:8])
        if address is None or not datagram.destination_port or not datagram.source_port:
            outside.refuse(packet, "forbidden")
            return None
        sock = outside.connect(packet, address, datagram.destination_port)
        if sock is None:
            return None
        flow = _Flow(outside, sock, (key[:4], datagram.source_port), (key[4:8], datagram.destination_port))
        self._table.add(key, flow)
        return flow

    def _is_full(self) -> None:
        self._outside.drops["udp-flows-full"] += 1


def _nothing(payload: bytes, source: TransportAddress) -> None:
    """Take nothing: the socket is not bound, and only sends."""
