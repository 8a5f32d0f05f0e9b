"""The retransmission timeout (RFC 6298)."""

from __future__ import annotations

from typing import Final, final

from vnet.units import MILLISECOND, SECOND, Duration

INITIAL_RTO: Final[Duration] = 1 * SECOND
MIN_RTO: Final[Duration] = 200 * MILLISECOND
"""RFC 6298, 2.4 wants 1 s, out of concern for coarse clocks and long delayed acknowledgments; Linux and BSD have 200 ms."""
MAX_RTO: Final[Duration] = 60 * SECOND
_GRANULARITY: Final[Duration] = 1 * MILLISECOND


@final
class RetransmissionTimeout:
    """Estimates the round-trip time; ``value`` is how long to wait for an acknowledgment now, ``smoothed`` SRTT or None."""

    __slots__ = ("_backoff", "_base", "_variation", "smoothed")

    def __init__(self) -> None:
        self.smoothed: Duration | None = None
        self._variation: Duration = 0
        self._base: Duration = INITIAL_RTO
        self._backoff = 0

    @property
    def value(self) -> Duration:
        """The timeout, doubled for each expiry since the last sample."""
        return min(self._base << self._backoff, MAX_RTO)

    def sample(self, rtt: Duration) -> None:
        """Take a measurement of a segment that was sent once, or one by timestamp (RFC 6298, section 2 and 3)."""
        if self.smoothed is None:
            self.smoothed, self._variation = rtt, rtt // 2
        else:
            self._variation += (abs(self.smoothed - rtt) - self._variation) // 4
            self.smoothed += (rtt - self.smoothed) // 8
        self._base = max(MIN_RTO, self.smoothed + max(_GRANULARITY, 4 * self._variation))
        self._backoff = 0

    def back_off(self) -> None:
        """Double the timeout (5.5)."""
        if self._base << self._backoff < MAX_RTO:
            self._backoff += 1

    def relent(self) -> None:
        """Take the doubling back, because the peer acknowledged something new."""
        self._backoff = 0
