"""The way from a connection to its peer: headers whose fields do not change are summed once, as for UDP sockets.

More data than fits one segment leaves as a super-frame, which links, captures and adapters cut where they must; checksums
are left pending. Packets say "don't fragment", so that the path's MTU is found (RFC 1191), unless that is so small that no
reasonable path has it. What the host sends to itself goes round in one packet of any size.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, final

from vnet.stack.transport import TransportAddress
from vnet.wire import ipv4
from vnet.wire.ethernet import HEADER_OCTETS as ETHERNET_OCTETS
from vnet.wire.ipv4 import DONT_FRAGMENT, PROTOCOL_TCP
from vnet.wire.tcp import CWR
from vnet.wire.tcp import HEADER_OCTETS as TCP_OCTETS
from vnet.wire.virtio_net import TCP_CHECKSUM, tcp_super

if TYPE_CHECKING:
    from vnet.stack.host import Host
    from vnet.stack.interface import Interface
    from vnet.stack.neighbor import Neighbor

MIN_PATH_MTU: Final = 552
"""A smaller path MTU is not believed: packets may be fragmented instead, as Linux has it (RFC 8900, 4.6 says why)."""
_TTL_PROTOCOL: Final = ipv4.DEFAULT_TTL << 8 | PROTOCOL_TCP
HEADERS: Final = ipv4.HEADER_OCTETS + TCP_OCTETS

_pack: Final = Struct("!HHHHHH8s4sIIHHHH").pack
_from_bytes: Final = int.from_bytes


@final
class Path:
    """Sends segments from *local* to *remote*; ``mtu`` is that of the path as far as it is known.

    ``announced_mss`` is what the interface can take in, whatever the path carries (RFC 9293, 3.7.1).
    """

    __slots__ = (
        "_addresses", "_host", "_interface", "_ip_sum", "_local", "_neighbor", "_ports", "_pseudo_sum", "_remote", "_word",
        "announced_mss", "mtu",
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
        self.announced_mss = self.mtu - HEADERS
        self._word = DONT_FRAGMENT
        if hop is not None:
            self._interface, self._neighbor = hop
            if limit < MIN_PATH_MTU:
                self._word = 0
            self.mtu = min(self.mtu, max(limit, MIN_PATH_MTU))
        self._addresses = local[0] + remote[0]
        self._ports = local[1].to_bytes(2, "big") + remote[1].to_bytes(2, "big")
        addresses = _from_bytes(self._addresses, "big")
        self._ip_sum = (0x4500 + self._word + _TTL_PROTOCOL + addresses) % 0xFFFF
        self._pseudo_sum = (addresses + PROTOCOL_TCP) % 0xFFFF

    @property
    def mss(self) -> int:
        """Octets that a segment has room for, options included (RFC 6691)."""
        return self.mtu - HEADERS

    def send(
        self, sequence: int, acknowledgment: int, flags: int, window: int, options: bytes, payload: bytes, mss: int,
        ecn: int = 0,
    ) -> str | None:  # fmt: skip
        """Send a segment, or a super-frame of segments with *mss* octets of data each; numbers have 32 bits here.

        *ecn* is the ECN field of the IP header. Return None, or why it could not be sent.
        """
        host = self._host
        headers = HEADERS + len(options)
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
