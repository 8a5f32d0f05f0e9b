"""ICMPv6 of a host (RFC 4443): answers echoes, sends errors, hands errors to whoever caused them, learns path MTUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from vnet.addresses import Mac
from vnet.errors import WireError
from vnet.stack.echo import EchoRequests, ErrorLimit, OnResult, echo_data
from vnet.stack.transport import IcmpError
from vnet.units import Duration
from vnet.wire import icmpv6, ipv6
from vnet.wire.ipv6 import FRAGMENT, FRAGMENT_OCTETS, PROTOCOL_ICMPV6

if TYPE_CHECKING:
    from vnet.stack.interface import Interface
    from vnet.stack.ipv6.node import Ipv6Node

_REPORTS: Final = frozenset({icmpv6.MLD_REPORT, icmpv6.MLD_DONE, icmpv6.MLDV2_REPORT})
_ERRORS: Final = frozenset(
    {icmpv6.UNREACHABLE, icmpv6.PACKET_TOO_BIG, icmpv6.TIME_EXCEEDED, icmpv6.PARAMETER_PROBLEM}
)  # fmt: skip


@final
class Icmpv6:
    """The ICMPv6 transport of a host; ``foreign(interface, packet, offset, message)`` of a ``transparent`` one gets the echo
    requests to all others."""

    __slots__ = ("_limit", "_node", "_requests", "foreign")

    def __init__(self, node: Ipv6Node) -> None:
        self._node = node
        self._requests = EchoRequests(node.host, "ping6")
        self._limit = ErrorLimit()
        self.foreign: Callable[[Interface, bytes, int, icmpv6.Icmpv6], None] | None = None

    # What arrives

    def receive(self, interface: Interface, packet: bytes, offset: int, *, trusted: bool, group: bool) -> None:
        """Take a message whose sender's MAC address is not known."""
        self.receive_from(interface, packet, offset, bytes(6), trusted=trusted)

    def receive_from(self, interface: Interface, packet: bytes, offset: int, sender: Mac, *, trusted: bool) -> None:
        """Take a message that came to this host in a frame of *sender*."""
        host, side = self._node.host, interface.ipv6
        source, destination = packet[8:24], packet[24:40]
        try:
            message = icmpv6.decode(packet[offset:], source, destination, verify=not trusted)
        except WireError:
            host.drop("icmp-malformed")
            return
        kind = message.kind
        if kind == icmpv6.ECHO_REQUEST:
            if host.transparent and not (self._node.is_local(destination) or ipv6.is_multicast(destination)):
                if self.foreign is None:
                    host.drop("ipv6-not-ours")
                else:
                    self.foreign(interface, packet, offset, message)
                return
            self._echo(interface, packet, message)
        elif kind == icmpv6.ECHO_REPLY:
            self._receive_reply(packet, message)
        elif icmpv6.ROUTER_SOLICITATION <= kind <= icmpv6.REDIRECT and side is not None:
            side.discovery.receive(packet, message, sender)
        elif kind == icmpv6.MLD_QUERY and side is not None:
            side.listener.receive(packet, offset, message)
        elif kind in _REPORTS:
            interface.ignored += 1  # other listeners' reports stop nobody from reporting (RFC 3810, section 2.1)
        elif kind in _ERRORS:
            self._receive_error(interface, packet, message)
        else:
            host.drop("icmp-type")

    def _echo(self, interface: Interface, packet: bytes, message: icmpv6.Icmpv6) -> None:
        """Answer a request, also one to a group (RFC 4443, section 4.2): on a LAN that asks who is there."""
        node, source, destination = self._node, packet[8:24], packet[24:40]
        if source == ipv6.ANY:
            node.host.drop("icmp-type")
            return
        node.host.delivered += 1
        chosen = destination if node.is_local(destination) else node.route(source, interface)
        if isinstance(chosen, str):
            return
        reply = icmpv6.build(chosen, source, icmpv6.ECHO_REPLY, 0, message.rest, message.body)
        via = interface if ipv6.is_link_local(source) else None
        traffic_class = packet[0] << 4 & 0xF0 | packet[1] >> 4
        node.send(source, PROTOCOL_ICMPV6, reply, source=chosen, interface=via, traffic_class=traffic_class)

    def _receive_reply(self, packet: bytes, message: icmpv6.Icmpv6) -> None:
        destination = self._requests.destination(message.rest)
        if destination is None or (destination != packet[8:24] and destination[0] != 0xFF):
            self._node.host.drop("icmp-unmatched")
            return
        self._node.host.delivered += 1
        self._requests.answered(message.rest, packet[8:24], packet[7])

    def _receive_error(self, interface: Interface, packet: bytes, message: icmpv6.Icmpv6) -> None:
        node = self._node
        too_big = message.kind == icmpv6.PACKET_TOO_BIG
        text = icmpv6.describe(message.kind, message.code)
        error = IcmpError(message.kind, message.code, packet[8:24], text, message.rest if too_big else 0)
        if not self.dispatch(message.body, error):
            node.host.drop("icmp-unmatched")
            return
        node.host.delivered += 1
        if too_big:  # about a packet that somebody here says to have sent (RFC 8201, section 4)
            link = interface.mtu if interface.ipv6 is None else interface.ipv6.mtu
            node.paths.reduce(node.host.scheduler.now, message.body[24:40], message.rest, link)

    def dispatch(self, quoted: bytes, error: IcmpError) -> bool:
        """Hand an error to what sent the *quoted* packet; tell whether there was anything."""
        if len(quoted) < ipv6.HEADER_OCTETS or quoted[0] >> 4 != 6:
            return False
        if not (self._node.is_local(quoted[8:24]) or self._node.host.transparent):
            return False  # we never sent that
        try:
            found = ipv6.walk(quoted)
            if found.protocol == FRAGMENT:
                header = ipv6.decode_fragment(quoted, found.offset)
                if header.offset:
                    return False
                found = ipv6.walk(quoted, header.next_header, found.offset + FRAGMENT_OCTETS)
        except WireError:
            return False
        transport = self._node.protocols.get(found.protocol)
        if transport is None or len(quoted) < found.offset + 8:
            return False
        return transport.error(quoted, found.offset, error)

    def error(self, quoted: bytes, offset: int, error: IcmpError) -> bool:
        """Take an error about one of our echo requests."""
        rest = int.from_bytes(quoted[offset + 4 : offset + 8], "big")
        if quoted[offset] != icmpv6.ECHO_REQUEST or self._requests.destination(rest) != quoted[24:40]:
            return False
        self._requests.failed(rest, error)
        return True

    # What is sent

    def send_error(
        self, interface: Interface, packet: bytes, kind: int, code: int, *, rest: int = 0, group: bool = False,
        even_group: bool = False, reporter: bytes | None = None,
    ) -> None:  # fmt: skip
        """Tell the sender of *packet*, which came in by *interface*, what became of it; *reporter* says so, else this host.

        Nothing is sent about an ICMPv6 error or redirect, to anything but one host, or, without *even_group*, about a packet
        to a group or in a *group* frame; at most 1000 a second, 50 at once (RFC 4443, section 2.4).
        """
        node, source, destination = self._node, packet[8:24], packet[24:40]
        if source == ipv6.ANY or ipv6.is_multicast(source):
            return
        if not even_group and (group or ipv6.is_multicast(destination)):
            return
        if _is_error(packet):
            return
        if not self._limit.allows(node.host.scheduler.now):
            node.host.drop("icmp-rate-limit")
            return
        via = interface if ipv6.is_link_local(source) else None
        own = reporter or (destination if node.is_local(destination) else node.route(source, via))
        if isinstance(own, str):
            return
        message = icmpv6.build(own, source, kind, code, rest, packet[: icmpv6.MAX_QUOTE])
        node.send(source, PROTOCOL_ICMPV6, message, source=own, interface=via)

    def ping(
        self, destination: bytes, size: int, hop_limit: int, timeout: Duration, on_result: OnResult,
        *, source: bytes | None = None, dont_fragment: bool = False, interface: Interface | None = None,
    ) -> None:  # fmt: skip
        """Send one echo request with *size* octets of data; *on_result* is called once, never from within this call."""
        node = self._node

        def send(rest: int) -> str | None:
            chosen = node.route(destination, interface) if source is None else source
            if isinstance(chosen, str):
                return chosen
            request = icmpv6.build(chosen, destination, icmpv6.ECHO_REQUEST, 0, rest, echo_data(size))
            return node.send(
                destination, PROTOCOL_ICMPV6, request, source=chosen, dont_fragment=dont_fragment, interface=interface,
                hop_limit=None if hop_limit == ipv6.DEFAULT_HOP_LIMIT else hop_limit,  # else what routers say
            )  # fmt: skip

        self._requests.ping(destination, timeout, on_result, send)


def _is_error(packet: bytes) -> bool:
    """Tell whether a packet carries, or may carry, an ICMPv6 error or a redirect."""
    try:
        found = ipv6.walk(packet, heed=False)
        if found.protocol == FRAGMENT:
            header = ipv6.decode_fragment(packet, found.offset)
            if header.offset:
                return header.next_header == PROTOCOL_ICMPV6
            found = ipv6.walk(packet, header.next_header, found.offset + FRAGMENT_OCTETS, heed=False)
    except WireError:
        return True
    if found.protocol != PROTOCOL_ICMPV6:
        return False
    kind = packet[found.offset : found.offset + 1]
    return not kind or kind[0] < 128 or kind[0] == icmpv6.REDIRECT
