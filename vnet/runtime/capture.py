"""Captures of a lab: pcapng with one interface for each port.

A capture hooks the handlers of its ports while it runs, and a port without captures has its plain handlers: nothing is asked
on the frame path. Any number of captures may watch one port. What is recorded are the frames as they would stand on a wire:
super-frames are cut and checksums completed, so that a reader sees no oversized frame and no bad checksum.

Direction is told from the node that owns the port: what the node receives is inbound, what it sends is outbound.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Final, TypeAlias, final

from vnet.errors import UsageError, WireError
from vnet.ports import NO_OFFLOAD, Handler, Port, Scheduler
from vnet.runtime.filter import Predicate
from vnet.runtime.sinks import FileSink, NoSink, Sink
from vnet.units import Instant
from vnet.wire.pcapng import Direction, Writer
from vnet.wire.segmentation import complete

INBOUND: Final = Direction.INBOUND
OUTBOUND: Final = Direction.OUTBOUND

Cables: TypeAlias = Callable[[], Mapping[str, str]]
"""The links by name, each with the port at which it is watched: one end, lest every frame be seen twice."""
_Watcher: TypeAlias = "tuple[Capture, int]"
"""A capture and the number it gave to the port's interface."""


def choose_ports(
    ports: Mapping[str, Port],
    patterns: Sequence[str],
    hints: Mapping[str, str] = {},
    links: Mapping[str, str] = {},
) -> list[Port]:
    """Pick ports by name: ``web:eth0``, ``web`` (all of a node), a glob such as ``web:*``, or a link.

    They come in the order of *ports*. Raise UsageError for a pattern that fits none, with the nearest name there is; *hints*
    say more of some names.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        glob = pattern if ":" in pattern else pattern + ":*"
        matches = [name for name in ports if name == pattern or fnmatchcase(name, glob)]
        matches = matches or [end for name, end in links.items() if fnmatchcase(name, pattern) and end in ports]
        if not matches:
            others = list(dict.fromkeys([*(name.partition(":")[0] for name in ports), *links]))
            near = difflib.get_close_matches(pattern, ports if ":" in pattern else sorted(others), 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(list(ports)[:8])}"
            hint = hints.get(pattern, hint)
            raise UsageError(f"no port is called {pattern!r}; {hint}")
        chosen.update(matches)
    return [port for name, port in ports.items() if name in chosen]


@final
class Captures:
    """All captures of one lab.

    *ports* are those that can be captured, by name; *cables* gives those taken when none are asked for. *epoch* (nanoseconds
    since 1970 at instant 0 of the lab) is 0 in a simulation.
    """

    __slots__ = ("_cables", "_running", "_watchers", "clock", "epoch", "hints", "ports")

    def __init__(self, clock: Scheduler, ports: Mapping[str, Port], cables: Cables = dict, epoch: Instant = 0) -> None:
        self.clock = clock
        self.ports = ports
        self.epoch = epoch
        self.hints: dict[str, str] = {}
        """What to capture instead of interfaces that have no cable of their own, by name."""
        self._cables = cables
        self._watchers: dict[Port, tuple[_Watcher, ...]] = {}
        self._running: list[Capture] = []

    @property
    def running(self) -> tuple[Capture, ...]:
        """Those that have not ended."""
        return tuple(self._running)

    def start(
        self, sink: Sink, patterns: Sequence[str] = (), wanted: Predicate | None = None, count: int | None = None
    ) -> Capture:
        """Begin to record into *sink*: only frames that *wanted* accepts, and no more than *count* of them.

        Raise UsageError for a pattern that no port fits; OSError if the sink cannot take the headers.
        """
        cables = self._cables()
        patterns = patterns or list(cables.values())
        ports = choose_ports(self.ports, patterns, self.hints, cables) if patterns else list(self.ports.values())
        capture = Capture(self, ports, sink, wanted, count)
        self._running.append(capture)
        for number, port in enumerate(ports):
            self._watch(port, (*self._watchers.get(port, ()), (capture, number)))
        return capture

    def flush(self) -> None:
        """Let whoever reads the files of running captures see what came so far."""
        for capture in self.running:
            capture.flush()

    def close(self) -> None:
        """End all captures, so that their files are whole."""
        for capture in self.running:
            capture.finish()

    def leave_files(self) -> None:
        """Write into no file any more, without ending anything: this lab is a copy, and the files are the original's."""
        for capture in self.running:
            if isinstance(capture.sink, FileSink):
                capture.sink = NoSink()

    def _end(self, capture: Capture) -> None:
        self._running.remove(capture)
        for port in capture.ports:
            self._watch(port, tuple(watcher for watcher in self._watchers.get(port, ()) if watcher[0] is not capture))

    def _watch(self, port: Port, watchers: tuple[_Watcher, ...]) -> None:
        if watchers:
            self._watchers[port] = watchers
            port.hook(_recorder(watchers, INBOUND), _recorder(watchers, OUTBOUND))
        else:
            self._watchers.pop(port, None)
            port.hook()


