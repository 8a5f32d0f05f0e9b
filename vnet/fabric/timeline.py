"""The one list of what happens next, in both kinds of time.

Events are ordered by (instant, sequence): two events at one instant run in the order they were scheduled, so a run is a
total order and can be repeated. The timeline never waits: in a simulation the driver jumps ``now`` to the next event,
live it sleeps until then and sets ``now`` from the real clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final, Protocol, TypeAlias, final

from vnet.errors import LabError
from vnet.units import Duration, Instant, format_duration

Action = Callable[..., None]
Event: TypeAlias = tuple[Instant, int, Action, tuple[object, ...]]
"""When, the how many-th that was scheduled, what is called, and with what."""

MAX_EVENTS_AT_ONE_INSTANT: Final = 1_000_000
"""More than this without time moving means that nodes answer each other forever over cables without delay."""
MAX_IDLE: Final = 1024
"""Events of disarmed alarms that are let be; more are swept when they make up half of all."""


class Ground(Protocol):
    """What an alarm stands on: a timeline, or a clock that stands on one."""

    @property
    def now(self) -> Instant:
        """The instant by this clock."""

    @property
    def at(self) -> Callable[..., None]:
        """What schedules a call."""

    def note_idle(self, events: int) -> None:
        """Note that events are of no use for now."""


class DependentClock(Protocol):
    """A clock that has events of its own, and stands on a timeline by one alarm there (``machine_clock``)."""

    @property
    def tick(self) -> Alarm:
        """That alarm."""

    @property
    def is_over(self) -> bool:
        """Tell whether nothing comes from it any more."""

    def to_come(self) -> tuple[Duration, list[Event]]:
        """Tell how far it is behind the timeline, and its events that are to come; none while it stands still."""


@final
class Timeline:
    """A heap of events and the lab's clock.

    ``now`` is the current instant. ``on_earlier`` is called when an event becomes the new head, so that a live driver can
    cut its sleep short; it is None while the driver itself runs events. Setting ``interrupted`` from within an event makes
    ``run_until`` return after it: somebody outside was woken and has the next word.
    """

    __slots__ = ("_clocks", "_heap", "_idle", "_on_earlier", "_standing", "_stood_at", "at", "interrupted", "now", "number")

    def __init__(self, now: Instant = 0) -> None:
        self.now: Instant = now
        self.interrupted = False
        self._heap: list[Event] = []
        self._idle = 0
        self._clocks: list[DependentClock] = []
        self.number = count(1).__next__
        """Counts what is scheduled, on the clocks that stand on this timeline, too."""
        self._stood_at: Instant = now
        self._standing = 0
        self.on_earlier = None

    @property
    def on_earlier(self) -> Callable[[], None] | None:
        """What to call when an event becomes the new head."""
        return self._on_earlier

    @on_earlier.setter
    def on_earlier(self, tell: Callable[[], None] | None) -> None:
        self._on_earlier = tell
        self.at: Callable[..., None] = self._make_at(tell)
        """``at(when, action, *args)``: run ``action(*args)`` at *when*, or at once if that has passed."""

    def _make_at(self, tell: Callable[[], None] | None) -> Callable[..., None]:
        """Make ``at``: every hop of a frame over a link goes through it, and a closure costs half as much as a method."""
        heap, number = self._heap, self.number

        def at(when: Instant, action: Action, *args: object) -> None:
            heappush(heap, (when, number(), action, args))

        def at_and_tell(when: Instant, action: Action, *args: object) -> None:
            event = (when, number(), action, args)
            heappush(heap, event)
            if tell is not None and heap[0] is event:
                tell()

        return at if tell is None else at_and_tell

    def soon(self, action: Action, *args: object) -> None:
        """Run ``action(*args)`` at this same instant, after what is already due: breaks the recursion of nodes that answer
        each other."""
        self.at(self.now, action, *args)

    def alarm(self, action: Callable[[], None]) -> Alarm:
        """Make a timer that can be set again and again."""
        return Alarm(self, action)

    def withdraw(self, action: Action) -> list[tuple[Instant, tuple[object, ...]]]:
        """Take back every call of *action* that is still to come; return their instants and arguments, in order.

        It looks through all that is scheduled: for what happens rarely, such as a link that is cut.
        """
        return withdraw(self._heap, action)

    def note_idle(self, events: int) -> None:
        """Note that *events* of an alarm are of no use for now, and sweep such events out when there are many.

        Whoever can make a node set and disarm alarms (a flood of ARP senders, each with its entry) must not make the heap
        grow; a sweep looks at each event once for every two disarmed since the last.
        """
        self._idle += events
        if self._idle > MAX_IDLE and 2 * self._idle > len(self._heap):
            self._idle = 0
            sweep(self._heap)

    def carry(self, clock: DependentClock) -> None:
        """Count what is to come on another clock for what is to come here, until that clock is over."""
        self._clocks = [each for each in self._clocks if not each.is_over]
        self._clocks.append(clock)

    def _all(self) -> Iterator[tuple[Instant, int, Action, Duration]]:
        """List what is scheduled here and on the clocks that stand on this timeline, with how far those are behind it."""
        ticks = [each.tick for each in self._clocks]
        for when, number, action, _ in self._heap:
            if not ticks or getattr(action, "__self__", None) not in ticks:
                yield when, number, action, 0
        for clock in self._clocks:
            behind, events = clock.to_come()
            for when, number, action, _ in events:
                yield when + behind, number, action, behind

    def pending(self, end: Instant) -> list[tuple[Instant, Action]]:
        """List what is to happen up to and including *end*, in order; alarms that are disarmed or set to later do not count.

        It looks through all that is scheduled. The action of an alarm is given in place of the alarm's own.
        """
        found = []
        alarms: set[Alarm] = set()
        for when, number, action, behind in self._all():
            alarm = getattr(action, "__self__", None)
            if isinstance(alarm, Alarm):
                if alarm.deadline is None or alarm in alarms:
                    continue
                alarms.add(alarm)  # it may have several events, of earlier settings
                when, action = alarm.deadline + behind, alarm.action
            if when <= end:
                found.append((when, number, action))
        found.sort(key=lambda event: event[:2])
        return [(when, action) for when, _, action in found]

    def mark(self) -> int:
        """Mark this moment for ``was_planned``."""
        return self.number()

    def was_planned(self, mark: int, later: Instant, end: Instant) -> bool:
        """Tell whether something is to come until *end* that was scheduled before *mark*, or that comes after *later*.

        If not, all that is left are events that others of their kind scheduled: hellos, renewals, ageing. Alarms count by
        their deadline. It looks through all that is scheduled.
        """
        for when, number, action, behind in self._all():
            alarm = getattr(action, "__self__", None)
            if isinstance(alarm, Alarm):
                if alarm.deadline is None:
                    continue
                when = alarm.deadline + behind
            if when <= end and (number < mark or when > later):
                return True
        return False

    def next_instant(self) -> Instant | None:
        """Name the instant of the next event, or None if nothing is scheduled."""
        return self._heap[0][0] if self._heap else None

    def run_until(self, end: Instant, limit: int = 1 << 62) -> int:
        """Run events up to and including *end*, jumping from one to the next; return how many ran.

        Stop early after *limit* events, or after one that set ``interrupted``. ``now`` is left at the last event that ran,
        not at *end*. Raise LabError if time stands still while events go on.
        """
        heap = self._heap
        ran = 0
        now = self.now
        standing = self._standing if self._stood_at == now else 0
        self.interrupted = False
        while heap and ran < limit:
            event = heappop(heap)
            when, _, action, args = event
            if when > now:
                if when > end:
                    heappush(heap, event)
                    break
                self.now = now = when
                standing = 0
            else:
                standing += 1
                if standing > MAX_EVENTS_AT_ONE_INSTANT:
                    self._standing = 0
                    raise LabError(
                        f"{MAX_EVENTS_AT_ONE_INSTANT} events at {format_duration(now)} without time moving: frames circle "
                        "over links without latency; give the links a latency, or take the loop out"
                    )
            action(*args)
            ran += 1
            if self.interrupted:
                break
        self._stood_at, self._standing = now, standing
        return ran

    def run_due(self, limit: int) -> Instant | None:
        """Run at most *limit* of the events that are due at ``now`` without moving it; return the instant of the next.

        For a live driver, which has set ``now`` from the real clock: events late by a few microseconds all see one now. None
        says that nothing is scheduled; an instant that is not after ``now`` that the limit was reached.
        """
        heap = self._heap
        now = self.now
        while heap:
            head = heap[0][0]
            if head > now or limit <= 0:
                return head
            limit -= 1
            _, _, action, args = heappop(heap)
            action(*args)
        return None


def withdraw(heap: list[Event], action: Action) -> list[tuple[Instant, tuple[object, ...]]]:
    """Take every call of *action* off a heap; return their instants and arguments, in order."""
    taken = sorted(event[:2] + event[3:] for event in heap if event[2] == action)
    if taken:
        heap[:] = [event for event in heap if event[2] != action]  # in place: a running loop holds the list
        heapify(heap)
    return [(when, args) for when, _, args in taken]


def sweep(heap: list[Event]) -> None:
    """Take the events of disarmed alarms off a heap."""
    heap[:] = [event for event in heap if not _is_idle(event[2])]  # in place: a loop holds the list
    heapify(heap)


def _is_idle(action: Action) -> bool:
    """Tell whether the action is that of a disarmed alarm, which then counts on it no more."""
    alarm = getattr(action, "__self__", None)
    return isinstance(alarm, Alarm) and alarm.release()


@final
class Alarm:
    """A timer with one deadline at a time; setting it again replaces the deadline.

    Moving the deadline back costs nothing: the old event stays, and when it comes up it schedules what is then missing. An
    event is added only for a deadline before all that are there, so they stand on a stack, the next one on top, and none
    is ever there twice.
    """

    __slots__ = ("_scheduled", "_timeline", "action", "deadline")

    def __init__(self, timeline: Ground, action: Callable[[], None]) -> None:
        self._timeline = timeline
        self.action = action
        self.deadline: Instant | None = None
        self._scheduled: tuple[Instant, ...] = ()

    def set(self, deadline: Instant | None) -> None:
        """Go off at *deadline*; None disarms."""
        before, self.deadline = self.deadline, deadline
        if deadline is None:
            if before is not None:
                self._timeline.note_idle(len(self._scheduled))
        elif not self._scheduled or deadline < self._scheduled[-1]:
            self._scheduled = (*self._scheduled, deadline)
            self._timeline.at(deadline, self._due)

    def release(self) -> bool:
        """Give up the events that are there if the alarm is disarmed; tell whether it is."""
        if self.deadline is None:
            self._scheduled = ()
        return self.deadline is None

    def _due(self) -> None:
        self._scheduled = self._scheduled[:-1]
        deadline = self.deadline
        if deadline is None:
            return
        if deadline <= self._timeline.now:
            self.deadline = None
            self.action()
        else:
            self.set(deadline)
