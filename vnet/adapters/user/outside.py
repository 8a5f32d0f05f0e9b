"""What the parts of a user adapter share: the node on the network, the machine's sockets, and what was refused."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import Counter
from dataclasses import dataclass, field
from struct import pack
from typing import Final, final

from vnet.adapters.base import Poller
from vnet.adapters.user.destinations import Destinations
from vnet.adapters.user.errors import IP_BIND_ADDRESS_NO_PORT, IP_RECVERR, UNREACHABLE, Told
from vnet.ports import Scheduler
from vnet.stack.host import Host
from vnet.stack.interface import Interface
from vnet.wire import icmpv4

_RESET: Final = pack("ii", 1, 0)
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@final
@dataclass(slots=True, kw_only=True)
class Outside:
    """``drops`` counts by reason what did not go on; ``source`` is the machine's address that everything leaves from."""

    host: Host
    interface: Interface
    poller: Poller
    scheduler: Scheduler
    destinations: Destinations
    own: bytes
    source: str | None
    drops: Counter[str] = field(default_factory=Counter)

    def open(self, kind: int, protocol: int = 0, family: int = socket.AF_INET) -> socket.socket | None:
        """Open a socket that never waits, bound to the source there is; None if the machine has none left."""
        try:
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            self.drops["descriptors" if error.errno in _NO_DESCRIPTORS else "socket"] += 1
            return None
        if self.source is not None and family == socket.AF_INET:
            try:
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((self.source, 0))
            except OSError:
                self.drops["source"] += 1
                sock.close()
                return None
        return sock

    def connect(self, packet: bytes, address: str, port: int, protocol: int = 0) -> socket.socket | None:
        """Open a datagram socket to where *packet* goes, told of ICMP errors; refuse the packet if there is no way."""
        sock = self.open(socket.SOCK_DGRAM, protocol)
        if sock is None:
            return None
        try:
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            sock.connect((address, port))
        except OSError as error:
            sock.close()
            self.refuse(packet, "unreachable", UNREACHABLE.get(error.errno or 0, icmpv4.NET_UNREACHABLE))
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

    def refuse(self, packet: bytes, reason: str, code: int = icmpv4.COMMUNICATION_PROHIBITED) -> None:
        """Count a packet that goes nowhere, and tell its sender."""
        self.drops[reason] += 1
        self.host.send_icmp_error(self.interface, packet, icmpv4.UNREACHABLE, code)

    def tell(self, packet: bytes, error: Told) -> None:
        """Tell the sender of *packet* what a socket was told of it, by whom it was if guests can know of that one.

        What Linux found out itself is said by the gateway, and what the machine's loopback says by its alias.
        """
        if error.kind == icmpv4.UNREACHABLE and error.code == icmpv4.FRAGMENTATION_NEEDED:
            return  # Linux has noted it, and fragments from now on
        reporter = error.reporter
        if reporter is not None and self.destinations.resolve(reporter) is None:
            far = packet[16:20]
            reporter = far if far == self.destinations.alias else None
        self.host.send_icmp_error(self.interface, packet, error.kind, error.code, reporter=reporter)

    def expire(self, packet: bytes) -> bool:
        """Tell whether a packet has made its last hop, and its sender if so (RFC 1812, 5.3.1)."""
        if packet[8] > 1:
            return False
        self.drops["ttl"] += 1
        self.host.send_icmp_error(self.interface, packet, icmpv4.TIME_EXCEEDED, icmpv4.TTL_EXCEEDED)
        return True
