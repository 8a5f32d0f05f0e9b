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
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar, TypeVarTuple, final

import trio
from trio._core import _run as trio_run

from vnet.errors import LabError, SimulationStalled, UsageError
from vnet.fabric.timeline import Timeline
from vnet.runtime.tasks import close_tasks, name_tasks, tasks_below, waits_for_children
from vnet.runtime.threads import LOOK, ThreadWatch
from vnet.units import DAY, HOUR, SECOND, Duration, Instant, format_duration, parse_duration

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_DURATION: Final[Duration] = 3650 * DAY
"""A simulation that gets this far is taken to wait for something that never happens."""
PATIENCE: Final[Duration] = 30 * DAY
"""So long may nothing wake any task, when nothing is left but what goes round for ever: renewals, ageing, hellos."""
GRACE: Final[Duration] = HOUR
"""What the tasks of a simulation that has failed get of lab time to clean up."""
MOST_STEPS: Final = 1_000_000
"""More steps of tasks than this without time moving mean that one of them never lets the lab have its turn."""
LIVE_STEPS: Final = 3
"""Turns that tasks get in a live lab to come to where they wait."""
LAST_STEPS: Final = 100_000
"""What they get of those to clean up."""


@final
class VirtualClock(trio.abc.Clock):
    """trio's view of a timeline: seconds since the lab began."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.failure: Exception | None = None
        """Raised from now on. trio asks for the time between two steps of tasks, so that is the end of its run."""

    def start_clock(self) -> None:
        """Do nothing: the timeline starts by itself."""

    def current_time(self) -> float:
        """Tell the lab clock in seconds."""
        if self.failure is not None:
            raise self.failure
        return self.timeline.now / SECOND

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Let trio poll when a deadline has passed, and otherwise sleep until the driver moves the clock."""
        return 0.0 if deadline <= self.current_time() else math.inf


