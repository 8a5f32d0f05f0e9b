"""Expectations over traffic: a frame must pass, or must not, while a block of the test runs.

::

    async with expect(lab, "arp host 10.0.0.9", "pc").within("2s"):
        lab.faults.restart("pc")

    async with never(lab, "net 10.20.130.0/24", "server").within("10s"):
        await lab.ping_all()

Filters are those of ``vnet capture``, ports are named as there. Who fails shows what passed instead.

That nothing was seen proves little: the cable may have been out. So ``never`` sends **canaries** at the start and at the
end, through the cable of each watched port in both directions, and fails if one does not come by. A canary is a frame of
the EtherType for local experiments (IEEE Std 802-2014, 9.2.3) to a group address that bridges do not forward (IEEE
802.1Q-2018, table 8-1): it teaches no FDB anything, goes no further than the next node, and is ignored there.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import TYPE_CHECKING, Final, NoReturn, Self, final

import trio

from vnet.errors import UsageError
from vnet.ports import NO_OFFLOAD, Port
from vnet.runtime.filter import compile_filter
from vnet.runtime.sinks import MemorySink
from vnet.runtime.usage import called_as, length_of
from vnet.runtime.waiting import When
from vnet.units import MILLISECOND, SECOND, Duration, Instant, format_duration
from vnet.wire import pcapng
from vnet.wire.describe import describe
from vnet.wire.pcapng import Direction

if TYPE_CHECKING:
    from vnet.links.link import Link
    from vnet.runtime.capture import Capture
    from vnet.runtime.lab import Lab

CONTEXT: Final = 1 << 18
"""Octets of other frames that are kept, the newest, to be shown when it fails."""
LINES: Final = 20
"""Frames shown when it fails."""
FOLDED: Final = 8
"""Lines back that a frame is compared with: requests and answers take turns."""
LOSSY_TRIES: Final = 200
"""Canaries sent through a cable that loses or damages frames, at most."""
QUEUE_TRIES: Final = 3
"""Canaries sent through others: the queue of a cable with a rate may be full."""
PATIENCE: Final[Duration] = 1 * SECOND
PAUSE: Final[Duration] = 10 * MILLISECOND
"""How long a canary may take beyond the latency of its cable and what waits before it; on cables that lose frames."""

_ARROWS: Final = {Direction.INBOUND: "in ", Direction.OUTBOUND: "out"}
_COUNTER: Final = re.compile(r"\b(seq|ack|win|id|xid|val|ecr|secs|length(?= [1-9])) (?:0x)?[0-9a-f]+(?::[0-9]+)?\b")
_OPTIONS: Final = re.compile(r"(?<=, )options \[[^]]*\](?=, )")
_CANARY_HEADER: Final = bytes.fromhex("0180c200000e 02766e657400 88b5")
_CANARY: Final = _CANARY_HEADER + b"vnet canary"


def is_canary(frame: bytes, flipped: int = 0) -> bool:
    """Tell whether the frame is one that ``never`` sent, with at most so many bits *flipped* on its way."""
    return frame.startswith(_CANARY) or (
        bool(flipped) and len(frame) >= len(_CANARY) and bits_between(frame[: len(_CANARY)], _CANARY) <= flipped
    )


def bits_between(one: bytes, other: bytes) -> int:
    """Count the bits in which two strings of octets of one length differ."""
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


def show_frames(packets: list[pcapng.Packet]) -> str:
    """Write captured frames for people, one line each: the last of them if they are many.

    A frame that differs from one of the lines just before in nothing but counters (sequence numbers, identifiers, lengths)
    is counted there: ``(x 213, until 12.000000000)``.
    """
    lines: list[_Line] = []
    for each in packets:
        text = f"{each.interface.name} {_ARROWS.get(each.direction, '')} {describe(each.frame)}"
        shape = _OPTIONS.sub("", _COUNTER.sub(r"\1", text))
        same = next((line for line in lines[-FOLDED:] if line.shape == shape), None)
        if same is None:
            lines.append(_Line(shape, each.instant, text))
        else:
            same.count += 1
            same.last = each.instant
    hidden = sum(line.count for line in lines[:-LINES])
    return "\n".join([f"  ... {hidden} before these"] * bool(hidden) + [f"  {line}" for line in lines[-LINES:]])


@final
class _Line:
    """Frames of one shape, shown by the first."""

    def __init__(self, shape: str, first: Instant, text: str) -> None:
        self.shape = shape
        self.count = 1
        self.last = first
        self._text = f"{first / SECOND:.9f} {text}"

    def __str__(self) -> str:
        return self._text if self.count == 1 else f"{self._text} (x {self.count}, until {self.last / SECOND:.9f})"


class _Watch:
    """What both kinds share: two captures of the same ports, one of the frames meant, one of the rest."""

    def __init__(self, lab: Lab, expression: str, ports: tuple[str, ...]) -> None:
        from vnet.runtime.lab import Lab  # here, because a lab knows of much that is not needed to say what is expected

        if not isinstance(lab, Lab):
            raise UsageError(
                f"expectations are of a lab, which {lab!r} is not; write it as expect(lab, 'tcp port 80', 'web')"
            )
        for what in (expression, *ports):
            if not isinstance(what, str):
                raise UsageError(f"a filter and the names of ports are text, which {what!r} is not")
        self._lab = lab
        self._expression = expression
        self._wanted = compile_filter(expression)
        self._ports = ports
        self._length: Duration | None = None
        self._captures: list[Capture] = []
        self._forget()

    def _forget(self) -> None:
        self._start: Instant = 0
        self._first: Instant | None = None
        self._seen = trio.Event()
        self._matches = MemorySink(CONTEXT)
        self._others = MemorySink(CONTEXT)

    @called_as("expect(lab, 'tcp').within('2s')")
    def within(self, length: When) -> Self:
        """Set how long after the start of the block it is watched: seconds, or text such as "20 ms"."""
        self._length = length_of(length)
        return self

    def __enter__(self) -> NoReturn:
        raise UsageError("write async with: an expectation waits")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Be there, so that Python looks for ``__enter__``."""

    @property
    def _deadline(self) -> Instant | None:
        return None if self._length is None else self._start + self._length

    @property
    def _where(self) -> str:
        return ", ".join(self._ports) if self._ports else "any cable"

    def _begin(self) -> None:
        if self._captures:
            raise UsageError(f"the expectation of {self._expression!r} has a block already: make another for this one")
        self._forget()  # what an earlier block has seen proves nothing about this one
        start = self._lab.captures.start
        self._start = self._lab.timeline.now
        self._captures = [
            start(self._matches, self._ports, self._match),
            start(self._others, self._ports, lambda frame: not self._wanted(frame) and not is_canary(frame)),
        ]

    def _match(self, frame: bytes) -> bool:
        if is_canary(frame) or not self._wanted(frame):
            return False
        if self._first is None:
            self._first = self._lab.timeline.now
        self._seen.set()
        return True

    def _finish(self) -> None:
        for capture in self._captures:
            capture.finish()
        self._captures = []

    def _instead(self) -> str:
        others = pcapng.read(self._others.octets())
        return f"; what passed there instead:\n{show_frames(others)}" if others else "; nothing else passed there"


