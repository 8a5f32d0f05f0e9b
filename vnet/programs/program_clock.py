"""The time by which programs pace what they send: trio's clock, less what the machine that they run on stood still.

A sender that was held up catches up; one whose machine was paused has nothing to catch up with, because its own clock stood
still too. Who runs a program on such a machine says so by ``behind``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import trio

_behind: Final[ContextVar[Callable[[], float] | None]] = ContextVar("vnet.program_clock", default=None)


@contextmanager
def behind(tell: Callable[[], float]) -> Iterator[None]:
    """Have what runs in the block, and the tasks it starts, go by a clock that is behind by so many seconds."""
    token = _behind.set(tell)
    try:
        yield
    finally:
        _behind.reset(token)


def program_time() -> float:
    """Tell the time in seconds."""
    tell = _behind.get()
    return trio.current_time() - (0.0 if tell is None else tell())


async def sleep_until(time: float) -> None:
    """Sleep until it is *time* by this clock."""
    if _behind.get() is None:
        await trio.sleep_until(time)
    else:
        await trio.sleep(max(0.0, time - program_time()))  # a length, because a deadline would not move with the clock
