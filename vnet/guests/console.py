"""The serial console of a machine: what it said lately is kept, whoever looks sees it go on, and can type.

The machine never waits for those who look: who does not keep up misses octets, and is told how many.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, final

import trio

from vnet.errors import NoAnswer, UsageError

KEPT_OCTETS: Final = 64 * 1024
PIECES_AHEAD: Final = 256
"""Pieces of output that wait for somebody who looks."""
MOST_WATCHERS: Final = 16
_PIECE: Final = 1 << 14
_CONTROLS: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_a-z])|[\x00-\x08\x0b-\x1f\x7f]")
"""Escape sequences and control characters that a terminal would obey."""


@final
@dataclass(frozen=True, slots=True)
class Watch:
    """A look at a console: *pieces* come until ``end`` is called and the last one has been taken."""

    pieces: trio.MemoryReceiveChannel[bytes]
    end: Callable[[], None]


@final
class Console:
    """The console of one machine, through all of its starts; *run* feeds it from one of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._kept = bytearray()
        self._total = 0
        self._stream: trio.abc.Stream | None = None
        self._lock = trio.Lock()
        self._watchers: dict[trio.MemorySendChannel[bytes], int] = {}
        self._said = trio.Event()

    async def run(self, stream: trio.abc.Stream) -> None:
        """Take what the machine says until it ends."""
        self._stream = stream
        try:
            while piece := await stream.receive_some(_PIECE):
                self.feed(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._stream = None

    def feed(self, piece: bytes | bytearray) -> None:
        """Keep what the machine said, and show it to those who look."""
        self._kept += piece
        self._total += len(piece)
        del self._kept[:-KEPT_OCTETS]
        for watcher, missed in self._watchers.items():
            try:
                if missed:
                    watcher.send_nowait(f"\r\n[{missed} octets missed]\r\n".encode())
                    self._watchers[watcher] = 0
                watcher.send_nowait(bytes(piece))
            except trio.WouldBlock:
                self._watchers[watcher] += len(piece)
        said, self._said = self._said, trio.Event()
        said.set()

    @property
    def output(self) -> bytes:
        """What the machine said lately, the last 64 KiB of it."""
        return bytes(self._kept)

    @property
    def said(self) -> int:
        """How many octets the machine has said since its first start; a place to ``wait_for`` something from."""
        return self._total

    def last_lines(self, count: int) -> list[str]:
        """Give the last lines that are not empty, without what terminals obey."""
        text = _CONTROLS.sub(b"", self.output).decode(errors="replace")
        return [line.rstrip() for line in text.split("\n") if line.strip()][-count:]

    async def write(self, data: bytes) -> None:
        """Type; waits while the machine takes nothing, as a paused one does. Raise UsageError if it does not run."""
        stream = self._stream
        if stream is None:
            raise UsageError(f"{self.name} has no console now: it does not run, or has `console: none`")
        async with self._lock:
            try:
                await stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise UsageError(f"{self.name} does not run any more") from error

    async def wait_for(self, pattern: str | bytes, timeout: float = 30.0, since: int = 0) -> str:
        """Wait until the output after octet *since* matches a regular expression; return what was said up to there.

        Raise NoAnswer after *timeout* seconds, with the last lines.
        """
        wanted = re.compile(pattern.encode() if isinstance(pattern, str) else pattern, re.MULTILINE)
        with trio.move_on_after(timeout):
            while True:
                begin = max(0, since - (self._total - len(self._kept)))
                found = wanted.search(self._kept, begin)
                if found:
                    return bytes(self._kept[begin : found.end()]).decode(errors="replace")
                await self._said.wait()
        raise NoAnswer(
            f"{self.name} did not say {wanted.pattern.decode()!r} within {timeout:g} s; last it said: "
            + (" / ".join(self.last_lines(5)) or "nothing")
        )

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Look on: the pieces are what was said lately, then all that follows."""
        if len(self._watchers) >= MOST_WATCHERS:
            raise UsageError(f"{MOST_WATCHERS} look at the console of {self.name} already")
        sending, receiving = trio.open_memory_channel[bytes](PIECES_AHEAD)
        if self._kept:
            sending.send_nowait(self.output)
        self._watchers[sending] = 0

        def end() -> None:
            self._watchers.pop(sending, None)
            sending.close()

        try:
            yield Watch(receiving, end)
        finally:
            end()
            receiving.close()