@final
class Expectation(_Watch):
    """``expect``: at least one frame passes by the end of the block, or, with ``within``, so long after its start."""

    async def __aenter__(self) -> Self:
        self._begin()
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            deadline = self._deadline
            if error is None and deadline is not None and self._first is None:
                over = self._lab.timeline
                over.at(max(deadline, over.now), self._seen.set)
                await self._seen.wait()
        finally:
            self._finish()
        if error is not None:
            return
        late = self._first is not None and deadline is not None and self._first > deadline
        if self._first is None or late:
            span = "in the block" if self._length is None else f"within {format_duration(self._length)}"
            if late:
                after = format_duration((self._first or 0) - self._start)
                raise AssertionError(f"expected {self._expression!r} at {self._where} {span}; it came after {after}")
            raise AssertionError(f"expected {self._expression!r} at {self._where} {span}, saw none{self._instead()}")


@final
class Never(_Watch):
    """``never``: no such frame passes during the block, nor, with ``within``, until so long after its start."""

    def __init__(self, lab: Lab, expression: str, ports: tuple[str, ...], canaries: bool) -> None:
        super().__init__(lab, expression, ports)
        self._canaries = canaries

    async def __aenter__(self) -> Self:
        self._begin()
        try:
            await self._prove("at the start")
        except BaseException:
            self._finish()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                timeline, deadline = self._lab.timeline, self._deadline
                if deadline is not None and deadline > timeline.now and self._first is None:
                    timeline.at(deadline, self._seen.set)
                    await self._seen.wait()
                if self._first is None:
                    await self._prove("at the end")
        finally:
            self._finish()
        if error is None and self._first is not None:
            matches = pcapng.read(self._matches.octets())
            raise AssertionError(
                f"never {self._expression!r} at {self._where}, but there passed {len(matches)}:\n{show_frames(matches)}"
            )

    async def _prove(self, when: str) -> None:
        """Send canaries through every watched cable; raise AssertionError if one does not come by."""
        if not self._canaries:
            await trio.lowlevel.checkpoint()
            return
        far_end = _far_ends(self._lab)
        for port in self._captures[0].ports:
            link, far = far_end[port]
            for way, sender, taker in (("into", far, port), ("out of", port, far)):
                if not await self._fly(link, sender, taker):
                    reason = "" if link.up else f": the link {link.name} is down"
                    raise AssertionError(
                        f"never {self._expression!r} would prove nothing: {when} no canary came {way} {port.name}{reason}"
                    )

    async def _fly(self, link: Link, sender: Port, taker: Port) -> bool:
        """Send canaries from one end of a cable until one is seen at both; tell whether it was."""
        sink, came, timeline = MemorySink(), trio.Event(), self._lab.timeline
        canary = (_CANARY + b" for " + taker.name.encode()).ljust(60, b"\0")
        wanted = {(sender.name, Direction.OUTBOUND), (taker.name, Direction.INBOUND)}

        def seen() -> bool:
            return wanted <= {(packet.interface.name, packet.direction) for packet in pcapng.read(sink.octets())}

        def caught(frame: bytes) -> bool:
            if frame == canary:
                timeline.soon(lambda: came.set() if seen() else None)
            return frame == canary

        capture = self._lab.captures.start(sink, [sender.name, taker.name], caught)
        try:
            lossy = bool(link.loss or link.corruption)
            for _ in range(LOSSY_TRIES if lossy else QUEUE_TRIES):
                delay = link.latency + link.delay_variation + _wait_in_queue(link, sender)
                patience = delay + (PAUSE if lossy else PATIENCE)
                sender.send(canary, NO_OFFLOAD)
                timeline.at(timeline.now + patience, came.set)
                await came.wait()
                if seen():
                    return True
                came = trio.Event()
        finally:
            capture.finish()
        return False


