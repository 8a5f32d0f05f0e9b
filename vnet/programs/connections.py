"""What servers have in common: a bound for their connections, and clients that end theirs and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

Handler: TypeAlias = Callable[[trio.SocketStream], Awaitable[None]]


def bounded(handle: Handler, most: int) -> Handler:
    """Have *handle* serve at most so many connections at a time; further ones are closed at once.

    What a client raises that resets its connection, or is waited for too long, passes no further.
    """
    connections = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connections
        if connections >= most:
            return
        connections += 1
        try:
            await handle(stream)
        except (trio.BrokenResourceError, trio.TooSlowError):
            pass
        finally:
            connections -= 1

    return serve
