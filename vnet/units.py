"""Instants, durations, rates and sizes: whole numbers inside, text with units outside.

Time is kept in whole nanoseconds, so that two runs of one lab agree to the last event; a float appears only where trio
wants one. Rates are bit/s, sizes are octets, ratios are floats from 0 to 1. Each ``parse_x`` raises ``ValueError`` with
a text that shows what would be right.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

Instant: TypeAlias = int
"""A point on the lab clock, in nanoseconds since the lab began."""
Duration: TypeAlias = int
"""A length of time in nanoseconds."""
Rate: TypeAlias = int
"""Bits per second."""
Size: TypeAlias = int
"""Octets."""

NANOSECOND: Final = 1
MICROSECOND: Final = 1_000
MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

_DURATIONS: Final = {
    "ns": NANOSECOND, "us": MICROSECOND, "µs": MICROSECOND, "ms": MILLISECOND, "s": SECOND,
    "min": MINUTE, "m": MINUTE, "h": HOUR, "d": DAY,
}  # fmt: skip
_RATES: Final = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_SIZES: Final = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
    "k": 2**10, "m": 2**20, "g": 2**30,
}  # fmt: skip
_NUMBER: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([^\s0-9.]*)\s*")


def _split(text: str) -> tuple[str, str] | None:
    match = _NUMBER.fullmatch(text)
    return (match[1], match[2]) if match else None


def _scale(number: str, unit: int) -> int:
    """Multiply without a float in between: "0.1" times 10**9 is exact."""
    whole, _, fraction = number.partition(".")
    return int(whole) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)


def parse_duration(text: str) -> Duration:
    """Read "20 ms", "36h", "124min" or a compound such as "1h30m" as nanoseconds."""
    parts = re.findall(r"[0-9]+(?:\.[0-9]+)?\s*[^\s0-9.]+", text.strip())
    if parts and re.sub(r"\s", "", "".join(parts)) == re.sub(r"\s", "", text):
        total = 0
        for part in parts:
            number_unit = _split(part)
            if number_unit is None or number_unit[1].lower() not in _DURATIONS:
                break
            total += _scale(number_unit[0], _DURATIONS[number_unit[1].lower()])
        else:
            return total
    if text.strip() == "0":
        return 0
    raise ValueError(f"{text!r} is not a duration: write a number and a unit, such as 20ms, 300s or 36h")


def parse_rate(text: str) -> Rate:
    """Read "100mbit", "1 Gbit/s" or "1gbps" as bit/s."""
    number_unit = _split(text)
    if number_unit:
        unit = number_unit[1].lower()
        # a "b" stands for bits only in "bps": MB/s are octets to whoever writes them
        unit = unit.removesuffix("ps") + "it" if unit.endswith("bps") else unit.removesuffix("/s")
        if unit in _RATES and (rate := _scale(number_unit[0], _RATES[unit])) > 0:
            return rate
    raise ValueError(f"{text!r} is not a rate: write a number and a unit, such as 100mbit or 1gbit")


def parse_size(text: str) -> Size:
    """Read "1500", "64KiB" or "1 MB" as octets."""
    number_unit = _split(text)
    if number_unit and number_unit[1].lower() in _SIZES:
        return _scale(number_unit[0], _SIZES[number_unit[1].lower()])
    raise ValueError(f"{text!r} is not a size: write a number of octets, with a unit if you like, such as 1500 or 64KiB")


def parse_ratio(text: str) -> float:
    """Read "5%", "0.1 %" or "0.05" as a number from 0 to 1."""
    stripped = text.strip()
    number = stripped.removesuffix("%").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", number):
        ratio = float(number) / (100 if stripped.endswith("%") else 1)
        if 0 <= ratio <= 1:
            return ratio
    raise ValueError(f"{text!r} is not a ratio: write a percentage such as 0.1%, or a number from 0 to 1")


def format_duration(duration: Duration) -> str:
    """Print the shortest exact form: 36h, 1h30m, 20ms, 1.5ms."""
    if duration == 0:
        return "0s"
    if duration < 0:
        return "-" + format_duration(-duration)
    if duration % SECOND == 0:
        seconds = duration // SECOND
        parts = ((seconds // 3600, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s"))
        return "".join(f"{count}{unit}" for count, unit in parts if count)
    for unit, name in ((SECOND, "s"), (MILLISECOND, "ms"), (MICROSECOND, "us")):
        if duration >= unit:
            whole, rest = divmod(duration, unit)
            return f"{whole}.{rest:0{len(str(unit)) - 1}}".rstrip("0").rstrip(".") + name
    return f"{duration}ns"


def format_rate(rate: Rate) -> str:
    """Print a rate with the largest unit that leaves a number of at least 1."""
    for name, unit in (("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3)):
        if rate >= unit:
            return f"{rate / unit:.6g} {name}"
    return f"{rate} bit/s"


def seconds(duration: Duration) -> float:
    """Convert for people and for trio; never feed the result back into the fabric."""
    return duration / SECOND


def nanoseconds(value: float) -> Duration:
    """Convert a user's seconds to a duration, rounded to the nearest nanosecond."""
    return round(value * SECOND)


def duration_of(value: float | str) -> Duration:
    """Turn what a user writes into a duration: a number of seconds, or text with units; ValueError for anything else."""
    if isinstance(value, str):
        return parse_duration(value)
    if not isinstance(value, int | float) or not 0 <= value < 10**9:
        raise ValueError(f"{value!r} is not a duration: write seconds, such as 1.5, or text with a unit, such as '20ms'")
    return nanoseconds(value)