def _wait_in_queue(link: Link, sender: Port) -> Duration:
    way = link.forward if sender is link.a else link.backward
    return way.backlog() * 8 * SECOND // link.rate if link.rate else 0


def _far_ends(lab: Lab) -> dict[Port, tuple[Link, Port]]:
    found: dict[Port, tuple[Link, Port]] = {}
    for link in lab.links.values():
        found[link.a] = link, link.b
        found[link.b] = link, link.a
    return found


@called_as("async with expect(lab, 'tcp port 80', 'web').within('2s')")
def expect(lab: Lab, expression: str, *ports: str) -> Expectation:
    """Expect a frame that fits the filter to pass one of the *ports* (none: one end of every cable).

    An async context manager; raise AssertionError at the end of the block, UsageError for a wrong filter or port.
    """
    return Expectation(lab, expression, ports)


@called_as("async with never(lab, 'net 10.0.0.0/8', 'web').within('10s')")
def never(lab: Lab, expression: str, *ports: str, canaries: bool = True) -> Never:
    """Expect that no frame that fits the filter passes any of the *ports* (none: one end of every cable).

    An async context manager; raise AssertionError at its end if one did, or if a canary was not seen. Without *canaries*
    none are sent, and nothing is proved about cables.
    """
    return Never(lab, expression, ports, canaries)
