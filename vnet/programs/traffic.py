"""Traffic generators: constant rate, Poisson, on/off, bulk, and requests with responses, over UDP or TCP to a sink.

Instants are trio's, chance comes from a stream that is handed in: in a simulated lab the same seed gives the same traffic.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from math import inf, log
from typing import Final, Literal, Protocol, TypeAlias, final

import msgspec
import trio

from vnet.errors import PeerError, UsageError, WireError
from vnet.ports import Randomness
from vnet.programs.closed_sockets import raise_if_closed
from vnet.programs.program_clock import program_time, sleep_until
from vnet.programs.standstill import Standstill
from vnet.programs.traffic_records import (
    DEFAULT_PORT,
    HEADER_OCTETS,
    MAX_DATAGRAM,
    MAX_RECORD,
    Delays,
    FlowReport,
    Histogram,
    Kind,
    Record,
    RecordStream,
    decode,
    now_ns,
)

Pattern: TypeAlias = Literal["cbr", "poisson", "onoff", "bulk", "request"]

DEFAULT_SIZE: Final = 512
BULK_SIZE: Final = 64 * 1024
DEFAULT_DURATION: Final = 10.0
SETTLE: Final = 0.5
"""Seconds between the last datagram and the first question for the report: what is on its way should be there."""
REPORT_RETRY: Final = 0.5
REPORT_TRIES: Final = 20
RESPONSE_TIMEOUT: Final = 2.0
"""Seconds after which a request over UDP counts as lost."""
CONNECT_TIMEOUT: Final = 30.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOptions:
    """What to send.

    ``rate`` is in messages a second, ``size`` and ``reply`` in octets, header included, times in seconds. ``onoff`` sends at
    *rate* for exponentially distributed times of mean *burst*, and nothing for such of mean *pause*. ``bulk`` sends over TCP
    as fast as it goes. ``request`` sends one request, waits for the response, then for a time of mean 1/*rate* (no rate: not
    at all). It ends after *duration* or *count* messages.
    """

    pattern: Pattern = "cbr"
    protocol: Literal["udp", "tcp"] = "udp"
    rate: float | None = None
    size: int | None = None
    reply: int = DEFAULT_SIZE
    burst: float = 1.0
    pause: float = 1.0
    duration: float | None = None
    count: int | None = None

    @property
    def octets(self) -> int:
        """Octets of a message."""
        return self.size or (BULK_SIZE if self.pattern == "bulk" else DEFAULT_SIZE)

    def problem(self) -> str | None:
        """Say what is wrong, if anything is."""
        most = MAX_DATAGRAM if self.protocol == "udp" else MAX_RECORD
        if self.pattern == "bulk" and self.protocol == "udp":
            return "bulk traffic goes over tcp: over udp nothing would hold it back"
        if self.pattern in ("cbr", "poisson", "onoff") and self.rate is None:
            return f"{self.pattern} traffic needs a rate"
        if self.rate is not None and not 0 < self.rate <= 1e9:
            return "the rate has to be more than 0, and at most 10^9 messages a second"
        if not HEADER_OCTETS <= self.octets <= most or not HEADER_OCTETS <= self.reply <= most:
            return f"messages over {self.protocol} have {HEADER_OCTETS} to {most} octets"
        if self.burst <= 0 or self.pause < 0:
            return "burst has to be more than 0, and pause not less"
        if self.pattern == "onoff" and self.rate is not None and self.burst * self.rate < 1 - 1e-9:
            return "burst has to be at least 1/rate: shorter bursts have no rate"
        if (self.duration is not None and self.duration <= 0) or (self.count is not None and self.count <= 0):
            return "duration and count have to be more than 0"
        return None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficResult:
    """What became of the traffic: messages and octets sent and received, and the rest as the sink saw it.

    ``throughput_bps`` is what arrived from the first message sent to the last received. ``delays`` are one-way delays in
    seconds, for requests the times until their responses. Duplicates count neither as received nor as octets.
    """

    sent: int
    received: int
    sent_octets: int
    received_octets: int
    duplicates: int
    reordered: int
    seconds: float
    throughput_bps: float
    delays: Delays

    @property
    def lost(self) -> int:
        """Messages that did not arrive; for requests, those without a response."""
        return max(0, self.sent - self.received)

    @property
    def loss(self) -> float:
        """The share of them, 0 to 1."""
        return self.lost / self.sent if self.sent else 0.0

    def summary(self) -> dict[str, int | float]:
        """Return it as plain data, whose keys carry the units."""
        plain = {key: value for key, value in asdict(self).items() if key not in ("seconds", "delays")}
        return {**plain, "duration_s": self.seconds, "lost": self.lost, "loss": self.loss, **self.delays.summary()}


def gaps(options: TrafficOptions, randomness: Randomness) -> Iterator[float]:
    """Yield the times between messages in seconds, beginning with that before the first."""
    rate = options.rate
    if rate is None:
        while True:
            yield 0.0
    if options.pattern in ("poisson", "request"):
        while True:
            yield _exponential(1 / rate, randomness)
    if options.pattern == "cbr":
        yield 0.0
        while True:
            yield 1 / rate
    pause = 0.0
    while True:  # on/off: the first message of a burst comes at its beginning
        burst = _exponential(options.burst, randomness)
        at = 0.0
        while at < burst:
            yield pause
            pause = 1 / rate
            at += pause
        # two bursts with next to no pause between them do not send faster than one
        pause = max(1 / rate, (burst - at + 1 / rate) + _exponential(options.pause, randomness))


def _exponential(mean: float, randomness: Randomness) -> float:
    return -log(1 - randomness.random()) * mean


async def generate(
    host: str, port: int = DEFAULT_PORT, options: TrafficOptions | None = None, *, randomness: Randomness
) -> TrafficResult:
    """Send traffic to the sink at *host* and return what became of it.

    Raise UsageError for options that make no sense, PeerError where no sink reports, OSError where nobody can be reached.
    """
    options = options or TrafficOptions(rate=100)
    if (problem := options.problem()) is not None:
        raise UsageError(problem)
    flow = int.from_bytes(randomness.octets(8), "big")
    open_channel = _open_datagrams if options.protocol == "udp" else _open_records
    async with open_channel(host, port, flow) as channel:
        return await _Generator(channel, options, flow, randomness).run()


class _Channel(Protocol):
    """A way to the sink."""

    async def send(self, record: Record) -> None:
        """Send a record."""

    async def receive(self) -> tuple[Record, bytes]:
        """Wait for a record of this flow."""

    async def report(self, end: Record) -> FlowReport:
        """Ask for the report."""


@final
class _Generator:
    def __init__(self, channel: _Channel, options: TrafficOptions, flow: int, randomness: Randomness) -> None:
        self._channel = channel
        self._options = options
        self._flow = flow
        self._randomness = randomness
        self._sent = 0
        self._answered = 0
        self._response_times = Histogram()

    async def run(self) -> TrafficResult:
        options = self._options
        seconds = options.duration if options.duration is not None else inf if options.count else DEFAULT_DURATION
        started = program_time()
        # a request that is under way when the time is over is waited for: without its response it would count as lost
        with trio.move_on_after(inf if options.pattern == "request" else seconds):
            await self._send_all(started + seconds)
        ended = program_time()
        report = await self._channel.report(Record(kind=Kind.END, flow=self._flow, number=self._sent))
        return self._result(report, ended - started)

    async def _send_all(self, end: float) -> None:
        """Send until it is time; a sender that was held up catches up, so that the mean rate stays what was asked for."""
        is_request = self._options.pattern == "request"
        due = program_time()
        standstill = Standstill()
        for gap in gaps(self._options, self._randomness):
            due = (program_time() if is_request else due) + gap  # think time starts when the response is there
            if due >= end:
                await sleep_until(end)
                return
            if due > program_time():
                await sleep_until(due)
            if self._options.count is None:
                standstill.count(self._options.octets)
            if is_request:
                await self._request()
            else:
                await self._channel.send(self._next(Kind.DATA))
            if self._sent == self._options.count:
                return

    def _next(self, kind: Kind) -> Record:
        self._sent += 1
        length, reply = self._options.octets, self._options.reply if kind is Kind.REQUEST else 0
        return Record(kind=kind, flow=self._flow, number=self._sent, sent_at=now_ns(), length=length, reply=reply)

    async def _request(self) -> None:
        request = self._next(Kind.REQUEST)
        with trio.move_on_after(RESPONSE_TIMEOUT if self._options.protocol == "udp" else inf):
            await self._channel.send(request)
            while True:
                record, _ = await self._channel.receive()
                if record.kind is Kind.RESPONSE and record.number == request.number:
                    break
            self._answered += 1
            self._response_times.add(now_ns() - request.sent_at)

    def _result(self, report: FlowReport, seconds: float) -> TrafficResult:
        is_request = self._options.pattern == "request"
        span = (report.last_arrival - report.first_sent) / 1e9
        return TrafficResult(
            sent=self._sent,
            received=self._answered if is_request else report.received,
            sent_octets=self._sent * self._options.octets,
            received_octets=report.octets,
            duplicates=report.duplicates,
            reordered=report.reordered,
            seconds=seconds,
            throughput_bps=report.octets * 8 / span if span > 0 else 0.0,
            delays=self._response_times.summary() if is_request else report.delays,
        )


@final
class _Datagrams:
    """A connected UDP socket."""

    def __init__(self, socket: trio.socket.SocketType, flow: int) -> None:
        self._socket = socket
        self._flow = flow

    async def send(self, record: Record) -> None:
        with trio.CancelScope(shield=True):
            # it is counted already, and sending a datagram is not what takes time; one that is lost on the way out is lost,
            # and an ICMP error about an earlier one does not matter either
            try:
                await self._socket.send(record.encode())
            except OSError as error:
                raise_if_closed(error)
        await trio.lowlevel.checkpoint()

    async def receive(self) -> tuple[Record, bytes]:
        while True:
            try:
                data = await self._socket.recv(MAX_DATAGRAM)
                record = decode(data)
            except (OSError, WireError) as error:
                if isinstance(error, OSError):
                    raise_if_closed(error)
                await trio.lowlevel.checkpoint()
                continue
            if record.flow == self._flow:
                return record, data[HEADER_OCTETS : record.length]

    async def report(self, end: Record) -> FlowReport:
        await trio.sleep(SETTLE)
        for _ in range(REPORT_TRIES):
            await self.send(end)
            with trio.move_on_after(REPORT_RETRY):
                while True:
                    record, body = await self.receive()
                    if record.kind is Kind.REPORT:
                        return _read_report(body)
        raise PeerError("no traffic sink reports there: run one at the other end, on the same port")


@final
class _Records:
    """A TCP connection."""

    def __init__(self, stream: trio.SocketStream, flow: int) -> None:
        self._stream = stream
        self._records = RecordStream(stream)
        self._flow = flow
        self._rest = memoryview(b"")

    async def send(self, record: Record) -> None:
        self._rest = memoryview(record.encode())
        try:
            # a piece at a time, to know what is left when it is cancelled: a record that was begun has to be ended
            while self._rest:
                self._rest = self._rest[await self._stream.socket.send(self._rest) :]
        except OSError as error:
            raise PeerError("the sink reset the connection") from error

    async def receive(self) -> tuple[Record, bytes]:
        while (received := await self._records.receive()) is not None:
            if received[0].flow == self._flow:
                return received
        raise PeerError("the sink closed the connection")

    async def report(self, end: Record) -> FlowReport:
        try:
            await self._stream.send_all(bytes(self._rest) + end.encode())
        except trio.BrokenResourceError as error:
            raise PeerError("the sink reset the connection") from error
        while True:
            record, body = await self.receive()
            if record.kind is Kind.REPORT:
                return _read_report(body)


def _read_report(body: bytes) -> FlowReport:
    try:
        return msgspec.json.decode(body, type=FlowReport)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PeerError("the sink sent a report that is none") from error


@asynccontextmanager
async def _open_datagrams(host: str, port: int, flow: int) -> AsyncIterator[_Channel]:
    (family, kind, protocol, _, where), *_ = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_DGRAM)
    with trio.socket.socket(family, kind, protocol) as socket:
        await socket.connect(where)
        yield _Datagrams(socket, flow)


@asynccontextmanager
async def _open_records(host: str, port: int, flow: int) -> AsyncIterator[_Channel]:
    try:
        with trio.fail_after(CONNECT_TIMEOUT):
            stream = await trio.open_tcp_stream(host, port)
    except trio.TooSlowError:
        raise PeerError(f"{host} does not answer on port {port}") from None
    async with stream:
        yield _Records(stream, flow)
