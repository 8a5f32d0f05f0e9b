"""Who waits: the tasks of a run, by name and by the line at which each stands, for errors that have to say so."""

from __future__ import annotations

import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import Final, final

import trio

NAMED: Final = 5
"""Tasks that an error names; of more it gives the number."""
PROGRAM: Final = "program "
"""How the names of tasks begin that run the programs of guests."""
MOST_CLOSES: Final = 100
"""Times that an abandoned task is told to end: once for each wait that it begins in a ``finally``."""

_TRIO: Final = str(Path(trio.__file__).parent)
_FOREIGN: Final = tuple(
    dict.fromkeys((_TRIO, str(Path(__file__).parents[1]), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib"))))
)
"""Where the code lies that is not the user's."""
_unending: Final[list[trio.lowlevel.Task]] = []
"""Tasks that did not even end so; Python would complain about each that it collects."""
_NURSERY_END: Final = trio.Nursery._nested_child_finished.__code__


def tasks_below(top: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    """List a task and all that it started, a parent before its children; siblings in no order."""
    left = [] if top is None else [top]
    while left:
        task = left.pop()
        yield task
        for nursery in task.child_nurseries:
            left.extend(nursery.child_tasks)


def codes_of(task: trio.lowlevel.Task) -> list[CodeType]:
    """List the code that a task is in, outermost first."""
    return [frame.f_code for frame, _ in task.iter_await_frames()]


def waits_for_children(task: trio.lowlevel.Task) -> bool:
    """Tell whether all that a task waits for is the end of its children."""
    return _NURSERY_END in codes_of(task)


def place_of(task: trio.lowlevel.Task) -> str:
    """Say where a task stands, as ``file:line``: in the innermost code of the user's, or else outside of trio."""
    return _standing(task)[1]


def _standing(task: trio.lowlevel.Task) -> tuple[int, str]:
    """Say where a task stands, and how deep one had to look: 0 for code of the user's, more for that of others."""
    frames = [(frame.f_code.co_filename, line) for frame, line in task.iter_await_frames()]
    for depth, foreign in enumerate((_FOREIGN, (_TRIO,), ())):
        found = [each for each in frames if not each[0].startswith(foreign)]
        if found:
            return depth, f"{found[-1][0]}:{found[-1][1]}"
    return len(_FOREIGN), "a place that cannot be seen"


def _rank(task: trio.lowlevel.Task, main: trio.lowlevel.Task | None) -> tuple[int, str]:
    """Order tasks by how likely it is that they are meant: *main*, the user's own, programs of guests, servers."""
    depth, place = _standing(task)
    is_program = task.name.startswith(PROGRAM)
    rank = 0 if task is main else 1 if depth == 0 and not is_program else 2 if depth == 0 else 3
    return rank, f"{task.name} at {place}"


def name_tasks(tasks: Iterable[trio.lowlevel.Task], main: trio.lowlevel.Task | None = None) -> str:
    """Name tasks and where each stands: ``test at lab.py:7, pump at pump.py:30 (x 12)``; *main*, if among them, first.

    Then those that stand in code of the user's, and last those that stand in code of vnet or trio: servers mostly wait.
    """
    counts = Counter(_rank(task, main) for task in tasks)
    told = [text if count == 1 else f"{text} (x {count})" for (_, text), count in sorted(counts.items())]
    more = [f"{len(told) - NAMED} more"] if len(told) > NAMED else []
    return ", ".join(told[:NAMED] + more)


@final
class _GivenUp(BaseException):
    """What the tasks of a run that was given up are told. GeneratorExit would not get through to async generators."""


def close_tasks(tasks: Iterable[trio.lowlevel.Task]) -> None:
    """End tasks of a run that was given up: their ``finally`` blocks run, but nothing that they wait for there comes."""
    for task in tasks:
        for nursery in task.child_nurseries:
            nursery._children.clear()  # they have ended, but not in a way that it would hear of, and its __del__ complains
        for _ in range(MOST_CLOSES):
            try:
                task.context.run(task.coro.throw, _GivenUp())
            except BaseException:  # whatever it says now, the reason for giving it up says more
                break
        else:
            _unending.append(task)
