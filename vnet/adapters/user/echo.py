"""Guests' echo requests to the outside, through ping sockets, which Linux lets users have (icmp(7)).

Which users, net.ipv4.ping_group_range says; where it says none, requests are dropped and counted, and ``vnet doctor`` tells.
"""

from __future__ import annotations

import socket
from typing import Final, final

from vnet.adapters.user.errors import UNREACHABLE, told
from vnet.adapters.user.flows import FlowTable
from vnet.adapters.user.outside import Outside
from vnet.errors import WireError
from vnet.stack.interface import Interface
from vnet.stack.transport import IcmpError
from vnet.units import SECOND, Duration, Instant
from vnet.wire import icmpv4
from vnet.wire.ipv4 import PROTOCOL_ICMP

MAX_FLOWS: Final = 1024
LIFETIME: Final[Duration] = 60 * SECOND
"""RFC 5508, REQ-2: not less than a minute."""
REPLIES_A_WAKE_UP: Final = 32
_LARGEST: Final = 65535


@final
class _Flow:
    """The requests of one guest with one identifier to one destination; Linux has an identifier of its own."""

    __slots__ = ("_far", "_guest", "_header", "_ident", "_outside", "_sock", "_ttl", "used")

    def __init__(self, outside: Outside, sock: socket.socket, guest: bytes, far: bytes, ident: int) -> None:
        self._outside = outside
        self._sock = sock
        self._guest = guest
        self._far = far
        self._ident = ident
        self._header = b""
        self._ttl = 0
        self.used: Instant = outside.scheduler.now
        outside.poller.wants_read(sock.fileno(), self._on_readable)

    def send(self, packet: bytes, octets: int, message: bytes) -> None:
        """Let a request go on."""
        self.used = self._outside.scheduler.now
        self._header = packet[:octets]
        try:
            if packet[8] != self._ttl:
                self._ttl = packet[8]
                self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, max(1, self._ttl - 1))
            self._sock.send(message)
        except BlockingIOError:
            self._outside.drops["echo-full"] += 1
        except OSError as error:
            if not self._tell() and error.errno in UNREACHABLE:
                self._outside.refuse(packet, "unreachable", UNREACHABLE[error.errno])

    def close(self) -> None:
        """Give the socket up."""
        self._outside.close(self._sock)

    def _on_readable(self) -> None:
        try:
            for _ in range(REPLIES_A_WAKE_UP):
                message = self._sock.recv(_LARGEST)
                if len(message) < icmpv4.HEADER_OCTETS or message[0] != icmpv4.ECHO_REPLY:
                    continue
                self.used = self._outside.scheduler.now
                rest = self._ident << 16 | message[6] << 8 | message[7]
                reply = icmpv4.build(icmpv4.ECHO_REPLY, 0, rest, message[icmpv4.HEADER_OCTETS :])
                self._outside.host.send_ipv4(self._guest, PROTOCOL_ICMP, reply, source=self._far)
        except BlockingIOError:
            pass
        except OSError:
            self._tell()

    def _tell(self) -> bool:
        """Pass on the ICMP errors that the socket was told of, about the request that they name."""
        found = False
        for error in told(self._sock):
            found = True
            sequence = error.about[6:8] if len(error.about) >= icmpv4.HEADER_OCTETS else bytes(2)
            request = icmpv4.build(icmpv4.ECHO_REQUEST, 0, self._ident << 16 | int.from_bytes(sequence, "big"), b"")
            self._outside.tell(self._header + request, error)
        return found


@final
class EchoRelay:
    """The ICMP transport of an adapter's host: echo requests that are not for the adapter go on by ping sockets."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._local = outside.host.icmp
        self._table: FlowTable[_Flow] = FlowTable(outside.scheduler, LIFETIME, MAX_FLOWS, self._is_full)

    def __len__(self) -> int:
        return len(self._table)

    def receive(self, interface: Interface, packet: bytes, octets: int, *, trusted: bool, group: bool) -> None:
        """Take a message."""
        outside = self._outside
        if group or packet[16:20] in outside.host.local or packet[octets : octets + 1] != bytes((icmpv4.ECHO_REQUEST,)):
            self._local.receive(interface, packet, octets, trusted=trusted, group=group)
            return
        try:
            message = icmpv4.decode(packet[octets:], verify=not trusted)
        except WireError:
            outside.drops["icmp-malformed"] += 1
            return
        if outside.expire(packet):
            return
        key = packet[12:20] + packet[octets + 4 : octets + 6]
        flow = self._table.flows.get(key) or self._open(key, packet, message.rest >> 16)
        if flow is not None:
            flow.send(packet, octets, packet[octets:])

    def error(self, quoted: bytes, octets: int, error: IcmpError) -> bool:
        """Take an error about what the adapter itself sent."""
        return self._local.error(quoted, octets, error)

    def retire(self) -> None:
        """End all flows."""
        self._table.clear()

    def _open(self, key: bytes, packet: bytes, ident: int) -> _Flow | None:
        outside = self._outside
        address = outside.destinations.resolve(key[4:8])
        if address is None:
            outside.refuse(packet, "forbidden")
            return None
        sock = outside.connect(packet, address, 0, socket.IPPROTO_ICMP)
        if sock is None:
            return None
        flow = _Flow(outside, sock, key[:4], key[4:8], ident)
        self._table.add(key, flow)
        return flow

    def _is_full(self) -> None:
        self._outside.drops["echo-flows-full"] += 1


def may_ping() -> bool:
    """Tell whether this user may have ping sockets."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMP).close()
    except OSError:
        return False
    return True
