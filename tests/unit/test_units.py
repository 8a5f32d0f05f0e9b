"""Text with units, and whole numbers inside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.units import (
    DAY,
    HOUR,
    MICROSECOND,
    MILLISECOND,
    MINUTE,
    SECOND,
    format_duration,
    format_rate,
    nanoseconds,
    parse_duration,
    parse_rate,
    parse_ratio,
    parse_size,
    seconds,
)  # fmt: skip


@pytest.mark.parametrize(("text", "duration"), [
    ("20ms", 20 * MILLISECOND), ("20 ms", 20 * MILLISECOND), (" 20\tms ", 20 * MILLISECOND), ("36h", 36 * HOUR),
    ("124min", 124 * MINUTE), ("1h30m", 90 * MINUTE), ("1h 30min 5s", 90 * MINUTE + 5 * SECOND), ("2d", 2 * DAY),
    ("0.1s", 100 * MILLISECOND), ("1.000000001s", SECOND + 1), ("7us", 7 * MICROSECOND), ("7µs", 7 * MICROSECOND),
    ("3ns", 3), ("0", 0), ("0s", 0), ("300S", 300 * SECOND),
])  # fmt: skip
def test_durations(text: str, duration: int) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "5 parsecs", "1h30", "30 1h", "1e3s", "1_000s", ".5s", "5.s", "1.2.3s", "१s", "∞s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="such as 20ms"):
        parse_duration(text)


@given(st.integers(0, 10**24))
def test_a_printed_duration_is_exact(duration: int) -> None:
    assert parse_duration(format_duration(duration)) == duration
    assert format_duration(-duration) == ("-" if duration else "") + format_duration(duration)


@pytest.mark.parametrize(("duration", "text"), [
    (36 * HOUR, "36h"), (90 * MINUTE, "1h30min"), (SECOND, "1s"), (1_500_000, "1.5ms"), (20 * MILLISECOND, "20ms"),
    (999, "999ns"), (1000, "1us"), (61 * SECOND + 1, "61.000000001s"), (100 * SECOND, "1min40s"),
])  # fmt: skip
def test_durations_are_printed_short(duration: int, text: str) -> None:
    assert format_duration(duration) == text


@pytest.mark.parametrize(("text", "rate"), [
    ("100mbit", 10**8), ("1 Gbit/s", 10**9), ("1gbps", 10**9), ("10 kbps", 10**4), ("64kbit", 64_000), ("9600bit", 9600),
    ("9600 bps", 9600), ("0.1gbit", 10**8), ("1.5 Mbit", 1_500_000),
])  # fmt: skip
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "100", "0mbit", "0.1bit", "-1mbit", "mbit", "1 tbit", "1 MB/s", "10mb", "1GB", "1b", "1mbitps", "fast"]
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="such as 100mbit"):
        parse_rate(text)


def test_octets_per_second_are_not_taken_for_bits() -> None:
    with pytest.raises(ValueError, match="not a rate"):
        parse_rate("100MB/s")


@given(st.integers(1, 10**12))
def test_rates_are_printed_for_people(rate: int) -> None:
    assert parse_rate(format_rate(rate)) == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize(("text", "size"), [
    ("1500", 1500), ("64KiB", 65536), ("1 MB", 10**6), ("1MiB", 2**20), ("64k", 65536), ("2kb", 2000), ("9000 B", 9000),
    ("0", 0),
])  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "KiB", "1 mbit", "1e3", "0x10", "lots"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="64KiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "ratio"), [("5%", 0.05), ("0.1 %", 0.001), ("0.05", 0.05), ("1", 1.0), ("100%", 1.0), ("0", 0.0)]
)
def test_ratios(text: str, ratio: float) -> None:
    assert parse_ratio(text) == pytest.approx(ratio)


@pytest.mark.parametrize("text", ["", "5", "101%", "-1%", "%", "1e-3", "nan", "5%%", "half"])
def test_what_is_no_ratio(text: str) -> None:
    with pytest.raises(ValueError, match="such as 0.1%"):
        parse_ratio(text)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_duration, parse_rate, parse_size, parse_ratio):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert repr(text) in str(error)


def test_seconds_for_people() -> None:
    assert seconds(1_500_000_000) == 1.5
    assert nanoseconds(1.5) == 1_500_000_000
    assert nanoseconds(1e-9) == 1
