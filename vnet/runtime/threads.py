"""Threads in virtual time: the lab clock stands still while a task waits for one, as for a call that returns at once.

``trio.to_thread.run_sync``, ``trio.Path`` and ``trio.open_file`` work in real time. If the clock went on meanwhile, every
deadline of the program would pass, sooner or later as the machine pleases. A thread that asks trio to do something
(``trio.from_thread``) is not waited for: then its task does that, and may itself wait for the lab.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, final

import trio

from vnet.errors import SimulationStalled
from vnet.runtime.tasks import codes_of, name_tasks, tasks_below

THREAD_PATIENCE: Final = 60.0
"""Real seconds that a simulation waits for threads without anything happening; after that, it would hang for ever."""
LOOK: Final = 0.001
"""Real seconds between two looks at the threads; trio itself wakes at once when one ends."""

_RUN_SYNC: Final = trio.to_thread.run_sync.__code__
_WAIT: Final = trio.lowlevel.wait_task_rescheduled.__code__


@final
class ThreadWatch:
    """Knows how long a simulation has waited for threads."""

    def __init__(self) -> None:
        self._since: float | None = None

    def hold(self) -> bool:
        """Tell whether the clock has to stand still now; raise SimulationStalled when it has for too long.

        Only threads under trio's default limit count.
        """
        if not trio.to_thread.current_default_thread_limiter().borrowed_tokens or not any(map(_is_waiting, _tasks())):
            self._since = None
            return False
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if now - self._since > THREAD_PATIENCE:
            waiting = name_tasks(filter(_is_waiting, _tasks()))
            raise SimulationStalled(f"a task has waited {THREAD_PATIENCE:g} s of real time for a thread: {waiting}")
        return True


def _tasks() -> Iterator[trio.lowlevel.Task]:
    return tasks_below(trio.lowlevel.current_root_task())


def _is_waiting(task: trio.lowlevel.Task) -> bool:
    """Tell whether the innermost thing that a task awaits is a thread."""
    return (_RUN_SYNC, _WAIT) in pairwise(codes_of(task))
