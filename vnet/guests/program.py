"""What is known of a program that the topology has a guest run: how it stands, and what it measured."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, final

import trio

Row: TypeAlias = Mapping[str, "str | int | float | bool | None"]

MOST_ROWS: Final = 1000
"""Results of one program that are kept; of more the oldest go."""


@final
@dataclass(slots=True)
class GuestProgram:
    """One program.

    A *server* runs until the lab ends, others end by themselves; ``ended`` is set when it does not run any more,
    for whatever reason. ``error`` says why it failed. One is stopped when the machine it ran on was turned off.
    """

    name: str
    is_server: bool
    state: Literal["waiting", "running", "done", "failed", "stopped"] = "waiting"
    error: str = ""
    ended: trio.Event = field(default_factory=trio.Event)
    measure: Callable[[], list[Row]] | None = None
    """Tells what a program that always measures has seen until now."""
    _rows: deque[Row] = field(default_factory=lambda: deque(maxlen=MOST_ROWS))

    def begin_again(self) -> None:
        """Forget how it ended: its machine starts anew. What it measured stays."""
        self.state, self.error = "waiting", ""
        if self.ended.is_set():
            self.ended = trio.Event()

    def add(self, row: Row) -> None:
        """Keep a result."""
        self._rows.append(row)

    @property
    def results(self) -> list[Row]:
        """The results, each with the name of the program, in the order they came."""
        rows = [*self._rows, *(self.measure() if self.measure is not None else ())]
        return [{"program": self.name, **row} for row in rows]
