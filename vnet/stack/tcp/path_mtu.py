"""What a host knows of MTUs on its ways over IPv4: from routers (RFC 1191), or because large segments vanish (RFC 4821)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from vnet.units import MINUTE, Duration, Instant
from vnet.wire.ipv4 import MAX_PACKET

if TYPE_CHECKING:
    from vnet.ports import Scheduler

MAX_ENTRIES: Final = 1024
LIFETIME: Final[Duration] = 10 * MINUTE
"""RFC 1191, 6.3: after that a larger packet is tried again."""
PLATEAUS: Final = (65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68)
"""RFC 1191, 7.1: what to try when a router does not say what MTU it has."""
BLACK_HOLE_TIMEOUTS: Final = 3
"""Large segments that find no answer so many times in a row are given up for smaller ones (RFC 4821, 7.7)."""


@final
class PathMtus:
    """MTUs by destination; when there are too many, the one learned first goes."""

    __slots__ = ("_found", "_scheduler")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._found: dict[bytes, tuple[int, Instant]] = {}

    def get(self, destination: bytes) -> int:
        """Return what is known of the way to a destination; 65535 if nothing is."""
        mtu, learned = self._found.get(destination, (MAX_PACKET, 0))
        return mtu if self._scheduler.now - learned < LIFETIME else MAX_PACKET

    def learn(self, destination: bytes, mtu: int, present: int) -> bool:
        """Take what a router said, 0 if it named no MTU; tell whether it is less than the *present* one, and so of use."""
        if not mtu:
            mtu = next(plateau for plateau in (*PLATEAUS, 0) if plateau < present)
        if not 0 < mtu < present:
            return False
        self._found.pop(destination, None)
        if len(self._found) >= MAX_ENTRIES:
            del self._found[next(iter(self._found))]
        self._found[destination] = max(mtu, PLATEAUS[-1]), self._scheduler.now
        return True
