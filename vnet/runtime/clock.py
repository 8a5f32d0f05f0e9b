"""Virtual time: trio on a clock that jumps from event to event.

``simulate`` runs an async function under trio with the timeline as its clock. One driver task waits until every other task
is blocked, then runs timeline events until one of them wakes a task or the next trio deadline comes up, whichever is first.
Frames between emulated parts never leave the timeline, so they cost no task switch. While a task waits for a thread, the
clock stands still (``threads``).

trio runs the tasks that are ready in random order, on purpose; for a run that can be repeated the order is drawn from a
generator seeded with the lab's. That, and the switch that makes it so, are not public in trio: ``_seeded_scheduling`` is the
one place that knows, and a test fails when a new trio does it differently.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar, TypeVarTuple, final

import trio
from trio._core import _run as trio_run

from vnet.errors import SimulationStalled
from vnet.fabric.timeline import Timeline
from vnet.runtime.threads import LOOK, ThreadWatch
from vnet.units import DAY, SECOND, Duration, format_duration

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_DURATION: Final[Duration] = 3650 * DAY
"""A simulation that gets this far is taken to wait for something that never happens."""


@final
class VirtualClock(trio.abc.Clock):
    """trio's view of a timeline: seconds since the lab began."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline

    def start_clock(self) -> None:
        """Do nothing: the timeline starts by itself."""

    def current_time(self) -> float:
        """Tell the lab clock in seconds."""
        return self.timeline.now / SECOND

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Let trio poll when a deadline has passed, and otherwise sleep until the driver moves the clock."""
        return 0.0 if deadline <= self.current_time() else math.inf


@final
class _WakeWatch(trio.abc.Instrument):
    """Interrupt the timeline when an event makes a task ready, so that the task runs at this very instant.

    ``woken`` counts the tasks made ready since trio last looked at the clock.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.woken = 0

    def after_io_wait(self, timeout: float) -> None:
        self.woken = 0

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        self._timeline.interrupted = True
        self.woken += 1


@final
class Simulation:
    """One run in virtual time: its timeline and its seed."""

    def __init__(self, seed: int, limit: Duration) -> None:
        self.timeline = Timeline()
        self.seed = seed
        self.limit = limit
        self.watch = _WakeWatch(self.timeline)

    async def drive(self) -> None:
        """Move the clock for ever; raise SimulationStalled when nothing can happen any more."""
        from trio.testing import wait_all_tasks_blocked  # here, because it brings pytest along where that is installed

        timeline, threads = self.timeline, ThreadWatch()
        while True:
            await wait_all_tasks_blocked()
            if self.watch.woken > 1:
                continue  # somebody else waited for that too, and is not blocked any more: time stands still
            if threads.hold():
                await wait_all_tasks_blocked(LOOK)
                continue
            until = trio.lowlevel.current_statistics().seconds_to_next_deadline
            if until == math.inf:
                if timeline.next_instant() is None:
                    raise SimulationStalled("every task waits, and nothing is left to happen in the lab")
                end = None
            elif until > 0:
                # one nanosecond at least, or a deadline that a float rounds down would never come; and who sleeps for 1e300
                # seconds is told at the limit
                end = timeline.now + max(1, math.ceil(min(until, self.limit / SECOND) * SECOND))
            else:
                end = timeline.now
            timeline.run_until(self.limit if end is None else min(end, self.limit))
            if timeline.interrupted or (timeline.next_instant() is None and end is None):
                continue
            if end is None or end > self.limit:
                raise SimulationStalled(f"the lab clock passed {format_duration(self.limit)} and somebody still waits")
            timeline.now = max(timeline.now, end)


_current: Final[trio.lowlevel.RunVar[Simulation | None]] = trio.lowlevel.RunVar("vnet.simulation", default=None)


def current_simulation() -> Simulation | None:
    """Tell in which simulation the caller runs; None in real time."""
    return _current.get()


@contextmanager
def _seeded_scheduling(seed: int) -> Iterator[None]:
    """Make the order in which trio runs ready tasks depend on *seed* only."""
    state = trio_run._r.getstate()
    allowed = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    trio_run._r.setstate(random.Random(seed).getstate())
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    try:
        yield
    finally:
        trio_run._r.setstate(state)
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = allowed  # type: ignore[misc]


def simulate(function: Callable[[*Ts], Awaitable[T]], *args: *Ts, seed: int = 0, limit: Duration = MAX_DURATION) -> T:
    """Run ``await function(*args)`` in virtual time and return what it returns.

    Labs opened inside are simulated: no privileges, no waiting, and the same *seed* gives the same run to the last octet.
    ``trio.sleep`` and all other deadlines follow the lab clock. Raise SimulationStalled when nothing can happen any more, or
    the clock passes *limit* (nanoseconds), while the function still waits.
    """
    simulation = Simulation(seed, limit)

    async def run() -> T:
        _current.set(simulation)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(simulation.drive)
            try:
                return await function(*args)
            finally:
                nursery.cancel_scope.cancel()

    with _seeded_scheduling(seed):
        try:
            return trio.run(
                run,
                clock=VirtualClock(simulation.timeline),
                instruments=[simulation.watch],
                strict_exception_groups=True,
            )
        except BaseExceptionGroup as group:
            raise _only_error(group) from None


def _only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Unwrap the group that the driver's nursery puts around a single error."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
