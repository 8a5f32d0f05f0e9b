"""A guard for senders that end by time: in virtual time, over cables without rate and delay, none would ever pass."""

from __future__ import annotations

from typing import Final, final

import trio

from vnet.errors import UsageError

MOST_MESSAGES: Final = 10_000
MOST_OCTETS: Final = 64 * 1024 * 1024
"""What one sender may send at one instant. On a real clock no two messages have the same."""


@final
class Standstill:
    """Counts what is sent at one instant."""

    __slots__ = ("_instant", "_messages", "_octets")

    def __init__(self) -> None:
        self._instant = -1.0
        self._messages = 0
        self._octets = 0

    def count(self, octets: int) -> None:
        """Note a message; raise UsageError if there are too many for one instant."""
        now = trio.current_time()
        if now != self._instant:
            self._instant, self._messages, self._octets = now, 0, 0
        self._messages += 1
        self._octets += octets
        if self._messages > MOST_MESSAGES or self._octets > MOST_OCTETS:
            raise UsageError(
                "nothing holds this traffic back, so that its time never ends: give a cable a rate or a latency"
            )
