"""Waiting on the lab clock: for a length of time, until nothing happens any more, and what is to happen then.

A lab is **idle** when nothing is due within the next *quiet* seconds: no frame under way, no timer of a guest, router or
service, no sleep or time-out of a task. Protocols have timers that never end: leases are renewed, FDB entries age,
connections are kept alive. All that is further away than *quiet* counts as one of those. Five seconds are more than a
retransmission of ARP or an address probe takes, and less than any renewal; who has hellos every two seconds asks for a
*quiet* of one.

Because a simulation knows what is to come, it is idle at the instant of the last event, and no time is spent on making
sure. In a live lab nobody knows what a program will do: there, idle is when no frame has passed for as long as *quiet*.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from vnet.errors import LabError, UsageError
from vnet.runtime.sinks import NoSink
from vnet.runtime.usage import check_arguments, length_of, name_of
from vnet.units import SECOND, Duration, Instant, format_duration

if TYPE_CHECKING:
    from vnet.fabric.timeline import Action
    from vnet.runtime.lab import Lab

When: TypeAlias = float | str
"""A length of lab time: seconds, or text with a unit such as "20 ms"."""

QUIET: Final = 5.0
"""Seconds within which nothing may be due."""
LIMIT: Final = 3600.0
"""Seconds of lab time after which a lab that is not idle will not be."""
_NAMED: Final = 5
"""What is still due is named up to this many."""


@final
class Planned:
    """An action that ``lab.at`` runs later."""

    def __init__(self, action: Callable[..., object], args: tuple[object, ...]) -> None:
        self.cancelled = False
        self._action = action
        self._args = args

    def cancel(self) -> None:
        """Do not run it, if it has not run."""
        self.cancelled = True

    def run(self) -> None:
        """Run it unless it was cancelled."""
        if not self.cancelled:
            self._action(*self._args)


def plan(lab: Lab, delay: When, action: Callable[..., object], args: tuple[object, ...]) -> Planned:
    """Run ``action(*args)`` once *delay* of lab time has passed.

    Raise UsageError at once for what is no plain function, or does not take these arguments.
    """
    example = "lab.at('90s', lab.faults.crash, 'web')"
    if not callable(action):
        raise UsageError(f"{action!r} is no function, which is called later; write it as {example}")
    if inspect.iscoroutinefunction(inspect.unwrap(action)):
        raise UsageError(f"{name_of(action)} is async: lab.at runs plain functions; start a task that sleeps first instead")
    check_arguments(action, example, *args)
    planned = Planned(action, args)
    lab.timeline.at(lab.timeline.now + length_of(delay), planned.run)
    return planned


async def advance(lab: Lab, length: When) -> None:
    """Let exactly *length* pass on the lab clock."""
    gone = trio.Event()
    lab.timeline.at(lab.timeline.now + length_of(length), gone.set)
    await gone.wait()


async def sleep_until_idle(lab: Lab, quiet: When, limit: When) -> None:
    """Wait until the lab is idle; raise LabError, which names what is still due, when it is not after *limit*."""
    if lab.live:
        await _sleep_until_silent(lab, length_of(quiet), length_of(limit))
        return
    watch = _IdleWatch(lab, length_of(quiet), length_of(limit), trio.current_effective_deadline())
    lab.timeline.soon(watch.look)
    await watch.done.wait()
    if watch.problem:
        raise LabError(watch.problem)


@final
class _IdleWatch:
    """Looks at the timeline from within an event, which is when every task waits."""

    def __init__(self, lab: Lab, quiet: Duration, limit: Duration, own_deadline: float) -> None:
        self.done = trio.Event()
        self.problem = ""
        self._timeline = lab.timeline
        self._quiet = quiet
        self._limit = limit
        self._end = lab.timeline.now + limit
        self._own_deadline = own_deadline

    def look(self) -> None:
        now = self._timeline.now
        due = [each for each in self._timeline.pending(now + self._quiet) if not _is_watch(each[1])]
        wakes = self._next_deadline(now)
        if not due and wakes is None:
            self.done.set()
        elif now >= self._end:
            what = dict.fromkeys(_name(action) for _, action in due) or {"a task that sleeps": None}
            self.problem = (
                f"the lab is not idle after {format_duration(self._limit)}: still due: {', '.join(list(what)[:_NAMED])}"
            )
            self.done.set()
        else:
            latest = max([when for when, _ in due] + ([] if wakes is None else [wakes]))
            self._timeline.at(min(latest, max(self._end, now)), self.look)

    def _next_deadline(self, now: Instant) -> Instant | None:
        """Tell when the next task wakes, if that is soon. The time-out around this very wait does not count."""
        wait = trio.lowlevel.current_statistics().seconds_to_next_deadline
        if wait == math.inf or wait * SECOND > self._quiet:
            return None
        if abs(now / SECOND + wait - self._own_deadline) < 1e-6:
            return None
        return now + max(1, math.ceil(wait * SECOND))


def _is_watch(action: Action) -> bool:
    return isinstance(getattr(action, "__self__", None), _IdleWatch)


def _name(action: Action) -> str:
    """Name what an event calls, and whose it is if it says so."""
    owner = getattr(action, "__self__", None)
    what = getattr(action, "__qualname__", type(action).__name__).replace(".<locals>", "")
    for holder in (owner, getattr(owner, "host", None), getattr(owner, "_host", None)):
        name = getattr(holder, "name", None)
        if isinstance(name, str):
            return f"{what} of {name}"
    return what


async def _sleep_until_silent(lab: Lab, quiet: Duration, limit: Duration) -> None:
    capture = lab.captures.start(NoSink())
    end = lab.timeline.now + limit
    try:
        while True:
            before = capture.recorded
            await trio.sleep(quiet / SECOND)
            if capture.recorded == before:
                return
            if lab.timeline.now >= end:
                raise LabError(f"the lab is not idle after {format_duration(limit)}: frames still pass")
    finally:
        capture.finish()
