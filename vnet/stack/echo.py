"""What ICMP of both IP versions keeps: echo requests that wait for an answer, and how many errors may be sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, final

from vnet.stack.transport import IcmpError
from vnet.units import MILLISECOND, Duration, Instant

if TYPE_CHECKING:
    from vnet.stack.host import Host

ERROR_INTERVAL: Final = 1 * MILLISECOND
ERROR_BURST: Final = 50
"""At most 1000 errors a second and 50 at once: what Linux sends by default; RFC 1812, 4.3.2.8 and RFC 4443, 2.4 (f) want a
limit."""
MAX_PINGS: Final = 4096


class PingResult(NamedTuple):
    """What became of one echo request. ``rtt`` is in nanoseconds; ``source`` is who answered, or who reported *error*."""

    ok: bool
    rtt: Duration | None = None
    ttl: int | None = None
    source: bytes | None = None
    error: str | None = None


OnResult = Callable[[PingResult], None]


def echo_data(size: int) -> bytes:
    """Make the *size* octets of data of an echo request: they count up, as those of ping(8) do."""
    return bytes(index & 0xFF for index in range(size))


@final
class _Ping:
    """An echo request that waits."""

    __slots__ = ("destination", "on_result", "sent")

    def __init__(self, destination: bytes, sent: Instant, on_result: OnResult) -> None:
        self.destination = destination
        self.sent = sent
        self.on_result = on_result


@final
class EchoRequests:
    """The echo requests of a host over one IP version that wait. What a message has behind its checksum, identifier and
    sequence number, is one number here: *rest*."""

    __slots__ = ("_host", "_ident", "_pings", "_purpose", "_sequence")

    def __init__(self, host: Host, purpose: str) -> None:
        """Make an empty table; *purpose* names the random stream that the identifier is drawn from."""
        self._host = host
        self._purpose = purpose
        self._ident: int | None = None
        self._sequence = 0
        self._pings: dict[int, _Ping] = {}

    def ping(self, destination: bytes, timeout: Duration, on_result: OnResult, send: Callable[[int], str | None]) -> None:
        """Have ``send(rest)`` send a request, or return why not; *on_result* is called once, never from within this call."""
        scheduler = self._host.scheduler
        if self._ident is None:
            self._ident = self._host.stream(self._purpose).below(0x10000)
        if len(self._pings) >= MAX_PINGS:
            scheduler.soon(on_result, PingResult(False, error="too many pings"))
            return
        self._sequence = sequence = self._next_sequence()
        now = scheduler.now
        self._pings[sequence] = ping = _Ping(destination, now, on_result)
        problem = send(self._ident << 16 | sequence)
        if problem is not None:
            scheduler.soon(self._give_up, sequence, ping, problem)
        else:
            scheduler.at(now + timeout, self._give_up, sequence, ping, "no answer")

    def destination(self, rest: int) -> bytes | None:
        """Tell where a request that still waits was sent to."""
        ping = self._pings.get(rest & 0xFFFF) if rest >> 16 == self._ident else None
        return None if ping is None else ping.destination

    def answered(self, rest: int, source: bytes, hop_limit: int) -> None:
        """Take the answer of *source* to a request that waits."""
        self._finish(rest, PingResult(True, rtt=self._elapsed(rest), ttl=hop_limit, source=source))

    def failed(self, rest: int, error: IcmpError) -> None:
        """Take an error about a request that waits."""
        self._finish(rest, PingResult(False, rtt=self._elapsed(rest), source=error.reporter, error=error.text))

    def _elapsed(self, rest: int) -> Duration:
        return self._host.scheduler.now - self._pings[rest & 0xFFFF].sent

    def _next_sequence(self) -> int:
        sequence = (self._sequence + 1) & 0xFFFF
        while sequence in self._pings:
            sequence = (sequence + 1) & 0xFFFF
        return sequence

    def _give_up(self, sequence: int, ping: _Ping, problem: str) -> None:
        if self._pings.get(sequence) is ping:
            self._finish(sequence, PingResult(False, error=problem))

    def _finish(self, rest: int, result: PingResult) -> None:
        self._pings.pop(rest & 0xFFFF).on_result(result)


@final
class ErrorLimit:
    """How often errors may be sent: the generic cell rate algorithm."""

    __slots__ = ("_theoretical",)

    def __init__(self) -> None:
        self._theoretical: Instant = 0  # when the next error would be due at full rate

    def allows(self, now: Instant) -> bool:
        """Tell whether an error may be sent now, and count it if so."""
        if self._theoretical - now > (ERROR_BURST - 1) * ERROR_INTERVAL:
            return False
        self._theoretical = max(self._theoretical, now) + ERROR_INTERVAL
        return True
