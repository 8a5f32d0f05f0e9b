"""The programs of a machine that is stood in for: they end and start with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, final

import trio

from vnet.guests.program import GuestProgram


class Runner(Protocol):
    """Runs one program once: ``runtime.programs``."""

    state: GuestProgram
    ended: trio.Event
    listening: trio.Event

    @property
    def title(self) -> str:
        """Name the program and its guest."""

    def anew(self) -> Self:
        """Return one that runs the program again from its beginning."""

    def ask_to_end(self) -> None:
        """End it, so that it says goodbye to its peers."""

    def cut(self) -> None:
        """End it; what it still does and says is of no interest."""

    async def run(self) -> None:
        """Run it."""


@final
class MachinePrograms:
    """The programs of one machine, as *runners* that somebody has started if they *are_running*."""

    def __init__(self, nursery: trio.Nursery, runners: Sequence[Runner], *, are_running: bool) -> None:
        self._nursery = nursery
        self._runners = list(runners)
        self._running = self._runners if are_running else []

    def start(self) -> None:
        """Start them, servers first, since clients on the same machine may ask them."""
        self._runners = [runner.anew() for runner in self._runners]
        self._running = self._runners
        for runner in sorted(self._runners, key=lambda each: not each.state.is_server):
            self._nursery.start_soon(runner.run, name=runner.title)

    async def wait_listening(self) -> None:
        """Wait until the servers that were started listen, or have failed to."""
        for runner in self._running:
            if runner.state.is_server:
                await runner.listening.wait()

    def cut(self) -> None:
        """End them where they are."""
        for runner in self._runners:
            runner.cut()
        self._running = []

    async def end(self) -> None:
        """Have them end, and wait until they have."""
        running = self._running
        for runner in running:
            runner.ask_to_end()
        for runner in running:
            await runner.ended.wait()
