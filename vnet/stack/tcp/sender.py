"""The sending half of a connection: what is to be sent next, how much, and what an acknowledgment means (RFC 9293, 3.8.6).

``next_range`` names the next sequence numbers to send and whoever sends them calls ``sent``; it returns None when the
windows, Nagle or the lack of data forbid more. Loss recovery is that of RFC 6675: ``pipe`` estimates what is in the network;
holes are filled, then new data is sent, while it is below the congestion window. A peer without SACK is served by the same
code: each duplicate acknowledgment stands for a segment that left the network, and a partial one for the next hole (RFC
6582). After a timeout everything that was out counts as lost, and slow start sends it again.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, final

from vnet.stack.tcp.congestion import Congestion
from vnet.stack.tcp.queue import OctetQueue
from vnet.stack.tcp.scoreboard import DUPLICATE_THRESHOLD, Scoreboard
from vnet.stack.tcp.timing import RetransmissionTimeout
from vnet.units import MILLISECOND, Instant

SEND_BUFFER: Final = 1024 * 1024
"""Octets that wait to be sent or acknowledged."""
MIN_MSS: Final = 48
"""A smaller one is a mistake or an attack: headers would outweigh data. Linux has the same."""
MAX_BURST: Final = 0xFFFF - 40 - 60
"""Octets of data in the largest super-frame: what an IPv4 header can give the length of, less the largest headers."""


class Recovery(Enum):
    """Whether losses are being repaired, and how they were found."""

    NONE = auto()
    FAST = auto()
    TIMEOUT = auto()


@final
class Sender:
    """Sequence numbers are whole numbers without end (``states.unwrap``).

    ``una`` is SND.UNA, ``nxt`` SND.NXT, ``high`` one after the highest that was ever sent, ``window`` SND.WND, ``mss`` the
    octets of data in a segment. ``data`` holds the octets from ``base`` on. ``reduced_until`` was ``nxt`` when the
    congestion window was last reduced; ``cwr`` says that the peer is yet to be told (RFC 3168, 6.1.2).
    """

    __slots__ = (
        "_duplicate_octets", "_forced", "_high_rxt", "_refilled_at", "_repeated_at", "_timed", "_wl1", "_wl2", "base",
        "capacity", "congestion", "cwr", "data", "duplicates", "fin", "high", "iss", "max_window", "mss", "no_delay", "nxt",
        "recover", "recovery", "reduced_until", "rto", "sack", "sacked", "scale", "una", "window",
    )  # fmt: skip

    def __init__(self, iss: int, mss: int, congestion: Congestion, capacity: int = SEND_BUFFER) -> None:
        self.iss = self.una = self.nxt = self.high = iss
        self.base = iss + 1
        self.data = OctetQueue()
        self.capacity = capacity
        self.fin = False
        self.mss = mss
        self.window = self.max_window = 0
        self.scale = 0
        self._wl1 = self._wl2 = 0
        self.no_delay = False
        self.sack = False
        self.sacked = Scoreboard()
        self.rto = RetransmissionTimeout()
        self.congestion = congestion
        self.recovery = Recovery.NONE
        self.recover = iss  # RecoveryPoint
        self.reduced_until = iss
        self.cwr = False
        self.duplicates = 0
        self._duplicate_octets = 0
        self._high_rxt = iss  # HighRxt, one after
        self._forced = False  # the next hole goes out whatever the window
        self._refilled_at = 0  # ``nxt`` when the first hole was filled; 0 if it was not
        self._repeated_at: Instant = -1  # when something was last sent again
        self._timed: tuple[int, Instant] | None = None

    # What the user queued

    @property
    def end(self) -> int:
        """One after the last octet that was queued: the sequence number of the FIN."""
        return self.base + len(self.data)

    @property
    def is_pending(self) -> bool:
        """Tell whether something waits that was never sent."""
        return self.nxt < self.end + self.fin

    @property
    def is_outstanding(self) -> bool:
        """Tell whether something sent waits for its acknowledgment."""
        return self.nxt > self.una

    @property
    def is_fin_acknowledged(self) -> bool:
        """Tell whether the peer has our FIN."""
        return self.fin and self.una > self.end

    def start(self, peer_mss: int, mss: int) -> None:
        """Begin with the sizes that the handshake found."""
        self.mss = max(MIN_MSS, min(peer_mss, mss))
        self.congestion.window = min(self.congestion.window, 10 * self.mss)

    # What comes from the peer

    def offer(self, sequence: int, acknowledgment: int, window: int) -> bool:
        """Take the window of a segment unless it is older than the last; tell whether it changed (RFC 9293, 3.10.7.4)."""
        if sequence < self._wl1 or (sequence == self._wl1 and acknowledgment < self._wl2):
            return False
        self._wl1, self._wl2 = sequence, acknowledgment
        changed, self.window = window != self.window, window
        self.max_window = max(self.max_window, window)
        return changed

    def open_window(self, sequence: int, acknowledgment: int, window: int) -> None:
        """Take the window of the segment that synchronizes, whatever there was."""
        self._wl1, self._wl2 = sequence, acknowledgment
        self.window = self.max_window = window

    def acknowledge(self, acknowledgment: int, now: Instant, echoed: int | None, *, may_grow: bool = True) -> None:
        """Take a cumulative acknowledgment beyond ``una``; *echoed* is the round-trip time by timestamp, if there is one."""
        octets = acknowledgment - self.una
        was_fast = self.recovery is Recovery.FAST
        limited = self.pipe() + self.mss > self.congestion.window
        self._measure(acknowledgment, now, echoed)
        self.una = acknowledgment
        self._refilled_at = 0
        self.nxt = max(self.nxt, acknowledgment)
        done = min(acknowledgment - self.base, len(self.data))
        if done > 0:
            self.data.drop(done)
            self.base += done
        self.sacked.advance(acknowledgment)
        self.duplicates = 0
        if self.recovery is Recovery.NONE:
            self._duplicate_octets = 0
        elif acknowledgment >= self.recover:
            self.recovery = Recovery.NONE
            self._duplicate_octets = 0
        elif not self.sack and self.recovery is Recovery.FAST:
            self._duplicate_octets = max(0, self._duplicate_octets - octets)
            self._high_rxt, self._forced = acknowledgment, True  # a partial acknowledgment: RFC 6582, 3.2 step 3
        self._high_rxt = max(self._high_rxt, acknowledgment)
        if limited and may_grow and not was_fast:  # RFC 6582, 3.2: leaving recovery grows nothing
            self.congestion.acknowledged(octets, self.mss, now, self.rto.smoothed or 0)

    def take_sack(self, start: int, end: int) -> bool:
        """Note a block that the peer has; tell whether that is news. One that cannot be is not heeded."""
        return self.una < end <= self.high and start < end and start >= self.una and self.sacked.add(start, end)

    def duplicate(self) -> None:
        """Count a duplicate acknowledgment (RFC 5681, section 2)."""
        self.duplicates += 1
        if not self.sack:
            self._duplicate_octets += self.mss

    def detect_loss(self, now: Instant) -> None:
        """Enter fast recovery if enough was heard (RFC 6675, section 5; RFC 6582, 3.2)."""
        if self.recovery is Recovery.FAST:
            self._detect_loss_again()
        if self.recovery is not Recovery.NONE or not self.is_outstanding or self.una < self.recover:
            return
        if self.duplicates < DUPLICATE_THRESHOLD and not (self.sack and self.sacked.lost_below(self.mss) > self.una):
            return
        if self.una >= self.reduced_until:  # else marks told of the same congestion
            self._reduce(now)
        self._repair(Recovery.FAST)

    def experience(self, acknowledgment: int, now: Instant) -> None:
        """Take an acknowledgment with ECE: reduce the window, but once for each window of data (RFC 3168, 6.1.2)."""
        if self.recovery is Recovery.NONE and acknowledgment > self.reduced_until:
            self._reduce(now)

    def _reduce(self, now: Instant) -> None:
        self.congestion.lost(self._flight(), self.mss, now)
        self.reduced_until, self.cwr = self.nxt, True

    def _detect_loss_again(self) -> None:
        """Fill the holes once more if what was sent after the first of them was filled has arrived, and it has not.

        Beyond RFC 6675, which waits for the timeout; what arrives after it was sent tells the same as in RFC 8985.
        """
        if self._refilled_at and self.sacked.highest >= self._refilled_at + DUPLICATE_THRESHOLD * self.mss:
            self._high_rxt, self._forced = self.una, True
            self._refilled_at = 0

    def _flight(self) -> int:
        """FlightSize, without what was sent beyond the window because other octets were acknowledged selectively."""
        return min(self.nxt - self.una, self.congestion.window)

    def time_out(self) -> None:
        """Count all that is out as lost (RFC 6298, section 5; RFC 5681, 3.1)."""
        if self.recovery is not Recovery.TIMEOUT:  # a second loss of the same data halves nothing again
            self.congestion.timed_out(self._flight(), self.mss)
        else:
            self.congestion.window = self.mss
        self.reduced_until, self.cwr = self.nxt, True
        self.sacked.clear()
        self.rto.back_off()
        self._duplicate_octets = self.duplicates = 0
        self._repair(Recovery.TIMEOUT)

    def shrink(self, mss: int) -> None:
        """Use smaller segments, and send again what was too large for the path (RFC 1191, 6.5)."""
        self.mss = max(MIN_MSS, min(self.mss, mss))
        if self.is_outstanding:
            self.sacked.clear()
            self._repair(Recovery.TIMEOUT)

    def _repair(self, how: Recovery) -> None:
        self.recovery = how
        self.recover = self.nxt
        self._high_rxt = self.una
        self._forced = True
        self._timed = None
        self._refilled_at = 0

    def _measure(self, acknowledgment: int, now: Instant, echoed: int | None) -> None:
        """Sample the round-trip time, never with a segment that was sent twice (Karn; RFC 6298, section 3).

        Nor with a timestamp from before the last retransmission: where only an acknowledgment was lost, its repetition
        echoes a timestamp as old as all the time since (RFC 7323, 4.3).
        """
        if self._timed is not None and acknowledgment >= self._timed[0]:
            self.rto.sample(now - self._timed[1])
            self._timed = None
        elif echoed is not None and self._timed is None and now - echoed >= self._repeated_at:
            self.rto.sample(echoed)

    # What goes out

    def pipe(self) -> int:
        """Estimate the octets in the network: SetPipe of RFC 6675, section 4."""
        flight = self.nxt - self.una
        if self.recovery is Recovery.NONE and not self.sacked.ranges:
            return max(0, flight - self._duplicate_octets)
        octets = flight - self.sacked.total - self._duplicate_octets
        lost = min(self._lost_edge(), self.nxt)
        if lost > self.una:
            octets -= lost - self.una - self.sacked.below(lost)
        if self.recovery is not Recovery.NONE and self._high_rxt > self.una:
            octets += self._high_rxt - self.una - self.sacked.below(self._high_rxt)
        return max(0, octets)

    def _lost_edge(self) -> int:
        if self.recovery is Recovery.TIMEOUT:
            return self.recover
        lost = self.sacked.lost_below(self.mss) if self.sack else 0
        if self.recovery is Recovery.FAST:
            lost = max(lost, min(self.una + self.mss, self.recover))
        return lost

    def next_range(self) -> tuple[int, int] | None:
        """Name the next sequence numbers to send, as (first, count), or None; the FIN counts as one."""
        budget = self.congestion.window - self.pipe()
        if self.recovery is not Recovery.NONE:
            hole = self._hole(self._lost_edge())
            if hole is not None:
                return self._within(hole, budget)
        found = self._new_data(budget)
        if found is None and self.recovery is Recovery.FAST and self.sacked.ranges:
            hole = self._hole(self.sacked.highest)  # rule 3 of NextSeg: perhaps lost
            if hole is not None and not self.is_pending:
                return self._within(hole, budget)
        return found

    def _burst(self) -> int:
        """Limit a super-frame to what the path carries in a millisecond: no slow link's queue need take it whole."""
        rtt = self.rto.smoothed
        if not rtt:
            return MAX_BURST
        return min(MAX_BURST, max(2 * self.mss, self.congestion.window * MILLISECOND // rtt))

    def _hole(self, edge: int) -> tuple[int, int] | None:
        start, stop = self.sacked.gap(max(self.una, self._high_rxt))
        stop = min(edge, self.nxt) if stop is None else min(stop, edge, self.nxt)
        return (start, stop) if start < stop else None

    def _within(self, hole: tuple[int, int], budget: int) -> tuple[int, int] | None:
        start, stop = hole
        octets = min(stop - start, self._burst())
        if self._forced:
            budget = max(budget, self.mss)
        if octets > budget:
            octets = budget
        if octets > self.mss:
            octets -= octets % self.mss
        elif octets < min(self.mss, stop - start):
            return None
        return start, octets

    def _new_data(self, budget: int) -> tuple[int, int] | None:
        start, end, mss = self.nxt, self.end, self.mss
        waiting = end - start
        if waiting <= 0:
            return (start, 1) if self.fin and start == end else None
        usable = self.una + self.window - start
        octets = min(waiting, usable, budget, self._burst())
        if octets <= 0:
            return None
        if octets < waiting:
            if octets >= mss:
                octets -= octets % mss
            elif budget < usable or octets * 2 < self.max_window:
                return None  # the silly window syndrome of senders (RFC 9293, 3.8.6.2.1)
        elif octets % mss and start > self.una and not self.no_delay and not self.fin:
            octets -= octets % mss  # Nagle (RFC 9293, 3.7.4): the rest waits for what is out
            if not octets:
                return None
        return start, octets + (self.fin and octets == waiting)

    def sent(self, start: int, count: int, now: Instant) -> None:
        """Note that sequence numbers were sent."""
        stop = start + count
        if start < self.nxt:
            if start == self.una:
                self._refilled_at = self.nxt
            self._high_rxt = max(self._high_rxt, stop)
            self._forced = False
            self._timed = None
            self._repeated_at = now
        elif self._timed is None:
            self._timed = stop, now
        self.nxt = max(self.nxt, stop)
        self.high = max(self.high, stop)

    def octets(self, start: int, count: int) -> bytes:
        """Copy what the user queued for these sequence numbers, a FIN left out."""
        return self.data.peek(start - self.base, count)
