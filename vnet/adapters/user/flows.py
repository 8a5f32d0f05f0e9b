"""Tables of flows that end when nothing was heard of them for a while, and never grow beyond their bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar, final

from vnet.ports import Scheduler
from vnet.units import Duration, Instant

SWEEPS: Final = 16
"""Looks at a table in the time that a flow lives: one ends at most so much of its time too late."""


class Flow(Protocol):
    """What passes between two ends; ``used`` is when something last did."""

    used: Instant

    def close(self) -> None:
        """End it."""


F = TypeVar("F", bound=Flow)


@final
class FlowTable(Generic[F]):
    """Flows by their key, at most *limit*; when it is full, the sixteenth of them that was silent longest gives way."""

    __slots__ = ("_alarm", "_lifetime", "_limit", "_on_full", "_scheduler", "flows")

    def __init__(self, scheduler: Scheduler, lifetime: Duration, limit: int, on_full: Callable[[], None]) -> None:
        self.flows: dict[bytes, F] = {}
        self._scheduler = scheduler
        self._lifetime = lifetime
        self._limit = limit
        self._on_full = on_full
        self._alarm = scheduler.alarm(self._sweep)

    def __len__(self) -> int:
        return len(self.flows)

    def add(self, key: bytes, flow: F) -> None:
        """Keep a new flow."""
        if len(self.flows) >= self._limit:
            self._on_full()
            by_silence = sorted(self.flows.items(), key=lambda item: item[1].used)
            for oldest, _ in by_silence[: max(1, self._limit // SWEEPS)]:
                self.remove(oldest)
        self.flows[key] = flow
        if self._alarm.deadline is None:
            self._alarm.set(self._scheduler.now + self._lifetime // SWEEPS)

    def remove(self, key: bytes) -> None:
        """End a flow, if it is there."""
        flow = self.flows.pop(key, None)
        if flow is not None:
            flow.close()

    def clear(self) -> None:
        """End all."""
        for key in list(self.flows):
            self.remove(key)
        self._alarm.set(None)

    def _sweep(self) -> None:
        deadline = self._scheduler.now - self._lifetime
        for key in [key for key, flow in self.flows.items() if flow.used <= deadline]:
            self.remove(key)
        if self.flows:
            self._alarm.set(self._scheduler.now + self._lifetime // SWEEPS)
