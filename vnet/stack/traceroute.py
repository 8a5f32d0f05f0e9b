"""Finding the routers on the way to a destination: probes with a growing TTL, or hop limit, as traceroute(8) does."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, NamedTuple, final

from vnet.stack.echo import PingResult
from vnet.units import SECOND, Duration
from vnet.wire import icmpv4, icmpv6

if TYPE_CHECKING:
    from vnet.stack.host import Host
    from vnet.stack.transport import IcmpError, TransportAddress
    from vnet.stack.udp import UdpSocket

FIRST_PORT: Final = 33434
"""UDP probes count up from this port, where nobody listens."""
MAX_HOPS: Final = 30
TRIES: Final = 3


class Method(Enum):
    """What the probes are."""

    UDP = auto()
    ICMP = auto()


class Hop(NamedTuple):
    """One step: *source* is who answered, None if nobody did; *error* says why the way ends here, if it does so badly."""

    ttl: int
    source: bytes | None
    rtt: Duration | None
    error: str | None = None

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """*source* for people; None if nobody answered."""
        return None if self.source is None else ip_address(self.source)

    def __repr__(self) -> str:
        source = None if self.source is None else str(self.address)
        return f"Hop(ttl={self.ttl}, source={source}, rtt={self.rtt}, error={self.error!r})"


OnRoute = Callable[[list[Hop], bool], None]
"""Gets the hops, and whether the destination was reached."""


@final
class Traceroute:
    """One run: hop by hop, up to three probes each; *on_route* is called once when it ends."""

    __slots__ = (
        "_destination", "_exceeded", "_hops", "_host", "_max_hops", "_method", "_on_route", "_sent", "_sent_at",
        "_socket", "_timeout", "_tried", "_unreachable",
    )  # fmt: skip

    def __init__(
        self, host: Host, destination: bytes, on_route: OnRoute, *, method: Method = Method.UDP,
        max_hops: int = MAX_HOPS, timeout: Duration = SECOND,
    ) -> None:  # fmt: skip
        self._host = host
        self._destination = destination
        if len(destination) == 4:
            self._exceeded, self._unreachable = icmpv4.TIME_EXCEEDED, (icmpv4.UNREACHABLE, icmpv4.PORT_UNREACHABLE)
        else:
            self._exceeded, self._unreachable = icmpv6.TIME_EXCEEDED, (icmpv6.UNREACHABLE, icmpv6.PORT_UNREACHABLE)
        self._on_route = on_route
        self._method = method
        self._max_hops = max_hops
        self._timeout = timeout
        self._hops: list[Hop] = []
        self._tried = 0
        self._sent = 0  # probes so far; numbers the ports, so that a late answer is not taken for another probe's
        self._sent_at = 0
        self._socket: UdpSocket | None = None

    def start(self) -> None:
        """Send the first probe."""
        if self._method is Method.UDP:
            self._socket = self._host.udp_bind(on_datagram=self._datagram, both=True)
            self._socket.on_error = self._error
        self._probe()

    def _probe(self) -> None:
        host = self._host
        ttl = len(self._hops) + 1
        self._sent += 1
        if self._socket is None:
            host.ping(self._destination, ttl=ttl, timeout=self._timeout, on_result=self._ponged)
            return
        self._socket.ttl = ttl
        self._sent_at = now = host.scheduler.now
        problem = self._socket.send_to(bytes(32), (self._destination, FIRST_PORT + self._sent))
        if problem is not None:
            host.scheduler.soon(self._ended, Hop(ttl, None, None, problem), False)
        else:
            host.scheduler.at(now + self._timeout, self._silent, self._sent)

    def _ponged(self, result: PingResult) -> None:
        if result.source is None and result.error == "no answer":
            self._silent(self._sent)
        elif result.ok:
            self._ended(Hop(len(self._hops) + 1, result.source, result.rtt), True)
        elif result.error == "time exceeded":
            self._next(Hop(len(self._hops) + 1, result.source, result.rtt))
        else:
            self._ended(Hop(len(self._hops) + 1, result.source, result.rtt, result.error), False)

    def _error(self, destination: TransportAddress, error: IcmpError) -> None:
        if destination != (self._destination, FIRST_PORT + self._sent):
            return
        hop = Hop(len(self._hops) + 1, error.reporter, self._host.scheduler.now - self._sent_at)
        if error.kind == self._exceeded:
            self._next(hop)
        elif (error.kind, error.code) == self._unreachable:
            self._ended(hop, True)
        else:
            self._ended(hop._replace(error=error.text), False)

    def _datagram(self, payload: bytes, source: TransportAddress) -> None:
        if source == (self._destination, FIRST_PORT + self._sent):
            self._ended(Hop(len(self._hops) + 1, source[0], self._host.scheduler.now - self._sent_at), True)

    def _silent(self, number: int) -> None:
        if number != self._sent or self._tried < 0:
            return
        self._tried += 1
        if self._tried < TRIES:
            self._probe()
        else:
            self._next(Hop(len(self._hops) + 1, None, None))

    def _next(self, hop: Hop) -> None:
        self._tried = 0
        if len(self._hops) + 1 >= self._max_hops:
            self._ended(hop, False)
        else:
            self._hops.append(hop)
            self._probe()

    def _ended(self, hop: Hop, reached: bool) -> None:
        if self._tried < 0:
            return
        self._tried = -1
        self._hops.append(hop)
        if self._socket is not None:
            self._socket.close()
        self._on_route(self._hops, reached)
