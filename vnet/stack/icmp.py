"""ICMP of a host (RFC 792, RFC 1122 section 3.2.2): answers echoes, sends errors, hands errors to whoever caused them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, final

from vnet.errors import WireError
from vnet.stack.transport import IcmpError
from vnet.units import MILLISECOND, Duration, Instant
from vnet.wire import icmpv4, ipv4
from vnet.wire.ipv4 import PROTOCOL_ICMP

if TYPE_CHECKING:
    from vnet.stack.host import Host
    from vnet.stack.interface import Interface

ERROR_INTERVAL: Final = 1 * MILLISECOND
ERROR_BURST: Final = 50
"""At most 1000 errors a second and 50 at once: what Linux sends by default; RFC 1812, 4.3.2.8 wants a limit."""
MAX_PINGS: Final = 4096
_UNHEEDED: Final = frozenset({icmpv4.SOURCE_QUENCH, icmpv4.REDIRECT})
"""Errors that end nothing: source quench is to be ignored (RFC 6633), and routes here are not learned from strangers."""


class PingResult(NamedTuple):
    """What became of one echo request. ``rtt`` is in nanoseconds; ``source`` is who answered, or who reported *error*."""

    ok: bool
    rtt: Duration | None = None
    ttl: int | None = None
    source: bytes | None = None
    error: str | None = None


OnResult = Callable[[PingResult], None]


@final
class _Ping:
    """An echo request that waits."""

    __slots__ = ("destination", "on_result", "sent")

    def __init__(self, destination: bytes, sent: Instant, on_result: OnResult) -> None:
        self.destination = destination
        self.sent = sent
        self.on_result = on_result


@final
class Icmp:
    """The ICMP transport of a host."""

    __slots__ = ("_host", "_ident", "_pings", "_sequence", "_theoretical")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._ident: int | None = None
        self._sequence = 0
        self._pings: dict[int, _Ping] = {}
        self._theoretical: Instant = 0  # the generic cell rate algorithm: when the next error would be due at full rate

    # What arrives

    def receive(self, interface: Interface, packet: bytes, octets: int, *, trusted: bool, group: bool) -> None:
        """Take a message that was sent to this host."""
        host = self._host
        try:
            message = icmpv4.decode(packet[octets:], verify=not trusted)
        except WireError:
            host.drop("icmp-malformed")
            return
        if message.kind == icmpv4.ECHO_REQUEST:
            if group:
                host.drop("icmp-echo-group")  # RFC 1122, 3.2.2.6 allows it; an answer from everybody is a storm
                return
            host.delivered += 1
            reply = icmpv4.build(icmpv4.ECHO_REPLY, 0, message.rest, message.body)
            host.send_ipv4(packet[12:16], PROTOCOL_ICMP, reply, source=packet[16:20], tos=packet[1])
        elif message.kind == icmpv4.ECHO_REPLY:
            self._receive_reply(packet, message)
        elif message.is_error and message.kind not in _UNHEEDED:
            self._receive_error(packet, message)
        else:
            host.drop("icmp-type")

    def _receive_reply(self, packet: bytes, message: icmpv4.Icmp) -> None:
        ident, sequence = message.rest >> 16, message.rest & 0xFFFF
        ping = self._pings.get(sequence) if ident == self._ident else None
        if ping is None or (ping.destination != packet[12:16] and not self._host.is_group(ping.destination)):
            self._host.drop("icmp-unmatched")
            return
        self._host.delivered += 1
        rtt = self._host.scheduler.now - ping.sent
        self._finish(sequence, PingResult(True, rtt=rtt, ttl=packet[8], source=packet[12:16]))

    def _receive_error(self, packet: bytes, message: icmpv4.Icmp) -> None:
        mtu = message.rest & 0xFFFF if message.code == icmpv4.FRAGMENTATION_NEEDED else 0
        error = IcmpError(message.kind, message.code, packet[12:16], icmpv4.describe(message.kind, message.code), mtu)
        if self.dispatch(message.body, error):
            self._host.delivered += 1
        else:
            self._host.drop("icmp-unmatched")

    def dispatch(self, quoted: bytes, error: IcmpError) -> bool:
        """Hand an error to what sent the *quoted* packet; tell whether there was anything."""
        octets = (quoted[0] & 0x0F) << 2 if quoted else 0
        if octets < ipv4.HEADER_OCTETS or len(quoted) < octets + 8 or quoted[6] & 0x1F or quoted[7]:
            return False
        if quoted[12:16] not in self._host.local and not self._host.transparent:
            return False  # we never sent that
        transport = self._host.protocols.get(quoted[9])
        return transport is not None and transport.error(quoted, octets, error)

    def error(self, quoted: bytes, octets: int, error: IcmpError) -> bool:
        """Take an error about one of our echo requests."""
        ident, sequence = quoted[octets + 4] << 8 | quoted[octets + 5], quoted[octets + 6] << 8 | quoted[octets + 7]
        ping = self._pings.get(sequence) if ident == self._ident else None
        if quoted[octets] != icmpv4.ECHO_REQUEST or ping is None or ping.destination != quoted[16:20]:
            return False
        rtt = self._host.scheduler.now - ping.sent
        self._finish(sequence, PingResult(False, rtt=rtt, source=error.reporter, error=error.text))
        return True

    # What is sent

    def send_error(
        self, interface: Interface, packet: bytes, kind: int, code: int, *, rest: int = 0, group: bool = False,
        reporter: bytes | None = None,
    ) -> None:  # fmt: skip
        """Tell the sender of *packet*, which came in by *interface*, what became of it; *reporter* says so, else this host.

        Nothing is sent about an ICMP error, a fragment other than the first, or a packet to or from anything but one host;
        *group* says that the packet came in a broadcast or multicast frame (RFC 1122, 3.2.2).
        """
        host = self._host
        source, destination = packet[12:16], packet[16:20]
        octets = (packet[0] & 0x0F) << 2
        if group or packet[6] & 0x1F or packet[7] or source == ipv4.ANY or not ipv4.may_be_source(source):
            return
        if destination[0] >= 0xE0 or interface.is_group(destination) or interface.is_group(source):
            return
        if packet[9] == PROTOCOL_ICMP and (len(packet) <= octets or packet[octets] in icmpv4.ERRORS):
            return
        now = host.scheduler.now
        if self._theoretical - now > (ERROR_BURST - 1) * ERROR_INTERVAL:
            host.drop("icmp-rate-limit")
            return
        self._theoretical = max(self._theoretical, now) + ERROR_INTERVAL
        own = reporter or (
            destination if destination in host.local else None
        )  # else that of the way back (RFC 1812, 4.3.2.4)
        message = icmpv4.build(kind, code, rest, packet[: icmpv4.MAX_QUOTE])
        host.send_ipv4(source, PROTOCOL_ICMP, message, source=own)

    def ping(
        self, destination: bytes, size: int, ttl: int, timeout: Duration, on_result: OnResult,
        *, source: bytes | None = None, dont_fragment: bool = False,
    ) -> None:  # fmt: skip
        """Send one echo request with *size* octets of data; *on_result* is called once, never from within this call."""
        host = self._host
        if self._ident is None:
            self._ident = host.stream("ping").below(0x10000)
        if len(self._pings) >= MAX_PINGS:
            host.scheduler.soon(on_result, PingResult(False, error="too many pings"))
            return
        self._sequence = sequence = self._next_sequence()
        now = host.scheduler.now
        self._pings[sequence] = ping = _Ping(destination, now, on_result)
        body = bytes(index & 0xFF for index in range(size))
        message = icmpv4.build(icmpv4.ECHO_REQUEST, 0, self._ident << 16 | sequence, body)
        problem = host.send_ipv4(destination, PROTOCOL_ICMP, message, source=source, ttl=ttl, dont_fragment=dont_fragment)
        if problem is not None:
            host.scheduler.soon(self._give_up, sequence, ping, problem)
        else:
            host.scheduler.at(now + timeout, self._give_up, sequence, ping, "no answer")

    def _next_sequence(self) -> int:
        sequence = (self._sequence + 1) & 0xFFFF
        while sequence in self._pings:
            sequence = (sequence + 1) & 0xFFFF
        return sequence

    def _give_up(self, sequence: int, ping: _Ping, problem: str) -> None:
        if self._pings.get(sequence) is ping:
            self._finish(sequence, PingResult(False, error=problem))

    def _finish(self, sequence: int, result: PingResult) -> None:
        self._pings.pop(sequence).on_result(result)
