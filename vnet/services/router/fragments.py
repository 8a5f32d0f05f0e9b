"""Keeping the fragments of one packet together without putting it together (RFC 4787 REQ-14).

Only the first fragment shows the ports, so it decides: what was done with it, its *way*, is done with all that follow.
Fragments that come before the first one wait for it. Nothing is reassembled; the receiver does that.

Bounds: ``MAX_PACKETS`` packets in pieces, the oldest gives way; ``MAX_HELD`` waiting fragments of one packet and
``MAX_OCTETS`` in all, further ones are dropped. Everything about a packet is forgotten ``TIMEOUT`` after its first piece
came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias, final

from vnet.units import SECOND, Instant

MAX_PACKETS: Final = 256
MAX_HELD: Final = 64
MAX_OCTETS: Final = 1 << 20
TIMEOUT: Final = 30 * SECOND

Way: TypeAlias = Callable[[bytes], None]
"""Sends a later fragment, a packet cut to its total length, the way of the first."""


@final
class _Pieces:
    """What is known of a packet that comes in pieces."""

    __slots__ = ("deadline", "held", "way")

    def __init__(self, deadline: Instant) -> None:
        self.deadline = deadline
        self.way: Way | None = None
        self.held: list[bytes] = []


@final
class FragmentTracker:
    """The packets in pieces that pass a router."""

    __slots__ = ("_count", "_octets", "_on_earlier", "_packets")

    def __init__(self, count: Callable[[str], None], on_earlier: Callable[[], None]) -> None:
        """Drops are told to *count*; *on_earlier* is called when there is a deadline again."""
        self._count = count
        self._on_earlier = on_earlier
        self._packets: dict[bytes, _Pieces] = {}
        self._octets = 0

    def first(self, now: Instant, key: bytes, way: Way) -> None:
        """Note the way of the first fragment, and send those that waited for it after it."""
        pieces = self._pieces(now, key)
        pieces.way = way
        held = self._release(pieces)
        for packet in held:
            way(packet)

    def later(self, now: Instant, key: bytes, packet: bytes) -> None:
        """Send a fragment the way of the first, or keep it until that has come."""
        pieces = self._pieces(now, key)
        if pieces.way is not None:
            pieces.way(packet)
        elif len(pieces.held) >= MAX_HELD or self._octets + len(packet) > MAX_OCTETS:
            self._count("fragment-queue-full")
        else:
            pieces.held.append(packet)
            self._octets += len(packet)

    def next_deadline(self) -> Instant | None:
        """Name the instant at which the oldest packet is forgotten."""
        return next((pieces.deadline for pieces in self._packets.values()), None)

    def expire(self, now: Instant) -> None:
        """Forget what is too old."""
        while self._packets:
            key, pieces = next(iter(self._packets.items()))
            if pieces.deadline > now:
                return
            self._forget(key, "fragment-timeout")

    def clear(self) -> None:
        """Forget everything, because the ways may have changed."""
        for key in list(self._packets):
            self._forget(key, "fragment-timeout")

    def _pieces(self, now: Instant, key: bytes) -> _Pieces:
        self.expire(now)
        pieces = self._packets.get(key)
        if pieces is None:
            if len(self._packets) >= MAX_PACKETS:
                self._forget(next(iter(self._packets)), "fragment-queue-full")
            pieces = self._packets[key] = _Pieces(now + TIMEOUT)
            if len(self._packets) == 1:
                self._on_earlier()
        return pieces

    def _forget(self, key: bytes, reason: str) -> None:
        for _ in self._release(self._packets.pop(key)):
            self._count(reason)

    def _release(self, pieces: _Pieces) -> list[bytes]:
        held, pieces.held = pieces.held, []
        self._octets -= sum(map(len, held))
        return held
