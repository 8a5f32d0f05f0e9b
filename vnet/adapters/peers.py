"""Which of several peers behind one adapter has an address, as a bridge learns it from the frames that they send."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar, final

from vnet.addresses import Mac, is_group
from vnet.ports import Scheduler
from vnet.units import SECOND, Duration, Instant

P = TypeVar("P", bound=Hashable)

MAX_LEARNED: Final = 8192
"""Addresses kept; when full, the one that was heard of longest ago gives way."""
AGEING: Final[Duration] = 300 * SECOND
"""How long an address that is not heard of stays (IEEE 802.1Q-2018, table 8-6)."""


@final
class LearnedPeers(Generic[P]):
    """Addresses of peers, learned from source addresses (IEEE 802.1Q-2018, 8.7)."""

    __slots__ = ("_learned", "_scheduler")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._learned: dict[Mac, tuple[P, Instant]] = {}

    def __len__(self) -> int:
        return len(self._learned)

    def learn(self, mac: Mac, peer: P) -> None:
        """Note that *mac* was heard of from *peer*."""
        if is_group(mac):
            return
        self._learned.pop(mac, None)  # to the end: the dict is in order of last use
        if len(self._learned) >= MAX_LEARNED:
            del self._learned[next(iter(self._learned))]
        self._learned[mac] = peer, self._scheduler.now

    def find(self, mac: Mac) -> P | None:
        """Name the peer that has *mac*; None for groups and for addresses that are not known."""
        found = self._learned.get(mac)
        if found is None:
            return None
        if self._scheduler.now - found[1] > AGEING:
            del self._learned[mac]
            return None
        return found[0]

    def forget(self, peer: P) -> None:
        """Forget all addresses of a peer that is gone."""
        for mac in [mac for mac, (other, _) in self._learned.items() if other == peer]:
            del self._learned[mac]