@final
class _WakeWatch(trio.abc.Instrument):
    """Interrupt the timeline when an event makes a task ready, so that the task runs at this very instant.

    ``awake`` are the tasks made ready since trio last looked at the clock, ``steps`` how many were while time stood still;
    ``on_standstill`` is called when those are too many.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._instant: Instant = -1
        self.awake: list[trio.lowlevel.Task] = []
        self.steps = 0
        self.on_standstill: Callable[[], None] | None = None

    def after_io_wait(self, timeout: float) -> None:
        if self._timeline.now != self._instant:
            self._instant = self._timeline.now
            self.steps = 0
        self.steps += len(self.awake)
        if self.steps > MOST_STEPS and self.on_standstill is not None:
            self.on_standstill()
        self.awake.clear()

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        self._timeline.interrupted = True
        self.awake.append(task)


@final
class Simulation:
    """One run in virtual time: its timeline and its seed.

    When it fails, the function is cancelled, and the clock goes on for whoever cleans up. Tasks that wait on all the same,
    or spin, are given up, and with them the run: it never hangs.
    """

    def __init__(self, seed: int, limit: Duration) -> None:
        self.timeline = Timeline()
        self.seed = seed
        self.limit = limit
        self.clock = VirtualClock(self.timeline)
        self.watch = _WakeWatch(self.timeline)
        self.watch.on_standstill = self._stand_still
        self.failure: Exception | None = None
        """Why the simulation cannot go on; its function is cancelled then."""
        self.on_given_up: Callable[[Exception], object] | None = None
        """Told before a run is given up: in a branch nobody may come back to what the original was doing."""
        self.abandoned: list[trio.lowlevel.Task] = []
        """The tasks of a run that was given up: trio's own, which then accept no more work, before those of the function."""
        self._scope = trio.CancelScope()
        self._driver: trio.lowlevel.Task | None = None
        self._main: trio.lowlevel.Task | None = None

    async def run(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Carry out the function while the clock is driven; raise what made the simulation fail, if it did."""
        _current.set(self)
        self._main = trio.lowlevel.current_task()
        self._main.name = getattr(function, "__qualname__", self._main.name)  # for errors that say who waits
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drive)
            try:
                with self._scope:
                    value = await function(*args)
            except Exception:
                if self.failure is not None:
                    raise self.failure  # noqa: B904 - what cancelled tasks say is the context, not the cause
                raise
            finally:
                nursery.cancel_scope.cancel()
            if self.failure is not None:
                raise self.failure
            return value

    async def _drive(self) -> None:
        """Move the clock for ever; make the simulation fail when that cannot be done."""
        self._driver = trio.lowlevel.current_task()
        while True:
            try:
                await self._move_clock()
            except Exception as error:
                self._fail(error)

    async def _move_clock(self) -> None:
        # trio.testing has it in public, and brings pytest along where that is installed: a quarter of what `vnet up` takes
        wait_all_tasks_blocked = trio_run.wait_all_tasks_blocked
        timeline, threads = self.timeline, ThreadWatch()
        quiet_since: Instant | None = None
        mark = 0
        while True:
            await wait_all_tasks_blocked()
            if len(self.watch.awake) > 1:
                continue  # somebody else waited for that too, and is not blocked any more: time stands still
            if threads.hold():
                self.watch.steps = 0  # as it should, while there is work
                await wait_all_tasks_blocked(LOOK)
                continue
            wakes = self._next_deadline()
            if wakes is not None and wakes <= self.limit:
                quiet_since = None
                timeline.run_until(wakes)
                if not timeline.interrupted:
                    timeline.now = max(timeline.now, wakes)
                continue
            if quiet_since is None:
                quiet_since, mark = timeline.now, timeline.mark()
            end = min(quiet_since + PATIENCE, self.limit)
            timeline.run_until(end)
            if timeline.interrupted:
                quiet_since = None
            elif timeline.next_instant() is None and wakes is None:
                raise self._stalled("every task waits, and nothing is left to happen in the lab")
            elif end == self.limit or timeline.next_instant() is None:
                raise self._stalled(f"the lab clock passed {format_duration(self.limit)} and somebody still waits")
            elif not timeline.was_planned(mark, end + PATIENCE, self.limit):
                if wakes is not None:
                    limit = format_duration(self.limit)
                    raise self._stalled(f"the limit is {limit} of lab time, and whoever sleeps does so for longer")
                raise self._stalled(
                    f"every task waits, and for {PATIENCE // DAY} days nothing happened in the lab but what repeats for ever"
                )
            else:
                quiet_since = end

    def _next_deadline(self) -> Instant | None:
        """Tell when the next task wakes by itself, after the limit at the latest; None if none ever does."""
        until = trio.lowlevel.current_statistics().seconds_to_next_deadline
        if until == math.inf:
            return None
        # one nanosecond at least, or a deadline that a float rounds down would never come; and not 1e300 seconds
        ahead = max(1, math.ceil(min(until, self.limit / SECOND + 1) * SECOND)) if until > 0 else 0
        return self.timeline.now + ahead

    # -- when it cannot go on

    def _stalled(self, why: str) -> SimulationStalled:
        waiting = self._waiting()
        if self._main is not None and self._main not in waiting:
            waiting.append(self._main)  # it waits for its children: at a line of the test's all the same
        return SimulationStalled(f"{why}: {self._name(waiting)}")

    def _waiting(self) -> list[trio.lowlevel.Task]:
        """List the tasks that wait for something else than their children."""
        return [task for task in tasks_below(self._main) if task is not self._driver and not waits_for_children(task)]

    def _name(self, tasks: Iterable[trio.lowlevel.Task]) -> str:
        return name_tasks(tasks, self._main)

    def _stand_still(self) -> None:
        """Fail, because tasks take one step after the other while time stands still. Not called by a task."""
        ours = set(tasks_below(self._main)) - {self._driver}
        busy = [task for task in self.watch.awake if task in ours] or self.watch.awake
        when = format_duration(self.timeline.now)
        self._fail(
            SimulationStalled(f"{MOST_STEPS} steps of tasks at {when} without time moving; busy is {self._name(busy)}"), busy
        )

    def _fail(self, error: Exception, busy: Sequence[trio.lowlevel.Task] = ()) -> None:
        """Cancel everything, and let it clean up; the second time, give the run up."""
        self.watch.steps = MOST_STEPS - LAST_STEPS
        if self.failure is not None:
            self._give_up(f"cancelled, this does not end: {self._name(busy or self._waiting())}")
            return
        self.failure = error
        self.limit = self.timeline.now + GRACE
        self._scope.cancel()

    def _give_up(self, why: str) -> None:
        """End the run without its tasks: what trio asks the clock for next raises."""
        failure = self.failure
        if isinstance(failure, LabError):
            failure = SimulationStalled(f"{failure}; {why}")
        elif failure is not None:
            failure.add_note(why)
        if self.on_given_up is not None and failure is not None:
            self.on_given_up(failure)
        ours = list(tasks_below(self._main))
        others = [task for task in tasks_below(trio.lowlevel.current_root_task()) if task not in set(ours)]
        self.abandoned = others[::-1] + ours[::-1]
        self.clock.failure = failure


_current: Final[trio.lowlevel.RunVar[Simulation | None]] = trio.lowlevel.RunVar("vnet.simulation", default=None)


def current_simulation() -> Simulation | None:
    """Tell in which simulation the caller runs; None in real time."""
    return _current.get()


async def settle() -> None:
    """Wait until every other task waits, in a simulation; live, where that may never be, give each a chance to."""
    if current_simulation() is None:
        for _ in range(LIVE_STEPS):
            await trio.lowlevel.checkpoint()
        return
    from trio.testing import wait_all_tasks_blocked

    await wait_all_tasks_blocked()


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


def simulate(function: Callable[[*Ts], Awaitable[T]], *args: *Ts, seed: int = 0, limit: Duration | str = MAX_DURATION) -> T:
    """Run ``await function(*args)`` in virtual time and return what it returns.

    Labs opened inside are simulated: no privileges, no waiting, and the same *seed* gives the same run to the last octet.
    ``trio.sleep`` and all other deadlines follow the lab clock.

    Raise SimulationStalled, which names the tasks that wait and where, while the function still waits and nothing can
    happen any more, nothing but what repeats for ever has for 30 days, or the clock passes *limit* (nanoseconds, or text
    such as "30d"); also when a task takes a million steps without time moving. Everything is cancelled then, and has
    an hour of lab time to clean up; what does not end is left where it stands. UsageError for a limit that is none.
    """
    simulation = Simulation(seed, _limit(limit))
    with _seeded_scheduling(seed):
        try:
            return trio.run(
                simulation.run,
                function,
                *args,
                clock=simulation.clock,
                instruments=[simulation.watch],
                strict_exception_groups=True,
            )
        except trio.TrioInternalError:
            if simulation.clock.failure is None:
                raise
            close_tasks(simulation.abandoned)
            raise simulation.clock.failure from None
        except BaseExceptionGroup as group:
            raise _only_error(group) from None


def _limit(value: Duration | str) -> Duration:
    try:
        limit = parse_duration(value) if isinstance(value, str) else value
    except ValueError as error:
        raise UsageError(f"limit: {error}") from error
    if not isinstance(limit, int) or limit <= 0:
        raise UsageError(f"limit={value!r}: write nanoseconds, or text with a unit, such as '30d'")
    return limit


def _only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Unwrap the group that the driver's nursery puts around a single error."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
