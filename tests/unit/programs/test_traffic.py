"""Traffic generators and sinks over the loopback of this machine, and their arithmetic without any."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import accumulate, islice

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from vnet.errors import PeerError, UsageError, WireError
from vnet.fabric.rng import RandomStreams
from vnet.programs.traffic import TrafficOptions, TrafficResult, gaps, generate
from vnet.programs.traffic_records import HEADER_OCTETS, MAX_MISSING, FlowTally, Histogram, Kind, Record, decode
from vnet.programs.traffic_sink import MAX_FLOWS, Sink

HOST = "127.0.0.1"
STREAMS = RandomStreams(5)


@pytest.fixture(autouse=True)
def no_stragglers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the loopback a datagram is there before the next one is sent: nobody need wait for late ones."""
    monkeypatch.setattr("vnet.programs.traffic.SETTLE", 0.02)


def draws(purpose: str = "traffic"):
    return STREAMS.stream("tests", purpose)


@asynccontextmanager
async def sink() -> AsyncIterator[tuple[Sink, int]]:
    made = Sink()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            yield made, await nursery.start(partial(made.serve, 0, host=HOST))
            nursery.cancel_scope.cancel()


async def run(options: TrafficOptions) -> tuple[TrafficResult, Sink]:
    async with sink() as (made, port):
        return await generate(HOST, port, options, randomness=draws()), made


@pytest.mark.trio
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("pattern", ["cbr", "poisson", "onoff"])
async def test_what_is_sent_arrives(protocol, pattern) -> None:
    result, made = await run(
        TrafficOptions(pattern=pattern, protocol=protocol, rate=500, size=100, count=50, burst=0.05, pause=0.02)
    )
    assert (result.sent, result.received, result.lost, result.duplicates, result.reordered) == (50, 50, 0, 0, 0)
    assert result.sent_octets == result.received_octets == 5000
    assert 0 < result.delays.p50 <= result.delays.p90 <= result.delays.p99 <= result.delays.max < 1
    assert [each.received for each in made.reports()] == [50] and made.ignored == 0


@pytest.mark.trio
async def test_constant_rate_for_a_time(autojump_clock: trio.testing.MockClock) -> None:
    result, _ = await run(TrafficOptions(rate=200, size=1000, duration=0.5))
    assert result.sent == 100 and result.seconds == pytest.approx(0.5, abs=0.1)
    assert result.throughput_bps == pytest.approx(200 * 8000, rel=0.2)


@pytest.mark.trio
async def test_bulk_loses_nothing_when_its_time_is_over() -> None:
    result, _ = await run(TrafficOptions(pattern="bulk", protocol="tcp", duration=0.2))
    assert result.sent == result.received > 10 and result.received_octets == result.sent * 65536
    assert result.throughput_bps > 1e6


@pytest.mark.trio
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
async def test_requests_wait_for_their_responses(protocol) -> None:
    result, _ = await run(TrafficOptions(pattern="request", protocol=protocol, reply=3000, count=20))
    assert (result.sent, result.received, result.lost) == (20, 20, 0)
    assert 0 < result.delays.p50 <= result.delays.max < 1


@pytest.mark.trio
async def test_nobody_reports_where_there_is_no_sink(autojump_clock: trio.testing.MockClock) -> None:
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as deaf:
        await deaf.bind((HOST, 0))
        with pytest.raises(PeerError, match="no traffic sink"):
            await generate(HOST, deaf.getsockname()[1], TrafficOptions(rate=10, count=3), randomness=draws())
        with pytest.raises(PeerError, match="no traffic sink"):
            await generate(HOST, deaf.getsockname()[1], TrafficOptions(pattern="request", count=3), randomness=draws())
    with pytest.raises(OSError):
        await generate(HOST, 1, TrafficOptions(pattern="bulk", protocol="tcp"), randomness=draws())


@pytest.mark.trio
@pytest.mark.parametrize(
    "answer", [b"", b"nonsense" * 10, Record(kind=Kind.REPORT, flow=1).encode(b"[")[:-1], bytes(HEADER_OCTETS)]
)
async def test_a_sink_that_is_none_is_a_peer_error(answer: bytes) -> None:
    async def speak(stream: trio.SocketStream) -> None:
        await stream.receive_some(HEADER_OCTETS)
        await stream.send_all(answer)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, speak, 0, host=HOST))
            options = TrafficOptions(protocol="tcp", rate=100, count=1)
            with pytest.raises(PeerError):
                await generate(HOST, listener.socket.getsockname()[1], options, randomness=draws())
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_nonsense_is_ignored() -> None:
    async with sink() as (made, port):
        with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as socket:
            await socket.sendto(b"nonsense", (HOST, port))
        async with await trio.open_tcp_stream(HOST, port) as stream:
            await stream.send_all(b"nonsense" * 10)
            assert await stream.receive_some() == b""
        result = await generate(HOST, port, TrafficOptions(rate=1000, count=5), randomness=draws())
        assert result.received == 5 and made.ignored == 2 and len(made.reports()) == 1


