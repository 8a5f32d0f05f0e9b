"""ICMP of a host (RFC 792, RFC 1122 section 3.2.2): answers echoes, sends errors, hands errors to whoever caused them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from vnet.errors import WireError
from vnet.stack.echo import EchoRequests, ErrorLimit, OnResult, echo_data
from vnet.stack.transport import IcmpError
from vnet.units import Duration
from vnet.wire import icmpv4, ipv4
from vnet.wire.ipv4 import PROTOCOL_ICMP

if TYPE_CHECKING:
    from vnet.stack.host import Host
    from vnet.stack.interface import Interface

_UNHEEDED: Final = frozenset({icmpv4.SOURCE_QUENCH, icmpv4.REDIRECT})
"""Errors that end nothing: source quench is to be ignored (RFC 6633), and routes here are not learned from strangers."""


@final
class Icmp:
    """The ICMP transport of a host."""

    __slots__ = ("_host", "_limit", "_requests")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._requests = EchoRequests(host, "ping")
        self._limit = ErrorLimit()

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
        destination = self._requests.destination(message.rest)
        if destination is None or (destination != packet[12:16] and not self._host.is_group(destination)):
            self._host.drop("icmp-unmatched")
            return
        self._host.delivered += 1
        self._requests.answered(message.rest, packet[12:16], packet[8])

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
        rest = int.from_bytes(quoted[octets + 4 : octets + 8], "big")
        if quoted[octets] != icmpv4.ECHO_REQUEST or self._requests.destination(rest) != quoted[16:20]:
            return False
        self._requests.failed(rest, error)
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
        if not self._limit.allows(host.scheduler.now):
            host.drop("icmp-rate-limit")
            return
        if reporter is None and destination in host.local:
            reporter = destination  # else it is the address of the way back (RFC 1812, 4.3.2.4)
        message = icmpv4.build(kind, code, rest, packet[: icmpv4.MAX_QUOTE])
        host.send_ipv4(source, PROTOCOL_ICMP, message, source=reporter)

    def ping(
        self, destination: bytes, size: int, ttl: int, timeout: Duration, on_result: OnResult,
        *, source: bytes | None = None, dont_fragment: bool = False,
    ) -> None:  # fmt: skip
        """Send one echo request with *size* octets of data; *on_result* is called once, never from within this call."""

        def send(rest: int) -> str | None:
            message = icmpv4.build(icmpv4.ECHO_REQUEST, 0, rest, echo_data(size))
            return self._host.send_ipv4(
                destination, PROTOCOL_ICMP, message, source=source, ttl=ttl, dont_fragment=dont_fragment
            )

        self._requests.ping(destination, timeout, on_result, send)
