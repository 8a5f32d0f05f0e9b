"""The IPv6 neighbors of an interface (RFC 4861, sections 7.2 and 7.3): what ``stack.neighbor`` leaves open.

An entry is asked for at most once in ``RetransTimer``: 1 s unless a router says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from vnet.stack.neighbor import STALE_TIME, Cache, NeighborEntry, State
from vnet.units import Duration
from vnet.wire.ethernet import ETHERTYPE_IPV6

if TYPE_CHECKING:
    from vnet.stack.ipv6.interface import Ipv6Interface


@final
class Ipv6Neighbor(NeighborEntry):
    """An IPv6 neighbor; ``is_router`` as it said last."""

    __slots__ = ("_side", "is_router")

    ethertype = ETHERTYPE_IPV6

    def __init__(self, side: Ipv6Interface, address: bytes, mac: bytes | None = None) -> None:
        """Make an entry; with *mac* it is permanent, as for groups."""
        super().__init__(side.interface, side.neighbors, address, mac)
        self._side = side
        self.is_router = False

    def spoke(self, mac: bytes) -> None:
        """Take note of the MAC address in a solicitation or router advertisement: no proof that it hears us (7.2.3)."""
        if self.state is State.PERMANENT or (mac == self.mac and self.state not in (State.INCOMPLETE, State.FAILED)):
            return
        self._take(mac)
        self._enter(State.STALE, STALE_TIME)
        self._flush()

    def advertised(self, mac: bytes | None, *, solicited: bool, override: bool, is_router: bool) -> None:
        """Take an advertisement (section 7.2.5)."""
        if self.state in (State.PERMANENT, State.FAILED):
            return
        if self.state is State.INCOMPLETE:
            if mac is None:
                return
            self.mac = mac
        elif mac is not None and mac != self.mac:
            if not override:
                if self.state is State.REACHABLE:
                    self._enter(State.STALE, STALE_TIME)
                return
            self._take(mac)
            if not solicited:
                self._enter(State.STALE, STALE_TIME)
        if solicited:
            self._enter(State.REACHABLE, self._side.reachable_time())
        elif self.state is State.INCOMPLETE:
            self._enter(State.STALE, STALE_TIME)
        if self.is_router and not is_router:
            self._side.no_router(self.address)
        self.is_router = is_router
        self._flush()

    def _retransmit_time(self) -> Duration:
        return self._side.retransmit_time

    def _ask(self) -> None:
        asking = self._queue[-1][0][8:24] if self._queue else None  # the source of what waits, if it is ours (7.2.2)
        self._side.solicit(self.address, asking, None if self.state is State.INCOMPLETE else self.mac)

    def _give_back(self, packet: bytes) -> None:
        self._side.node.undeliverable(packet)

    def _lost(self) -> None:
        self._side.router_lost(self.address)


@final
class Ipv6NeighborCache(Cache[Ipv6Neighbor]):
    """The IPv6 neighbors of an interface."""

    __slots__ = ("_side",)

    def __init__(self, side: Ipv6Interface) -> None:
        super().__init__()
        self._side = side

    def _make(self, address: bytes) -> Ipv6Neighbor:
        return Ipv6Neighbor(self._side, address)
