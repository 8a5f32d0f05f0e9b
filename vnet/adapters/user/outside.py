"""What the parts of a user adapter share: the node on the network, the machine's sockets, and what was refused."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import pack
from typing import Final, final

from vnet.adapters.base import Poller
from vnet.adapters.user.destinations import Destinations
from vnet.adapters.user.errors import IP_BIND_ADDRESS_NO_PORT, Told
from vnet.adapters.user.versions import IPV6, version_of
from vnet.ports import Scheduler
from vnet.stack.host import Host
from vnet.stack.interface import Interface
from vnet.wire import icmpv6, ipv6

_RESET: Final = pack("ii", 1, 0)
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@final
@dataclass(slots=True, kw_only=True)
class Outside:
    """``drops`` counts by reason what did not go on. ``own`` are the adapter's addresses, the ones that it talks from first;
    ``sources`` the machine's addresses that everything leaves from, by address family."""

    host: Host
    interface: Interface
    poller: Poller
    scheduler: Scheduler
    destinations: Destinations
    own: tuple[bytes, ...]
    sources: Mapping[int, str]
    drops: Counter[str] = field(default_factory=Counter)

    def open(self, kind: int, protocol: int = 0, family: int = socket.AF_INET) -> socket.socket | None:
        """Open a socket that never waits, bound to the source there is; None if the machine has none left."""
        try:
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            self.drops["descriptors" if error.errno in _NO_DESCRIPTORS else "socket"] += 1
            return None
        if (source := self.sources.get(family)) is not None:
            try:
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            except OSError:
                self.drops["source"] += 1
                sock.close()
                return None
        return sock

    def connect(self, packet: bytes, address: str, port: int, protocol: int = 0) -> socket.socket | None:
        """Open a datagram socket to where *packet* goes, told of ICMP errors; refuse the packet if there is no way."""
        version = version_of(packet)
        sock = self.open(socket.SOCK_DGRAM, protocol, version.family)
        if sock is None:
            return None
        try:
            sock.setsockopt(version.level, version.errors_option, 1)
            sock.connect((address, port))
        except OSError as error:
            sock.close()
            self.refuse(packet, "unreachable", error.errno or 0)
            return None
        return sock

    def close(self, sock: socket.socket) -> None:
        """Close a socket that the poller may watch."""
        self.poller.unregister(sock.fileno())
        sock.close()

    def reset(self, sock: socket.socket) -> None:
        """Close a connection with a reset: what was on its way is lost, and the peer is told so (socket(7), SO_LINGER)."""
        with contextlib.suppress(OSError):  # it is over anyway
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close(sock)

    def source_for(self, address: bytes) -> bytes | None:
        """Choose the adapter's own address to talk to a guest from; None if it has none of that IP version."""
        return next((own for own in self.own if len(own) == len(address)), None)

    def refuse(self, packet: bytes, reason: str, number: int = errno.EACCES) -> None:
        """Count a packet that goes nowhere, and tell its sender what an error of a socket says."""
        self.drops[reason] += 1
        version = version_of(packet)
        code = version.codes.get(number, version.codes[errno.ENETUNREACH])
        self.host.send_icmp_error(self.interface, packet, version.unreachable, code)

    def tell(self, packet: bytes, error: Told) -> None:
        """Tell the sender of *packet* what a socket was told of it, by whom it was if guests can know of that one.

        What Linux found out itself is said by the gateway, and what the machine's loopback says by its alias.
        """
        version = version_of(packet)
        if (error.kind, error.code) == version.too_big and version is not IPV6:
            return  # Linux has noted it, and fragments from now on, as a router may: over IPv6 only the sender does
        reporter = error.reporter
        if reporter is not None and self.destinations.resolve(reporter) is None:
            far = packet[version.destination]
            reporter = far if far in self.destinations.aliases else None
        mtu = max(error.mtu, ipv6.MIN_MTU) if error.mtu else 0
        self.host.send_icmp_error(self.interface, packet, error.kind, error.code, rest=mtu, reporter=reporter)

    def expire(self, packet: bytes) -> bool:
        """Tell whether a packet has made its last hop, and its sender if so (RFC 1812, 5.3.1; RFC 4443, 3.1 and 3.3)."""
        version = version_of(packet)
        if version.is_bound_to_link(packet):
            self.drops["scope"] += 1
            self.host.send_icmp_error(self.interface, packet, icmpv6.UNREACHABLE, icmpv6.BEYOND_SCOPE)
            return True
        if packet[version.hop_limit] > 1:
            return False
        self.drops["ttl"] += 1
        self.host.send_icmp_error(self.interface, packet, *version.expired)
        return True