def _recorder(watchers: tuple[_Watcher, ...], direction: Direction) -> Callable[[Handler], Handler]:
    """Make the hook that records for *watchers* before it hands the frame on."""

    def hook(handler: Handler) -> Handler:
        def record(frame: bytes, offload: bytes) -> None:
            frames = [frame]
            if offload != NO_OFFLOAD:
                with suppress(WireError):  # a header that lies about its frame: record what is there
                    frames = complete(frame, offload)
            for capture, number in watchers:
                capture.take(number, direction, frames)
            handler(frame, offload)

        return record

    return hook


@final
class Capture:
    """One running capture.

    ``recorded`` counts its frames; ``dropped`` those that its reader was too slow for. ``failure`` is the reason if the
    sink gave up (a full disk); the lab itself goes on.
    """

    __slots__ = (
        "_captures", "_drops", "_left", "_seen", "_wanted", "_writer", "failure", "finished", "ports", "recorded",
        "sink",
    )  # fmt: skip

    def __init__(
        self, captures: Captures, ports: Sequence[Port], sink: Sink, wanted: Predicate | None, count: int | None
    ) -> None:
        self.ports = tuple(ports)
        self.recorded = 0
        self.finished = False
        self.failure: str | None = None
        self._captures = captures
        self.sink = sink
        self._wanted = wanted
        self._left = count
        self._drops = [0] * len(ports)
        self._seen = [0] * len(ports)
        self._writer = Writer(captures.epoch)
        sink.keep(self._writer.header() + b"".join(self._writer.interface(port.name) for port in ports))

    @property
    def dropped(self) -> int:
        """Frames that this capture misses because its reader is too slow."""
        return sum(self._drops)

    def take(self, number: int, direction: Direction, frames: Iterable[bytes]) -> None:
        """Record frames that pass interface *number* now."""
        instant = self._captures.clock.now
        wanted = self._wanted
        for frame in frames:
            if self.finished or (wanted is not None and not wanted(frame)):
                continue
            self._seen[number] += 1
            try:
                if self.sink.packet(self._writer.packet(number, instant, frame, direction)):
                    self.recorded += 1
                else:
                    self._drops[number] += 1
            except OSError as error:
                self.failure = error.strerror or str(error)
                self.finish()
                continue
            if self._left is not None and self.recorded >= self._left:
                self.finish()

    def flush(self) -> None:
        """Pass on what waits in buffers."""
        try:
            self.sink.flush()
        except OSError as error:
            self.failure = error.strerror or str(error)
            self.finish()

    def finish(self) -> None:
        """Take the hooks off, write how many frames passed and were missed, close the sink. Twice is as good as once."""
        if self.finished:
            return
        self.finished = True
        self._captures._end(self)
        instant = self._captures.clock.now
        try:
            for number, seen in enumerate(self._seen):
                self.sink.keep(self._writer.statistics(number, instant, seen, self._drops[number]))
            self.sink.close()
        except OSError as error:
            self.failure = self.failure or error.strerror or str(error)
