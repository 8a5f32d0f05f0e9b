"""What the peer has selectively acknowledged (RFC 2018), and what follows from it (RFC 6675, section 4)."""

from __future__ import annotations

from typing import Final, final

MAX_RANGES: Final = 256
"""Ranges remembered of what a peer says it has; further ones are not heeded, and their octets perhaps sent twice."""
DUPLICATE_THRESHOLD: Final = 3
"""DupThresh (RFC 6675, section 2)."""


@final
class Scoreboard:
    """Ranges ``(start, end)`` in order, apart from each other; ``total`` counts their octets."""

    __slots__ = ("ranges", "total")

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.total = 0

    def add(self, start: int, end: int) -> bool:
        """Note that these octets arrived; tell whether that is news."""
        before = self.total
        kept: list[tuple[int, int]] = []
        at = len(self.ranges)
        for index, (left, right) in enumerate(self.ranges):
            if right < start:
                kept.append((left, right))
            elif left > end:
                at = index
                break
            else:
                if left <= start and right >= end:
                    return False
                start, end = min(start, left), max(end, right)
        rest = self.ranges[at:]
        if len(kept) + len(rest) >= MAX_RANGES:
            return False
        self.ranges = [*kept, (start, end), *rest]
        self.total = sum(right - left for left, right in self.ranges)
        return self.total != before

    def advance(self, una: int) -> None:
        """Forget what lies before *una*, which is acknowledged."""
        if self.ranges and self.ranges[0][0] < una:
            self.ranges = [(max(left, una), right) for left, right in self.ranges if right > una]
            self.total = sum(right - left for left, right in self.ranges)

    def clear(self) -> None:
        """Forget all: the peer may have dropped what it had (RFC 2018, section 8)."""
        self.ranges = []
        self.total = 0

    @property
    def highest(self) -> int:
        """The end of the last range; 0 if there is none."""
        return self.ranges[-1][1] if self.ranges else 0

    def below(self, edge: int) -> int:
        """Count the octets of ranges before *edge*."""
        count = 0
        for left, right in self.ranges:
            if left >= edge:
                break
            count += min(right, edge) - left
        return count

    def lost_below(self, mss: int) -> int:
        """Find the edge before which what did not arrive is lost: IsLost of RFC 6675. 0 if nothing is."""
        octets = 0
        for count, (left, right) in enumerate(reversed(self.ranges), 1):
            octets += right - left
            if count >= DUPLICATE_THRESHOLD or octets > (DUPLICATE_THRESHOLD - 1) * mss:
                return left
        return 0

    def gap(self, start: int) -> tuple[int, int | None]:
        """Find the first octets from *start* on that did not arrive; the end is None behind the last range."""
        for left, right in self.ranges:
            if start < left:
                return start, left
            start = max(start, right)
        return start, None
