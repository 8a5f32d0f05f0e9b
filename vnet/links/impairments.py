"""What a link does to frames beside losing them: delay variation, reordering, duplication, corruption.

Each kind draws from its own stream for each direction, so switching one on leaves the draws of the others as they were.

* *Delay variation* (RFC 3393) adds to the one-way delay of each frame a length between 0 and the setting, all equally
  likely: the latency stays the least delay, and the setting is the largest packet delay variation (RFC 5481, 4.2).
  Frames keep their order, as in the queues where real delay varies: none arrives before the one ahead of it. (Linux's
  netem varies around the mean, and lets frames overtake.)
* *Reordering* (RFC 4737): the share of frames that skip latency and variation, and so overtake what is on the wire, not what
  waits for the rate. ``reordered`` counts those that did overtake one: on a wire that is empty there is nothing to overtake.
* *Duplication* (RFC 5560): the share of frames that are put on the link twice. The copy follows at once, takes its own room
  in the queue and its own chances of the other impairments but loss, and is never copied again.
* *Corruption*: the share of frames in which one bit is flipped, any bit from the destination address on. On a wire the FCS
  would tell, and the receiver would drop the frame; frames here carry none, so they are delivered damaged, which is what
  netem does and what tests the checksums of IP, UDP and TCP. To see them dropped, use loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from vnet.links.checks import duration_of, ratio_of
from vnet.ports import Randomness
from vnet.units import Duration, Instant

NAMES: Final = ("delay_variation", "reordering", "duplication", "corruption")
"""The settings, in the order in which they are shown."""

_FLIPS: Final = tuple(1 << bit for bit in range(8))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Impairments:
    """The settings of a link: a duration in nanoseconds, and ratios from 0 to 1. Raise UsageError for others."""

    delay_variation: Duration = 0
    reordering: float = 0.0
    duplication: float = 0.0
    corruption: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "delay_variation", duration_of("delay variation", self.delay_variation))
        for name in ("reordering", "duplication", "corruption"):
            object.__setattr__(self, name, ratio_of(name, getattr(self, name)))  # text will do

    def __bool__(self) -> bool:
        return bool(self.delay_variation or self.reordering or self.duplication or self.corruption)


NO_IMPAIRMENTS: Final = Impairments()


@final
class Impairer:
    """Draws, for one direction of a link, what happens to each frame, and counts what did."""

    __slots__ = (
        "_delay", "_duplicate", "_flip", "_latest", "_overtake", "_settings", "corrupted", "duplicated", "reordered",
    )  # fmt: skip

    def __init__(self, stream: Callable[[str], Randomness]) -> None:
        self._delay = stream("delay-variation")
        self._overtake = stream("reordering")
        self._duplicate = stream("duplication")
        self._flip = stream("corruption")
        self._settings = NO_IMPAIRMENTS
        self._latest: Instant = 0
        self.corrupted = 0
        self.duplicated = 0
        self.reordered = 0

    def configure(self, settings: Impairments) -> None:
        """Use these settings for the frames that come from now on."""
        self._settings = settings

    def forget(self) -> None:
        """Take note that nothing is on the wire any more."""
        self._latest = 0

    def duplicates(self) -> bool:
        """Decide whether the next frame is put on the link twice."""
        ratio = self._settings.duplication
        if not ratio or self._duplicate.random() >= ratio:
            return False
        self.duplicated += 1
        return True

    def corrupts(self, frame: bytes) -> bool:
        """Decide whether this frame, if it has any bits, is to be damaged."""
        ratio = self._settings.corruption
        return bool(ratio) and self._flip.random() < ratio and bool(frame)

    def damage(self, frame: bytes) -> bytes:
        """Flip one bit of a frame that has some."""
        bit = self._flip.below(8 * len(frame))
        damaged = bytearray(frame)
        damaged[bit >> 3] ^= _FLIPS[bit & 7]
        self.corrupted += 1
        return bytes(damaged)

    def arrival(self, departs: Instant, latency: Duration) -> Instant:
        """Tell when a frame that leaves at *departs* arrives."""
        settings = self._settings
        if settings.reordering and self._overtake.random() < settings.reordering:
            if departs < self._latest:
                self.reordered += 1
            else:
                self._latest = departs
            return departs
        arrives = departs + latency
        if settings.delay_variation:
            arrives += self._delay.below(settings.delay_variation + 1)
        return self.keep_order(arrives)

    def keep_order(self, arrives: Instant) -> Instant:
        """Put off the arrival of a frame until that of the one before it."""
        if arrives < self._latest:
            return self._latest
        self._latest = arrives
        return arrives
