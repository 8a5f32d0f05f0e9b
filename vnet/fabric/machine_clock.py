"""The clock of one virtual machine in a lab: it stands still while the machine does.

A machine that is paused or saved has no time: its timers keep what is left of them, and what it has measured by its clock
until then goes on from there. So the clock has events of its own, ordered as those of the timeline, and stands on the
timeline by one alarm for the next of them. Holding it disarms that alarm; from its release on it is behind the timeline
by as much as it stood still. Nothing else in the lab is looked at for that, and nodes that are no machines pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import final

from vnet.fabric.timeline import MAX_IDLE, Action, Alarm, Event, Timeline, sweep, withdraw
from vnet.units import Duration, Instant


@final
class MachineClock:
    """A ``Scheduler`` for the host of one machine, beginning now with the timeline's time.

    ``ran`` counts the events that it has run.
    """

    __slots__ = ("_behind", "_heap", "_held_at", "_idle", "_is_retired", "_timeline", "ran", "tick")

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._heap: list[Event] = []
        self._behind: Duration = 0
        self._held_at: Instant | None = None
        self._idle = 0
        self._is_retired = False
        self.ran = 0
        self.tick = timeline.alarm(self._run)
        timeline.carry(self)

    @property
    def now(self) -> Instant:
        """The machine's time."""
        held_at = self._held_at
        return self._timeline.now - self._behind if held_at is None else held_at

    @property
    def is_held(self) -> bool:
        """Tell whether it stands still."""
        return self._held_at is not None

    @property
    def is_over(self) -> bool:
        """Tell whether it was retired and nothing comes from it any more."""
        return self._is_retired and not self._heap

    def hold(self) -> None:
        """Stand still from now on; a clock that does already goes on doing so."""
        if self._held_at is None:
            self._held_at = self.now
            self.tick.set(None)

    def release(self) -> None:
        """Go on from the instant at which it was held."""
        if self._held_at is not None:
            self._behind = self._timeline.now - self._held_at
            self._held_at = None
            self._arm()

    def retire(self) -> None:
        """Run out with what is left: the machine has another clock from now on, as after a reset."""
        self._is_retired = True
        self.release()

    # -- what nodes call

    def at(self, when: Instant, action: Action, *args: object) -> None:
        """Run ``action(*args)`` at *when* by this clock, or at once if that has passed."""
        event = (when, self._timeline.number(), action, args)
        heappush(self._heap, event)
        if self._heap[0] is event:
            self._arm()

    def soon(self, action: Action, *args: object) -> None:
        """Run ``action(*args)`` at this instant, after what is already due."""
        self.at(self.now, action, *args)

    def alarm(self, action: Callable[[], None]) -> Alarm:
        """Make a timer that can be set again and again."""
        return Alarm(self, action)

    def withdraw(self, action: Action) -> list[tuple[Instant, tuple[object, ...]]]:
        """Take back every call of *action* that is still to come; return their instants and arguments, in order."""
        return withdraw(self._heap, action)

    def note_idle(self, events: int) -> None:
        """Note that *events* of an alarm are of no use for now, and sweep such events out when there are many."""
        self._idle += events
        if self._idle > MAX_IDLE and 2 * self._idle > len(self._heap):
            self._idle = 0
            sweep(self._heap)

    # -- what the timeline calls

    def to_come(self) -> tuple[Duration, list[Event]]:
        """Tell how far the clock is behind the timeline, and its events that are to come; none while it stands still."""
        return self._behind, [] if self.is_held else self._heap

    def _arm(self) -> None:
        if self._held_at is None and self._heap:
            self.tick.set(self._heap[0][0] + self._behind)

    def _run(self) -> None:
        """Run one event: others at the same instant, and a task that it wakes, have their turn before the next."""
        heap = self._heap
        if heap and heap[0][0] <= self.now:  # it may have been withdrawn or swept
            _, _, action, args = heappop(heap)
            self.ran += 1
            try:
                action(*args)
            finally:
                self._arm()
        else:
            self._arm()
