"""What traffic generators and sinks send each other: records, each a datagram or a piece of a TCP stream.

::

     0      magic "vnTg"
     4      kind, then three octets of nothing
     8      flow          drawn by the generator
    16      number        from 1, by flow
    24      sent at       nanoseconds on the sender's clock
    32      length        of the whole record
    36      reply         octets of the answer that a request wants

A generator sends DATA, or REQUESTs that are answered by RESPONSEs of the wanted length. Then it sends END until the REPORT
comes, which is JSON. One-way delay is the difference of two clocks: it is true where both ends have the same, as in one lab.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import ceil
from struct import Struct as Layout
from typing import Final, final

import msgspec
import trio

from vnet.errors import PeerError, WireError

DEFAULT_PORT: Final = 9000
MAX_RECORD: Final = 1024 * 1024
MAX_DATAGRAM: Final = 65507
MAX_MISSING: Final = 65536
"""How far back from a flow's highest number it is known which are missing; older ones may come late or twice. A bit each:
8 KiB a flow."""

_LAYOUT: Final = Layout(">4sB3xQQQII")
HEADER_OCTETS: Final = _LAYOUT.size
_MAGIC: Final = b"vnTg"
_WINDOW: Final = (1 << MAX_MISSING + 1) - 2
_BUCKET_BITS: Final = 7


@final
class Kind(IntEnum):
    """Kinds of records."""

    DATA = 1
    REQUEST = 2
    RESPONSE = 3
    END = 4
    REPORT = 5


def now_ns() -> int:
    """Tell trio's time in whole nanoseconds."""
    return round(trio.current_time() * 1e9)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The head of a record."""

    kind: Kind
    flow: int
    number: int = 0
    sent_at: int = 0
    length: int = HEADER_OCTETS
    reply: int = 0

    def encode(self, body: bytes = b"") -> bytes:
        """Write the record; what *body* leaves of its length is zeros."""
        length = max(self.length, HEADER_OCTETS + len(body))
        head = _LAYOUT.pack(_MAGIC, self.kind, self.flow, self.number, self.sent_at, length, self.reply)
        return head + body + bytes(length - HEADER_OCTETS - len(body))


def decode(data: bytes | bytearray) -> Record:
    """Read the head of a record; raise WireError for octets that are none."""
    if len(data) < HEADER_OCTETS:
        raise WireError("traffic record cut off")
    magic, kind, flow, number, sent_at, length, reply = _LAYOUT.unpack_from(data)
    if magic != _MAGIC or not Kind.DATA <= kind <= Kind.REPORT:
        raise WireError("not a traffic record")
    if not HEADER_OCTETS <= length <= MAX_RECORD or reply > MAX_RECORD:
        raise WireError("traffic record of an impossible length")
    return Record(kind=Kind(kind), flow=flow, number=number, sent_at=sent_at, length=length, reply=reply)


@final
class RecordStream:
    """Records over TCP. Raise PeerError for a peer that sends anything else, or ends within a record."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def send(self, record: Record, body: bytes = b"") -> None:
        """Send a record."""
        try:
            await self._stream.send_all(record.encode(body))
        except trio.BrokenResourceError as error:
            raise PeerError("the other end of the traffic reset the connection") from error

    async def receive(self) -> tuple[Record, bytes] | None:
        """Wait for a record and what is in it; None at the end."""
        while True:
            if len(self._buffer) >= HEADER_OCTETS:
                try:
                    record = decode(self._buffer)
                except WireError as error:
                    raise PeerError(f"the other end sent no traffic records: {error}") from error
                if len(self._buffer) >= record.length:
                    body = bytes(self._buffer[HEADER_OCTETS : record.length])
                    del self._buffer[: record.length]
                    return record, body
            try:
                more = await self._stream.receive_some(128 * 1024)
            except trio.BrokenResourceError as error:
                raise PeerError("the other end of the traffic reset the connection") from error
            if not more:
                if self._buffer:
                    raise PeerError("the other end of the traffic closed the connection within a record")
                return None
            self._buffer += more


