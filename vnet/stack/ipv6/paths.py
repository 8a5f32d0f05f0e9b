"""Path MTU discovery (RFC 8201): what packet-too-big messages have told, for a while."""

from __future__ import annotations

from typing import Final, final

from vnet.units import MINUTE, Instant
from vnet.wire.ipv6 import MIN_MTU

AGE: Final = 10 * MINUTE
"""When a path is tried in full again: the value that RFC 8201, section 5.3 recommends."""
MAX_PATHS: Final = 1024
"""Destinations that are remembered; a new one takes the place of the oldest."""


@final
class PathMtus:
    """Path MTUs that are smaller than the link's, by destination."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, Instant]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, now: Instant, destination: bytes, link: int) -> int:
        """Return how large a packet to *destination* may be, where the link takes *link* octets."""
        found = self._known.get(destination)
        if found is None:
            return link
        if found[1] <= now:
            del self._known[destination]
            return link
        return min(link, found[0])

    def reduce(self, now: Instant, destination: bytes, mtu: int, link: int) -> bool:
        """Take note of a packet too big; one that would raise the MTU, or bring it below the minimum, is ignored (4)."""
        if not MIN_MTU <= mtu < self.get(now, destination, link):
            return False
        self._known.pop(destination, None)
        if len(self._known) >= MAX_PATHS:
            del self._known[next(iter(self._known))]
        self._known[destination] = mtu, now + AGE
        return True
