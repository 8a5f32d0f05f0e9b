"""Congestion control: NewReno (RFC 5681, RFC 6582) and CUBIC (RFC 9438), in whole numbers: octets, ns, ms.

One acknowledgment of a super-frame stands for up to 64 KiB, so growth counts octets, as RFC 3465 does, but with no limit per
acknowledgment: its 2 * SMSS would hold slow start down to two segments for each super-frame.
"""

from __future__ import annotations

from typing import Final, Protocol, final

from vnet.units import MILLISECOND, Duration, Instant

INITIAL_SEGMENTS: Final = 10
"""RFC 6928, section 2."""
UNLIMITED: Final = 1 << 40
MAX_WINDOW: Final = 1 << 30
"""The largest that a peer can offer (RFC 7323, 2.3): growing beyond is of no use."""


class Congestion(Protocol):
    """How much may be in flight.

    ``window`` is cwnd and ``threshold`` ssthresh, both in octets.
    """

    window: int
    threshold: int

    def acknowledged(self, octets: int, mss: int, now: Instant, rtt: Duration) -> None:
        """Grow, because *octets* arrived while the window was what limited the sender."""

    def lost(self, flight: int, mss: int, now: Instant) -> None:
        """Shrink, because a segment was lost; *flight* octets were out."""

    def timed_out(self, flight: int, mss: int) -> None:
        """Start anew with one segment, because nothing came back (RFC 5681, 3.1)."""

    def restart(self, mss: int) -> None:
        """Forget what was learned, because nothing was sent for long (RFC 5681, 4.1)."""


@final
class NewReno:
    """One segment more each round trip, half the window at a loss."""

    __slots__ = ("_acked", "threshold", "window")

    def __init__(self, mss: int) -> None:
        self.window = INITIAL_SEGMENTS * mss
        self.threshold = UNLIMITED
        self._acked = 0

    def acknowledged(self, octets: int, mss: int, now: Instant, rtt: Duration) -> None:
        """Grow by what arrived in slow start, else by a segment for each window that arrived (RFC 5681, 3.1)."""
        if self.window < self.threshold:
            self.window = min(self.window + octets, max(self.threshold, self.window + mss))
        else:
            self._acked += octets
            if self._acked >= self.window:
                self._acked -= self.window
                self.window += mss
        self.window = min(self.window, MAX_WINDOW)

    def lost(self, flight: int, mss: int, now: Instant) -> None:
        """Halve (RFC 5681, equation 4)."""
        self.threshold = self.window = max(flight // 2, 2 * mss)
        self._acked = 0

    def timed_out(self, flight: int, mss: int) -> None:
        """Start anew with one segment."""
        self.threshold = max(flight // 2, 2 * mss)
        self.window = mss
        self._acked = 0

    def restart(self, mss: int) -> None:
        """Begin with no more than the initial window."""
        self.window = min(self.window, INITIAL_SEGMENTS * mss)


@final
class Cubic:
    """Growth as a cubic function of the time since the last loss, so that it depends little on the round-trip time.

    The names are those of RFC 9438, 4.1: W_max and K, with C = 0.4 segments/s^3 and beta = 0.7. Windows are in octets, times
    in ms.
    """

    __slots__ = ("_epoch", "_estimate", "_k", "_prior", "_w_max", "threshold", "window")

    def __init__(self, mss: int) -> None:
        self.window = INITIAL_SEGMENTS * mss
        self.threshold = UNLIMITED
        self._w_max = 0
        self._k = 0
        self._epoch: Instant | None = None  # when congestion avoidance began
        self._estimate = 0  # what Reno would have (W_est)
        self._prior = 0  # cwnd_prior

    def acknowledged(self, octets: int, mss: int, now: Instant, rtt: Duration) -> None:
        """Grow toward W_cubic, or to what Reno would have if that is more (RFC 9438, 4.2 to 4.5)."""
        window = self.window
        if window < self.threshold:
            self.window = min(window + octets, max(self.threshold, window + mss), MAX_WINDOW)
            return
        if self._epoch is None:
            self._begin(mss, now)
        assert self._epoch is not None
        elapsed = (now - self._epoch) // MILLISECOND
        target = self._w_cubic(elapsed + rtt // MILLISECOND, mss)
        # alpha is 3 * (1 - beta) / (1 + beta) until the estimate has passed the window before the loss (4.3)
        share = octets * mss if self._estimate >= self._prior else octets * mss * 9 // 17
        self._estimate += share // window
        if self._w_cubic(elapsed, mss) < self._estimate:
            window = max(window, self._estimate)
        else:
            target = min(max(target, window), window * 3 // 2)
            window += (target - window) * octets // window
        self.window = min(window, MAX_WINDOW)

    def lost(self, flight: int, mss: int, now: Instant) -> None:
        """Keep seven tenths (4.6); leave room for newcomers if this loss came earlier than the last (4.7)."""
        self._remember()
        self.threshold = self.window = max(flight * 7 // 10, 2 * mss)
        self._epoch = None

    def timed_out(self, flight: int, mss: int) -> None:
        """Start anew with one segment (4.8)."""
        self._remember()
        self.threshold = max(flight * 7 // 10, 2 * mss)
        self.window = mss
        self._epoch = None

    def restart(self, mss: int) -> None:
        """Begin with no more than the initial window, and a new epoch."""
        self.window = min(self.window, INITIAL_SEGMENTS * mss)
        self._epoch = None

    def _remember(self) -> None:
        self._prior = self.window
        self._w_max = self.window * 17 // 20 if self.window < self._w_max else self.window

    def _begin(self, mss: int, now: Instant) -> None:
        self._epoch = now
        self._estimate = self.window
        if self._w_max > self.window:
            self._k = _cube_root((self._w_max - self.window) * 10**10 // (4 * mss))
        else:
            self._w_max, self._k = self.window, 0

    def _w_cubic(self, elapsed: int, mss: int) -> int:
        return self._w_max + 4 * mss * (elapsed - self._k) ** 3 // 10**10


def _cube_root(value: int) -> int:
    """Compute the whole cube root: floats differ from machine to machine, and a run must not."""
    if value <= 0:
        return 0
    root = 1 << -(-value.bit_length() // 3)
    while True:
        better = (2 * root + value // (root * root)) // 3
        if better >= root:
            return root
        root = better