@final
class Delays(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles in seconds; all 0 where nothing was measured."""

    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0

    def summary(self) -> dict[str, int | float]:
        """Return them as plain data, whose keys carry the unit."""
        return {"delay_p50_s": self.p50, "delay_p90_s": self.p90, "delay_p99_s": self.p99, "delay_max_s": self.max}


@final
class Histogram:
    """Durations in a bounded number of buckets, none wider than 1/64 of its value; the ends are exact."""

    __slots__ = ("_buckets", "count", "largest", "smallest")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.smallest = 0
        self.largest = 0

    def add(self, duration: int) -> None:
        """Note a duration in nanoseconds; what clocks make negative is 0."""
        duration = max(0, duration)
        shift = max(0, duration.bit_length() - _BUCKET_BITS)
        bucket = duration >> shift << shift
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.smallest = duration if not self.count else min(self.smallest, duration)
        self.largest = max(self.largest, duration)
        self.count += 1

    def percentile(self, percent: float) -> int:
        """Return the duration that so many percent do not exceed (nearest rank), to the width of a bucket."""
        if not self.count:
            return 0
        rank = max(1, ceil(self.count * percent / 100))
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                return min(max(bucket, self.smallest), self.largest)
        return self.largest

    def summary(self) -> Delays:
        """Return the usual percentiles."""
        p50, p90, p99 = (self.percentile(percent) / 1e9 for percent in (50, 90, 99))
        return Delays(p50=p50, p90=p90, p99=p99, max=self.largest / 1e9)


@final
class FlowReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a sink saw of a flow; instants in nanoseconds, 0 where nothing came."""

    received: int = 0
    octets: int = 0
    duplicates: int = 0
    reordered: int = 0
    first_sent: int = 0
    last_arrival: int = 0
    delays: Delays = Delays()

    def summary(self) -> dict[str, int | float]:
        """Return it as plain data, whose keys carry the units."""
        return {
            "received": self.received, "received_octets": self.octets, "duplicates": self.duplicates,
            "reordered": self.reordered, "first_sent_s": self.first_sent / 1e9, "last_arrival_s": self.last_arrival / 1e9,
            **self.delays.summary(),
        }  # fmt: skip


@final
class FlowTally:
    """Counts one flow: duplicates (RFC 5560), reordered packets (RFC 4737, type-P-reordered), one-way delay (RFC 7679)."""

    __slots__ = (
        "_highest",
        "_missing",
        "delays",
        "duplicates",
        "first_sent",
        "last_arrival",
        "octets",
        "received",
        "reordered",
    )

    def __init__(self) -> None:
        self.received = 0
        self.octets = 0
        self.duplicates = 0
        self.reordered = 0
        self.first_sent = 0
        self.last_arrival = 0
        self.delays = Histogram()
        self._highest = 0
        self._missing = 0
        """Bit n: the number that is n less than the highest."""

    def arrived(self, number: int, sent_at: int, octets: int, now: int) -> None:
        """Note a record; one that came before counts as a duplicate and nothing else."""
        if number > self._highest:
            step = number - self._highest
            if step > MAX_MISSING:  # a peer may jump as far as 64 bits go
                self._missing = _WINDOW
            elif step > 1 or self._missing:
                self._missing = (self._missing << step | (1 << step) - 2) & _WINDOW
            self._highest = number
        elif self._highest - number <= MAX_MISSING and self._missing >> self._highest - number & 1:
            self._missing ^= 1 << self._highest - number
            self.reordered += 1
        else:
            self.duplicates += 1
            return
        self.received += 1
        self.octets += octets
        self.first_sent = min(self.first_sent or sent_at, sent_at)
        self.last_arrival = now
        self.delays.add(now - sent_at)

    def report(self) -> FlowReport:
        """Return it as plain values."""
        return FlowReport(
            received=self.received, octets=self.octets, duplicates=self.duplicates, reordered=self.reordered,
            first_sent=self.first_sent, last_arrival=self.last_arrival, delays=self.delays.summary(),
        )  # fmt: skip