@pytest.mark.trio
async def test_flows_are_bounded() -> None:
    made = Sink()
    for flow in range(MAX_FLOWS + 3):
        made.take(Record(kind=Kind.DATA, flow=flow, number=1), 40, 65507)
    assert len(made.reports()) == MAX_FLOWS and made.ignored == 3
    assert made.take(Record(kind=Kind.END, flow=MAX_FLOWS + 1), 40, 65507) is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (TrafficOptions(), "needs a rate"),
        (TrafficOptions(pattern="poisson"), "needs a rate"),
        (TrafficOptions(pattern="bulk"), "over tcp"),
        (TrafficOptions(rate=0), "rate"),
        (TrafficOptions(rate=1, size=10), "octets"),
        (TrafficOptions(rate=1, size=65508), "octets"),
        (TrafficOptions(rate=1, burst=0), "burst has"),
        (TrafficOptions(rate=1, duration=0), "duration"),
        (TrafficOptions(rate=1, count=0), "count"),
    ],
)
@pytest.mark.trio
async def test_options_that_make_no_sense(options: TrafficOptions, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        await generate(HOST, 1, options, randomness=draws())


def test_constant_gaps() -> None:
    assert list(islice(gaps(TrafficOptions(rate=50), draws()), 4)) == [0, 0.02, 0.02, 0.02]


def test_poisson_gaps_are_exponential() -> None:
    found = list(islice(gaps(TrafficOptions(pattern="poisson", rate=100), draws()), 20_000))
    mean = sum(found) / len(found)
    assert mean == pytest.approx(0.01, rel=0.03)
    assert sum((gap - mean) ** 2 for gap in found) / len(found) == pytest.approx(0.01**2, rel=0.06)
    assert sum(gap > 0.01 for gap in found) / len(found) == pytest.approx(0.3679, abs=0.01)


def test_on_off_sends_at_the_rate_or_not_at_all() -> None:
    options = TrafficOptions(pattern="onoff", rate=100, burst=0.5, pause=1.5)
    found = list(islice(gaps(options, draws()), 50_000))
    assert sum(gap == 0.01 for gap in found) > 0.95 * len(found)
    total = list(accumulate(found))[-1]
    assert len(found) / total == pytest.approx(
        100 * 0.505 / 2.0, rel=0.1
    )  # a burst's last message is half a gap early, on average


def test_the_same_seed_gives_the_same_gaps() -> None:
    options = TrafficOptions(pattern="onoff", rate=100)
    assert list(islice(gaps(options, draws("a")), 100)) == list(islice(gaps(options, draws("a")), 100))
    assert list(islice(gaps(options, draws("a")), 100)) != list(islice(gaps(options, draws("b")), 100))


def test_duplicates_and_reordering() -> None:
    tally = FlowTally()
    for number, now in ((1, 10), (2, 20), (5, 50), (3, 60), (3, 61), (5, 62), (6, 70)):
        tally.arrived(number, 5, 100, now)
    report = tally.report()
    assert (report.received, report.octets, report.duplicates, report.reordered) == (5, 500, 2, 1)
    assert (report.first_sent, report.last_arrival) == (5, 70)


def test_what_is_missing_is_bounded() -> None:
    tally = FlowTally()
    tally.arrived(2**63, 0, 100, 0)
    tally.arrived(2**64 - 1, 0, 100, 0)
    tally.arrived(5, 0, 100, 0)
    assert tally._missing.bit_count() == MAX_MISSING and tally.report().received == 2
    for back, reordered in ((MAX_MISSING, 1), (MAX_MISSING, 1), (MAX_MISSING + 1, 1), (1, 2), (1, 2)):
        tally.arrived(2**64 - 1 - back, 0, 100, 0)
        assert tally.report().reordered == reordered
    assert tally.report().received == 4


def test_wild_jumps_of_many_flows_cost_little() -> None:
    """Numbers come from the peer, each in a datagram of 40 octets."""
    tracemalloc.start()
    try:
        tallies = [FlowTally() for _ in range(100)]
        for tally in tallies:
            for jump in range(1, 20):
                tally.arrived(jump << 40, 0, 40, 0)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()


@given(st.permutations(range(1, 40)), st.lists(st.integers(1, 39)))
def test_each_number_counts_once(order: list[int], again: list[int]) -> None:
    tally = FlowTally()
    for number in [*order, *again]:
        tally.arrived(number, 0, 1, 1)
    highest, late = 0, 0
    for number in order:
        late += number < highest
        highest = max(highest, number)
    report = tally.report()
    assert (report.received, report.duplicates, report.reordered) == (39, len(again), late)


@given(st.lists(st.integers(-5, 10**12), min_size=1), st.sampled_from([1, 50, 90, 99, 100]))
def test_percentiles_are_right_to_a_sixty_fourth(durations: list[int], percent: int) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.add(duration)
    ordered = sorted(max(0, duration) for duration in durations)
    exact = ordered[max(1, -(-len(ordered) * percent // 100)) - 1]
    assert exact * 63 / 64 - 1 <= histogram.percentile(percent) <= exact
    assert histogram.largest == ordered[-1]


@given(st.binary(max_size=80))
def test_any_octets_are_a_record_or_a_wire_error(data: bytes) -> None:
    for octets in (data, b"vnTg" + data):
        try:
            record = decode(octets)
        except WireError:
            continue
        assert HEADER_OCTETS <= record.length <= 2**20


@given(st.builds(Record, kind=st.sampled_from(Kind), flow=st.integers(0, 2**64 - 1), number=st.integers(0, 2**64 - 1)))
def test_a_record_reads_as_it_was_written(record: Record) -> None:
    assert decode(record.encode()) == record


def test_bursts_without_pauses_send_no_faster_than_the_rate() -> None:
    options = TrafficOptions(pattern="onoff", rate=10, burst=0.1, pause=0)
    assert options.problem() is None
    assert min(list(islice(gaps(options, draws()), 1000))[1:]) >= 0.1
    problem = TrafficOptions(pattern="onoff", rate=1, burst=1e-9, pause=0).problem()
    assert problem is not None and "1/rate" in problem
