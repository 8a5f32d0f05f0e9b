"""Guests' datagrams to the outside: a connected host socket for each guest's transport address and destination.

So Linux filters what comes back by the destination's address and port, and tells of ICMP errors, which go on to the guest as
if they had come all the way.
"""

from __future__ import annotations

import socket
from typing import Final, final

from vnet.adapters.user.errors import send_anew, told
from vnet.adapters.user.flows import FlowTable
from vnet.adapters.user.outside import Outside
from vnet.adapters.user.versions import IPV4, IPV6, Version, version_of
from vnet.errors import WireError
from vnet.stack.interface import Interface
from vnet.stack.ipv6.udp import Ipv6Udp
from vnet.stack.transport import IcmpError, TransportAddress
from vnet.stack.udp import UdpSocket, UdpTable
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

    __slots__ = ("_fd", "_guest", "_out", "_outside", "_quote", "_sock", "_ttl", "_version", "used")

    def __init__(
        self, outside: Outside, version: Version, sock: socket.socket, guest: TransportAddress, far: TransportAddress
    ) -> None:
        self._outside = outside
        self._version = version
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
        version = self._version
        self._quote = packet[: min(octets + udp.HEADER_OCTETS, version.quote)]
        try:
            if packet[version.hop_limit] != self._ttl:
                self._ttl = packet[version.hop_limit]
                self._sock.setsockopt(version.level, version.hop_limit_option, max(1, self._ttl - 1))
            send_anew(self._sock, payload, self._tell)
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
        number = error.errno or 0
        if not self._tell() and number in self._version.codes:
            self._outside.refuse(self._quote, "unreachable", number)
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
        self._local6 = None if outside.host.ipv6 is None else outside.host.ipv6.udp
        self._table: FlowTable[_Flow] = FlowTable(outside.scheduler, LIFETIME, MAX_FLOWS, self._is_full)

    def __len__(self) -> int:
        return len(self._table)

    def receive(self, interface: Interface, packet: bytes, octets: int, *, trusted: bool, group: bool) -> None:
        """Take a datagram."""
        outside = self._outside
        version = version_of(packet)
        destination = packet[version.destination]
        if group or destination in outside.own:
            self._here(packet).receive(interface, packet, octets, trusted=trusted, group=group)
            return
        try:
            datagram = udp.decode(packet[octets:], packet[version.source], destination, verify=not trusted)
        except WireError:
            outside.drops["udp-malformed"] += 1
            return
        if version is IPV6 and not trusted and not any(packet[octets + 6 : octets + 8]):
            outside.drops["udp-malformed"] += 1  # there a checksum is a must (RFC 8200, 8.1)
            return
        key = packet[version.addresses] + packet[octets : octets + 4]
        flow = self._table.flows.get(key)
        if (packet[version.hop_limit] <= 1 or flow is None) and outside.expire(packet):
            return
        if flow is None:
            flow = self._open(key, version, packet, datagram)
            if flow is None:
                return
        flow.send(packet, octets, datagram.payload)

    def error(self, quoted: bytes, octets: int, error: IcmpError) -> bool:
        """Take an error about what the adapter itself sent."""
        return self._here(quoted).error(quoted, octets, error)

    def forget_paths(self) -> None:
        """Look guests up again, because a carrier changed."""
        for flow in self._table.flows.values():
            flow.forget_paths()

    def retire(self) -> None:
        """End all flows."""
        self._table.clear()

    def _here(self, packet: bytes) -> UdpTable | Ipv6Udp:
        """Return the stack's own transport, for what is from or to the adapter itself."""
        return self._local if self._local6 is None or version_of(packet) is IPV4 else self._local6

    def _open(self, key: bytes, version: Version, packet: bytes, datagram: udp.Udp) -> _Flow | None:
        outside = self._outside
        source, destination = packet[version.source], packet[version.destination]
        address = outside.destinations.resolve(destination)
        if address is None or not datagram.destination_port or not datagram.source_port:
            outside.refuse(packet, "forbidden")
            return None
        sock = outside.connect(packet, address, datagram.destination_port)
        if sock is None:
            return None
        far = destination, datagram.destination_port
        flow = _Flow(outside, version, sock, (source, datagram.source_port), far)
        self._table.add(key, flow)
        return flow

    def _is_full(self) -> None:
        self._outside.drops["udp-flows-full"] += 1


def _nothing(payload: bytes, source: TransportAddress) -> None:
    """Take nothing: the socket is not bound, and only sends."""
