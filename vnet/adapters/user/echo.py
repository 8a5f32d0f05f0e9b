"""Guests' echo requests to the outside, through ping sockets, which Linux lets users have (icmp(7)).

Which users, net.ipv4.ping_group_range says; where it says none, requests are dropped and counted, and ``vnet doctor`` tells.
"""

from __future__ import annotations

import socket
from typing import Final, final

from vnet.adapters.user.errors import send_anew, told
from vnet.adapters.user.flows import FlowTable
from vnet.adapters.user.outside import Outside
from vnet.adapters.user.versions import Version, version_of
from vnet.errors import WireError
from vnet.stack.interface import Interface
from vnet.stack.transport import IcmpError
from vnet.units import SECOND, Duration, Instant
from vnet.wire import icmpv4, icmpv6

MAX_FLOWS: Final = 1024
LIFETIME: Final[Duration] = 60 * SECOND
"""RFC 5508, REQ-2: not less than a minute."""
REPLIES_A_WAKE_UP: Final = 32
_LARGEST: Final = 65535
_HEADER: Final = icmpv4.HEADER_OCTETS
"""Of an echo message, over either IP version."""


@final
class _Flow:
    """The requests of one guest with one identifier to one destination; Linux has an identifier of its own."""

    __slots__ = ("_far", "_guest", "_header", "_ident", "_outside", "_sock", "_ttl", "_version", "used")

    def __init__(
        self, outside: Outside, version: Version, sock: socket.socket, guest: bytes, far: bytes, ident: int
    ) -> None:
        self._outside = outside
        self._version = version
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
        version = self._version
        self._header = packet[: min(octets, version.quote)]
        try:
            if packet[version.hop_limit] != self._ttl:
                self._ttl = packet[version.hop_limit]
                self._sock.setsockopt(version.level, version.hop_limit_option, max(1, self._ttl - 1))
            send_anew(self._sock, message, self._tell)
        except BlockingIOError:
            self._outside.drops["echo-full"] += 1
        except OSError as error:
            number = error.errno or 0
            if not self._tell() and number in version.codes:
                self._outside.refuse(packet, "unreachable", number)
            else:
                self._outside.drops["echo-failed"] += 1

    def close(self) -> None:
        """Give the socket up."""
        self._outside.close(self._sock)

    def _on_readable(self) -> None:
        version = self._version
        try:
            for _ in range(REPLIES_A_WAKE_UP):
                message = self._sock.recv(_LARGEST)
                if len(message) < _HEADER or message[0] != version.echo_reply:
                    continue
                self.used = self._outside.scheduler.now
                rest = self._ident << 16 | message[6] << 8 | message[7]
                version.send_icmp(self._outside.host, self._far, self._guest, version.echo_reply, rest, message[_HEADER:])
        except BlockingIOError:
            pass
        except OSError:
            self._tell()

    def _tell(self) -> bool:
        """Pass on the ICMP errors that the socket was told of, about the request that they name."""
        found = False
        version = self._version
        for error in told(self._sock):
            found = True
            sequence = error.about[6:8] if len(error.about) >= _HEADER else bytes(2)
            rest = self._ident << 16 | int.from_bytes(sequence, "big")
            request = version.icmp(self._guest, self._far, version.echo_request, rest, b"")
            self._outside.tell(self._header + request, error)
        return found


@final
class EchoRelay:
    """The ICMP transport of an adapter's host over IPv4, and what that over IPv6 leaves to it.

    Echo requests that are not for the adapter go on by ping sockets.
    """

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
        self._go_on(packet, octets, message.rest >> 16)

    def receive_ipv6(self, interface: Interface, packet: bytes, offset: int, message: icmpv6.Icmpv6) -> None:
        """Take an ICMPv6 echo request that is not for the adapter."""
        self._go_on(packet, offset, message.rest >> 16)

    def error(self, quoted: bytes, octets: int, error: IcmpError) -> bool:
        """Take an error about what the adapter itself sent."""
        return self._local.error(quoted, octets, error)

    def retire(self) -> None:
        """End all flows."""
        self._table.clear()

    def _go_on(self, packet: bytes, octets: int, ident: int) -> None:
        if self._outside.expire(packet):
            return
        version = version_of(packet)
        key = packet[version.addresses] + packet[octets + 4 : octets + 6]
        flow = self._table.flows.get(key) or self._open(key, version, packet, ident)
        if flow is not None:
            flow.send(packet, octets, packet[octets:])

    def _open(self, key: bytes, version: Version, packet: bytes, ident: int) -> _Flow | None:
        outside = self._outside
        source, destination = packet[version.source], packet[version.destination]
        address = outside.destinations.resolve(destination)
        if address is None:
            outside.refuse(packet, "forbidden")
            return None
        sock = outside.connect(packet, address, 0, version.echo_protocol)
        if sock is None:
            return None
        flow = _Flow(outside, version, sock, source, destination, ident)
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
