"""A nursery for programs that handle errors by their kind: what goes wrong in it comes out as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_plain_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery that raises the first error of its tasks itself, not a group of it.

    The rest of a group is what the other tasks said when they were told to end. Cancellation is left to trio.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        _, others = group.split(Exception)
        if others is not None:
            raise
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
