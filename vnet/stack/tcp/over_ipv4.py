"""TCP over IPv4: the way from a connection to its peer, whose headers' constant fields are summed once, as for UDP sockets.

More data than fits one segment leaves as a super-frame, which links, captures and adapters cut where they must; checksums
are left pending. Packets say "don't fragment", so that the path's MTU is found (RFC 1191), unless that is so small that no
reasonable path has it. What the host sends to itself goes round in one packet of any size.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, final

from vnet.stack.tcp.path_mtu import PathMtus
from vnet.stack.transport import IcmpError, TransportAddress
from vnet.wire import icmpv4, ipv4
from vnet.wire.ethernet import HEADER_OCTETS as ETHERNET_OCTETS
from vnet.wire.ipv4 import DONT_FRAGMENT, PROTOCOL_TCP
from vnet.wire.tcp import CWR
from vnet.wire.tcp import HEADER_OCTETS as TCP_OCTETS
from vnet.wire.virtio_net import TCP_CHECKSUM, tcp_super

if TYPE_CHECKING:
    from vnet.stack.host import Host
    from vnet.stack.interface import Interface
    from vnet.stack.neighbor import Neighbor

DEFAULT_MSS: Final = 536
"""What a peer that says nothing takes (RFC 9293, MUST-15)."""
BLACK_HOLE_MTU: Final = 1024 + 40
"""What to try when large segments find no answer at all: the base size that RFC 4821, 7.7 falls back to."""
MIN_PATH_MTU: Final = 552
"""A smaller path MTU is not believed: packets may be fragmented instead, as Linux has it (RFC 8900, 4.6 says why)."""
_TTL_PROTOCOL: Final = ipv4.DEFAULT_TTL << 8 | PROTOCOL_TCP
_HEADERS: Final = ipv4.HEADER_OCTETS + TCP_OCTETS

_pack: Final = Struct("!HHHHHH8s4sIIHHHH").pack
_from_bytes: Final = int.from_bytes


@final
class Ipv4Path:
    """Sends segments from *local* to *remote*; see ``Path``."""

    __slots__ = (
        "_addresses", "_host", "_interface", "_ip_sum", "_local", "_neighbor", "_ports", "_pseudo_sum", "_remote", "_word",
        "announced_mss", "mss", "mtu",
    )  # fmt: skip

    def __init__(
        self,
        host: Host,
        hop: tuple[Interface, Neighbor] | None,
        local: TransportAddress,
        remote: TransportAddress,
        limit: int,
    ) -> None:
        """Make a path by *hop*, or within the host if that is None; *limit* is an MTU that was found on it before."""
        self._host = host
        self._interface: Interface | None = None
        self._neighbor: Neighbor | None = None
        self._local, self._remote = local, remote
        self.mtu = ipv4.MAX_PACKET if hop is None else hop[0].mtu
        self.announced_mss = self.mtu - _HEADERS
        self._word = DONT_FRAGMENT
        if hop is not None:
            self._interface, self._neighbor = hop
            if limit < MIN_PATH_MTU:
                self._word = 0
            self.mtu = min(self.mtu, max(limit, MIN_PATH_MTU))
        self.mss = self.mtu - _HEADERS
        self._addresses = local[0] + remote[0]
        self._ports = local[1].to_bytes(2, "big") + remote[1].to_bytes(2, "big")
        addresses = _from_bytes(self._addresses, "big")
        self._ip_sum = (0x4500 + self._word + _TTL_PROTOCOL + addresses) % 0xFFFF
        self._pseudo_sum = (addresses + PROTOCOL_TCP) % 0xFFFF

    def send(
        self, sequence: int, acknowledgment: int, flags: int, window: int, options: bytes, payload: bytes, mss: int,
        ecn: int = 0,
    ) -> str | None:  # fmt: skip
        """Send a segment or a super-frame; see ``Path``."""
        host = self._host
        headers = _HEADERS + len(options)
        length = headers + len(payload)
        host.ident = ident = (host.ident + 1) & 0xFFFF
        head = _pack(
            0x4500 | ecn, length, ident, self._word, _TTL_PROTOCOL, -(self._ip_sum + ecn + length + ident) % 0xFFFF,
            self._addresses, self._ports, sequence, acknowledgment, (headers - 20) << 10 | flags, window,
            (self._pseudo_sum + length - 20) % 0xFFFF, 0,
        )  # fmt: skip
        neighbor = self._neighbor
        if neighbor is None or self._interface is None:
            segment = b"".join((head[20:], options, payload))
            return host.send_ipv4(self._remote[0], PROTOCOL_TCP, segment, source=self._local[0], tos=ecn)
        offload = TCP_CHECKSUM if len(payload) <= mss else tcp_super(ETHERNET_OCTETS + headers, mss, cwr=bool(flags & CWR))
        header = neighbor.header
        if header is not None:
            self._interface.port.send(b"".join((header, head, options, payload)), offload)  # one copy: it may be 64 KB
        else:
            neighbor.send(b"".join((head, options, payload)), offload)
        return None


@final
class OverIpv4:
    """What TCP does differently over IPv4."""

    __slots__ = ("_host", "mtus")

    unspecified = ipv4.ANY
    default_mss = DEFAULT_MSS
    headers = _HEADERS
    black_hole_mtu = BLACK_HOLE_MTU

    def __init__(self, host: Host) -> None:
        self._host = host
        self.mtus = PathMtus(host.scheduler)

    def source_for(self, destination: bytes, interface: Interface | None) -> bytes | str:
        """Choose the address to talk from, or return why there is none."""
        if self._host.is_group(destination):
            return "no route"
        return self._host.source_for(destination) or "no route"

    def scope_of(self, remote: bytes, interface: Interface | None) -> Interface | None:
        """Return None: IPv4 addresses mean the same on every link."""
        return None

    def path(self, local: TransportAddress, remote: TransportAddress, interface: Interface | None) -> Ipv4Path | None:
        """Find the way to a peer, or None without a route."""
        host, address = self._host, remote[0]
        hop = None if host.is_local(address) else host.next_hop(address)
        if hop is None and not host.is_local(address):
            return None
        return Ipv4Path(host, hop, local, remote, self.mtus.get(address))

    def learn(self, destination: bytes, mtu: int, present: int) -> bool:
        """Take what is said of a path's MTU, *present* until now; tell whether it is of use."""
        return self.mtus.learn(destination, mtu, present)

    def send(self, destination: bytes, segment: bytes, source: bytes, interface: Interface | None) -> str | None:
        """Send a segment that belongs to no connection, complete; return None, or why it could not be sent."""
        return self._host.send_ipv4(destination, PROTOCOL_TCP, segment, source=source)

    def is_too_large(self, error: IcmpError) -> bool:
        """Tell whether an error says that a segment was too large (RFC 1191)."""
        return error.kind == icmpv4.UNREACHABLE and error.code == icmpv4.FRAGMENTATION_NEEDED

    def is_refusal(self, error: IcmpError) -> bool:
        """Tell whether an error ends the opening of a connection."""
        return error.kind == icmpv4.UNREACHABLE
