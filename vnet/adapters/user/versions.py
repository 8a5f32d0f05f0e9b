"""What the IP version of a packet decides: where its fields are, which sockets it goes on by, and which ICMP error it gets.

Nothing else of the adapter asks which version it is.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, final

from vnet.stack.host import Host
from vnet.wire import icmpv4, icmpv6, ipv4, ipv6

_CODES4: Final = {
    errno.ENETUNREACH: icmpv4.NET_UNREACHABLE,
    errno.ENETDOWN: icmpv4.NET_UNREACHABLE,
    errno.EHOSTUNREACH: icmpv4.HOST_UNREACHABLE,
    errno.EHOSTDOWN: icmpv4.HOST_UNREACHABLE,
    errno.EACCES: icmpv4.COMMUNICATION_PROHIBITED,
    errno.EPERM: icmpv4.COMMUNICATION_PROHIBITED,
    errno.ECONNREFUSED: icmpv4.PORT_UNREACHABLE,
    errno.ENOPROTOOPT: icmpv4.PROTOCOL_UNREACHABLE,
}
_CODES6: Final = {
    errno.ENETUNREACH: icmpv6.NO_ROUTE,
    errno.ENETDOWN: icmpv6.NO_ROUTE,
    errno.EHOSTUNREACH: icmpv6.ADDRESS_UNREACHABLE,
    errno.EHOSTDOWN: icmpv6.ADDRESS_UNREACHABLE,
    errno.EACCES: icmpv6.PROHIBITED,
    errno.EPERM: icmpv6.PROHIBITED,
    errno.ECONNREFUSED: icmpv6.PORT_UNREACHABLE,
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One IP version.

    ``addresses``, ``source``, ``destination`` and ``hop_limit`` are places in a packet. ``level`` is that of the socket
    options ``hop_limit_option`` and ``errors_option``; errors come with ``origin``, and the reporter's address at
    ``reporter`` of what follows. ``codes`` are those of "destination unreachable" by the error of a socket (RFC 1122,
    3.2.2.1; RFC 1812, 5.2.7.1; RFC 4443, 3.1). ``quote`` is how many octets of a packet an error has at
    most, and so all that is kept of one.
    """

    family: socket.AddressFamily
    addresses: slice
    source: slice
    destination: slice
    hop_limit: int
    level: int
    hop_limit_option: int
    errors_option: int
    origin: int
    reporter: slice
    echo_protocol: int
    echo_request: int
    echo_reply: int
    unreachable: int
    codes: Mapping[int, int]
    quote: int
    expired: tuple[int, int]
    too_big: tuple[int, int]

    def is_bound_to_link(self, packet: bytes) -> bool:
        """Tell whether no router forwards a packet because of where it comes from (RFC 4291, sections 2.5.2 and 2.5.6)."""
        if self is IPV4:
            return False
        source = packet[self.source]
        return ipv6.is_link_local(source) or source == ipv6.ANY

    def icmp(self, source: bytes, destination: bytes, kind: int, rest: int, body: bytes) -> bytes:
        """Write an ICMP message of *kind* with code 0."""
        if self is IPV4:
            return icmpv4.build(kind, 0, rest, body)
        return icmpv6.build(source, destination, kind, 0, rest, body)

    def send_icmp(self, host: Host, source: bytes, destination: bytes, kind: int, rest: int, body: bytes) -> None:
        """Have *host* send such a message."""
        message = self.icmp(source, destination, kind, rest, body)
        if self is IPV4:
            host.send_ipv4(destination, self.echo_protocol, message, source=source)
        else:
            host.use_ipv6().send(destination, self.echo_protocol, message, source=source)


IPV4: Final = Version(
    family=socket.AF_INET,
    addresses=slice(12, 20), source=slice(12, 16), destination=slice(16, 20), hop_limit=8,
    level=socket.IPPROTO_IP, hop_limit_option=socket.IP_TTL, errors_option=11,  # IP_RECVERR
    origin=2, reporter=slice(4, 8),  # SO_EE_ORIGIN_ICMP; sin_addr
    echo_protocol=ipv4.PROTOCOL_ICMP, echo_request=icmpv4.ECHO_REQUEST, echo_reply=icmpv4.ECHO_REPLY,
    unreachable=icmpv4.UNREACHABLE, codes=MappingProxyType(_CODES4), quote=icmpv4.MAX_QUOTE,
    expired=(icmpv4.TIME_EXCEEDED, icmpv4.TTL_EXCEEDED), too_big=(icmpv4.UNREACHABLE, icmpv4.FRAGMENTATION_NEEDED),
)  # fmt: skip
IPV6: Final = Version(
    family=socket.AF_INET6,
    addresses=slice(8, 40), source=slice(8, 24), destination=slice(24, 40), hop_limit=7,
    level=socket.IPPROTO_IPV6, hop_limit_option=socket.IPV6_UNICAST_HOPS, errors_option=25,  # IPV6_RECVERR
    origin=3, reporter=slice(8, 24),  # SO_EE_ORIGIN_ICMP6; sin6_addr
    echo_protocol=ipv6.PROTOCOL_ICMPV6, echo_request=icmpv6.ECHO_REQUEST, echo_reply=icmpv6.ECHO_REPLY,
    unreachable=icmpv6.UNREACHABLE, codes=MappingProxyType(_CODES6), quote=icmpv6.MAX_QUOTE,
    expired=(icmpv6.TIME_EXCEEDED, icmpv6.HOP_LIMIT_EXCEEDED), too_big=(icmpv6.PACKET_TOO_BIG, 0),
)  # fmt: skip


def version_of(packet: bytes) -> Version:
    """Return that of a packet, which has a header already."""
    return IPV4 if packet[0] < 0x60 else IPV6
