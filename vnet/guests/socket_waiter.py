"""How a task waits for one direction of a guest's socket."""

from __future__ import annotations

from typing import final

import trio


@final
class Waiter:
    """The one task that may wait for a direction of a socket, as with ``trio.lowlevel.wait_readable``."""

    __slots__ = ("_doing", "_event")

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._event: trio.Event | None = None

    async def wait(self) -> None:
        """Wait until woken; raise BusyResourceError if another task does."""
        if self._event is not None:
            await trio.lowlevel.checkpoint()
            raise trio.BusyResourceError(f"another task is already {self._doing} this socket")
        self._event = trio.Event()
        try:
            await self._event.wait()
        finally:
            self._event = None

    def wake(self) -> None:
        """Let the task look again."""
        if self._event is not None:
            self._event.set()

    @property
    def is_waiting(self) -> bool:
        """Whether a task waits."""
        return self._event is not None
