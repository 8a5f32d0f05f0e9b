"""The sleeps and time-outs of what runs on a machine: they stand still with it.

A program on an emulated guest is trio tasks, and trio has one clock for all. While a machine is paused, the deadlines of all
cancel scopes that its programs have open are taken away, and come back as much later as it took; a sleep is one of those.
What wakes a program otherwise is its guest's sockets, and those are silent then. ``trio.current_time`` goes on for it all
the same, as if the machine were told the time when it goes on; vnet's own programs pace themselves by a clock that does
not (``programs.program_clock``).

Which scopes a task is in is not public in trio: ``_scopes_of`` is the one place that knows, and a test watches it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import trio

from vnet.programs import program_clock

if TYPE_CHECKING:
    from trio._core._run import CancelStatus


@final
class ProgramTime:
    """The deadlines of one machine's programs."""

    __slots__ = ("_behind", "_held_at", "_left", "_tracked")

    def __init__(self) -> None:
        self._tracked: dict[trio.CancelScope, trio.lowlevel.Task] = {}
        self._left: dict[trio.CancelScope, float] = {}
        self._behind = 0.0
        self._held_at: float | None = None

    def behind(self) -> float:
        """Tell for how many seconds they have stood still until now."""
        return self._behind + (0.0 if self._held_at is None else trio.current_time() - self._held_at)

    @contextmanager
    def track(self) -> Iterator[trio.CancelScope]:
        """Count what the block opens, in this task and those it starts, for the machine's; yield the scope it runs in."""
        with trio.CancelScope() as scope, program_clock.behind(self.behind):
            self._tracked[scope] = trio.lowlevel.current_task()
            try:
                yield scope
            finally:
                del self._tracked[scope]

    def hold(self) -> None:
        """Take all deadlines away."""
        now = trio.current_time()
        if self._held_at is None:
            self._held_at = now
        for outermost, task in self._tracked.items():
            for scope in _scopes_within(task, outermost):
                if scope.deadline != math.inf:
                    self._left[scope] = scope.deadline - now
                    scope.deadline = math.inf

    def release(self) -> None:
        """Give them back, each with what was left of it."""
        self._behind, self._held_at = self.behind(), None
        now = trio.current_time()
        for scope, left in self._left.items():
            if scope.deadline == math.inf:
                scope.deadline = now + left
        self._left.clear()


def _scopes_within(task: trio.lowlevel.Task, outermost: trio.CancelScope) -> dict[trio.CancelScope, None]:
    """List the scopes inside of one that a task has entered, those of the tasks it started within included."""
    found: dict[trio.CancelScope, None] = {}
    left = [task]
    while left:
        each = left.pop()
        inner = _scopes_of(each)
        if outermost in inner:
            found |= dict.fromkeys(inner[: inner.index(outermost)])
        for nursery in each.child_nurseries:
            left.extend(nursery.child_tasks)
    return found


def _scopes_of(task: trio.lowlevel.Task) -> list[trio.CancelScope]:
    """List the scopes that a task is in, innermost first, those around the nursery that it was started in included."""
    scopes: list[trio.CancelScope] = []
    status: CancelStatus | None = task._cancel_status
    while status is not None:
        scopes.append(status._scope)
        status = status._parent
    return scopes
