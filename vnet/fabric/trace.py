"""The event log of a lab: what happened, when, to whom; two runs of one seed give the same octets.

Machines report through ``EventLog.reporter(node)``; nothing on the frame path does. The log is bounded: when it is full the
oldest events go and ``forgotten`` counts them.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias, final

from vnet.ports import Report, Scheduler
from vnet.units import Instant

Value: TypeAlias = str | int | bool | None
MAX_EVENTS: Final = 100_000


@final
@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: *kind* in hyphenated words, *fields* in the order the node gave them."""

    instant: Instant
    node: str
    kind: str
    fields: dict[str, Value]

    def to_json(self) -> str:
        """Write the event as one line of JSON, the same in every run."""
        return json.dumps({"instant": self.instant, "node": self.node, "event": self.kind, **self.fields})

    def __str__(self) -> str:
        fields = " ".join(f"{name}={value}" for name, value in self.fields.items())
        return f"{self.instant / 1e9:.9f} {self.node} {self.kind} {fields}".rstrip()


@final
class EventLog:
    """The last events of a lab, oldest first; ``listeners`` hear of each new one."""

    __slots__ = ("_events", "_scheduler", "forgotten", "listeners")

    def __init__(self, scheduler: Scheduler, size: int = MAX_EVENTS) -> None:
        self._scheduler = scheduler
        self._events: deque[Event] = deque(maxlen=size)
        self.forgotten = 0
        self.listeners: list[Callable[[Event], None]] = []

    def __iter__(self) -> Iterator[Event]:
        return iter(tuple(self._events))

    def __len__(self) -> int:
        return len(self._events)

    def add(self, node: str, kind: str, **fields: Value) -> None:
        """Note an event at the current instant."""
        event = Event(self._scheduler.now, node, kind, fields)
        if len(self._events) == self._events.maxlen:
            self.forgotten += 1
        self._events.append(event)
        for listener in self.listeners:
            listener(event)

    def reporter(self, node: str) -> Report:
        """Give *node* its way to report."""

        def report(kind: str, **fields: Value) -> None:
            self.add(node, kind, **fields)

        return report

    def to_lines(self) -> str:
        """Write the whole log as JSON lines."""
        return "".join(event.to_json() + "\n" for event in self._events)
