"""The receiving half of a connection: reassembly, the window offered, when to acknowledge, SACK blocks, PAWS.

Octets that are next go to ``ready``, from where the user takes them; others wait in blocks. All of it lies within the window
that was offered, which is never larger than ``capacity`` and never taken back (RFC 9293, 3.8.6).
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import Final, final

from vnet.stack.tcp.queue import PieceQueue
from vnet.stack.tcp.states import MASK, unwrap
from vnet.units import DAY, MILLISECOND, Duration, Instant
from vnet.wire.tcp_options import Block

RECEIVE_BUFFER: Final = 1024 * 1024
"""Octets that the user has not taken, or that wait for those before them."""
MAX_BLOCKS: Final = 256
"""Pieces out of order; a segment that would make one more is dropped, and comes again."""
MAX_SACK_BLOCKS: Final = 3
"""As many as fit beside timestamps (RFC 2018, section 3)."""
DELAYED_ACK: Final[Duration] = 40 * MILLISECOND
"""RFC 9293, MUST-58: less than 500 ms."""
STAMP_LIFETIME: Final[Duration] = 24 * DAY
"""How long TS.Recent is good for (RFC 7323, 5.5)."""

_start: Final = itemgetter(0)


@final
class Receiver:
    """Sequence numbers are whole numbers without end.

    ``nxt`` is RCV.NXT, ``edge`` one after the last octet of the window offered, ``scale`` its shift, ``fin`` the number of
    the peer's FIN once one came, ``recent`` TS.Recent. ``due`` counts segments that are not acknowledged yet, ``urgent``
    tells that an acknowledgment must not wait. With ``coalesced`` above 0, super-frames that arrive at one instant are
    acknowledged together, at most so many.
    """

    __slots__ = (
        "_blocks", "_touched", "acknowledged", "capacity", "coalesced",
        "due", "edge", "ended", "fin", "irs", "mss", "nxt", "ready",
        "recent", "recent_at", "scale", "urgent",
    )  # fmt: skip

    def __init__(self, mss: int, capacity: int = RECEIVE_BUFFER) -> None:
        self.irs = self.nxt = self.edge = self.acknowledged = 0
        self.capacity = capacity
        self.coalesced = 0
        self.scale = 0
        self.mss = mss
        self.ready = PieceQueue()
        self._blocks: list[tuple[int, bytearray]] = []
        self._touched: list[int] = []  # starts of blocks, the latest first
        self.fin: int | None = None
        self.ended = False
        self.recent = 0
        self.recent_at: Instant = 0
        self.due = 0
        self.urgent = False

    def start(self, irs: int) -> None:
        """Take the peer's SYN; ours offers ``first_window``."""
        self.irs = irs
        self.nxt = self.acknowledged = irs + 1
        self.edge = self.nxt + self.first_window

    # The window

    @property
    def first_window(self) -> int:
        """The window field of a SYN, which is never scaled (RFC 7323, 2.2)."""
        return min(self.capacity, 0xFFFF)

    def offer(self) -> int:
        """Return the window field of a segment that goes out now, and note what it acknowledges."""
        scale = self.scale
        edge = self.nxt + self.capacity - len(self.ready)
        if edge >= self.edge + min(self.mss, self.capacity // 2):  # no silly window (RFC 9293, 3.8.6.2.2)
            self.edge = max(self.edge, self.nxt + (min((edge - self.nxt) >> scale, 0xFFFF) << scale))
        self.acknowledged = self.nxt
        self.due, self.urgent = 0, False
        return min((self.edge - self.nxt) >> scale, 0xFFFF)

    def is_update_due(self) -> bool:
        """Tell whether the user has taken so much that the peer should hear of it before the next acknowledgment."""
        if self.ended or self.edge - self.nxt >= self.capacity // 2:
            return False
        if self.edge - self.irs <= 0x10000 and self.edge - self.nxt >= 0x8000:
            return False  # the first window was small because a SYN's is not scaled; what is sent next offers more
        edge = self.nxt + min(self.capacity - len(self.ready), 0xFFFF << self.scale)
        return edge - self.edge >= min(2 * self.mss, self.capacity // 2)

    def is_acceptable(self, sequence: int, length: int) -> bool:
        """Check a segment against the window (RFC 9293, 3.10.7.4).

        One without data may also stand at the very edge, or behind a FIN there that did not fit.
        """
        if length == 0:
            return self.nxt <= sequence <= self.edge + 1
        return sequence < self.edge and sequence + length > self.nxt

    # Timestamps

    def is_old(self, value: int, now: Instant) -> bool:
        """Protect against wrapped sequence numbers (RFC 7323, section 5.3)."""
        return unwrap(value, self.recent) < self.recent and now - self.recent_at < STAMP_LIFETIME

    def take_stamp(self, value: int, sequence: int, now: Instant) -> None:
        """Remember the timestamp that is to be echoed (RFC 7323, 4.3)."""
        if sequence <= self.acknowledged and (unwrap(value, self.recent) >= self.recent or self.is_stale(now)):
            self.recent, self.recent_at = value, now

    def is_stale(self, now: Instant) -> bool:
        """Tell whether what is remembered is too old to be compared with."""
        return now - self.recent_at >= STAMP_LIFETIME

    # Data

    def accept(self, sequence: int, payload: bytes, fin: bool) -> bool:
        """Take data within the window; return False if there is no room for one more piece out of order."""
        stop = sequence + len(payload)
        if self.fin is not None and stop > self.fin:  # nothing comes behind a FIN
            payload, fin, stop = payload[: max(0, self.fin - sequence)], False, max(self.fin, sequence)
        if stop > self.edge:  # beyond the window: it comes again, and the FIN behind it too
            payload, fin = payload[: self.edge - sequence], False
            stop, self.urgent = self.edge, True
        if fin and self.fin is None and stop >= self.nxt:
            self.fin = stop
        self.due += 1
        if len(payload) >= 2 * self.mss:  # a super-frame is more than every second segment (RFC 9293, MUST-59)
            if self.coalesced:
                self.due += 1
            else:
                self.urgent = True
        if sequence > self.nxt:
            self.urgent = True  # RFC 5681, 4.2
            if payload and not self._keep(sequence, payload):
                return False
        elif stop > self.nxt:
            self.ready.append(payload[self.nxt - sequence :] if sequence < self.nxt else payload)
            self.nxt = stop
            if self._blocks:
                self.urgent = True
                self._drain()
        elif payload:
            self.urgent = True  # a duplicate: our acknowledgment was lost
        if self.fin is not None and self.nxt >= self.fin and not self.ended:
            self.ended = self.urgent = True
            self.nxt += 1
            self.edge = max(self.edge, self.nxt)
        return True

    def _keep(self, start: int, payload: bytes) -> bool:
        """Keep data out of order, joined with what it touches."""
        blocks = self._blocks
        at = bisect_right(blocks, start, key=_start)
        if at and blocks[at - 1][0] + len(blocks[at - 1][1]) >= start:
            at -= 1
            first, data = blocks[at]
            data += payload[max(0, first + len(data) - start) :]
        elif len(blocks) - (at < len(blocks) and blocks[at][0] <= start + len(payload)) >= MAX_BLOCKS:
            return False
        else:
            first, data = start, bytearray(payload)
            blocks.insert(at, (first, data))
        stop = first + len(data)
        while at + 1 < len(blocks) and blocks[at + 1][0] <= stop:
            later, more = blocks.pop(at + 1)
            data += more[stop - later :]
            stop = first + len(data)
        self._touch(first)
        return True

    def _touch(self, first: int) -> None:
        known = {start for start, _ in self._blocks}
        others = [start for start in self._touched if start != first and start in known]
        self._touched = [first, *others[: MAX_SACK_BLOCKS * 2]]

    def _drain(self) -> None:
        while self._blocks and self._blocks[0][0] <= self.nxt:
            first, data = self._blocks.pop(0)
            if first + len(data) > self.nxt:
                self.ready.append(data[self.nxt - first :] if first < self.nxt else data)
                self.nxt = first + len(data)

    def sack_blocks(self) -> tuple[Block, ...]:
        """Name what waits out of order, that of the latest segment first (RFC 2018, section 4)."""
        if not self._blocks:
            return ()
        lengths = {start: len(data) for start, data in self._blocks}
        starts = [start for start in self._touched if start in lengths][:MAX_SACK_BLOCKS]
        return tuple((start & MASK, (start + lengths[start]) & MASK) for start in starts)

    @property
    def has_gap(self) -> bool:
        """Tell whether something waits out of order."""
        return bool(self._blocks)

    def take(self, limit: int) -> bytes:
        """Hand over up to *limit* octets."""
        data = self.ready.peek(limit)
        self.ready.drop(len(data))
        return data

    def forget(self, *, all_of_it: bool) -> None:
        """Give up what waits out of order, or *all_of_it*."""
        if all_of_it:
            self.ready.clear()
        self._blocks.clear()
        self._touched.clear()
