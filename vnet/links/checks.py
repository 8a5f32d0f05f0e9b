"""What the settings of a link may be: numbers, or text as in topology files. Tests set them as attributes, where no type
checker need have looked."""

from __future__ import annotations

from collections.abc import Callable

from vnet.errors import UsageError
from vnet.units import Duration, Rate, Size, parse_duration, parse_rate, parse_ratio, parse_size

_NO_LIMIT = ("", "none", "unlimited")


def rate_of(value: Rate | str | None) -> Rate | None:
    """Read a rate: bit/s, text such as "10mbit", or None or "unlimited"; raise UsageError for another."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _NO_LIMIT):
        return None
    rate = _whole("rate", value, parse_rate, 'bits per second, or text such as "10mbit"')
    if rate == 0:
        raise UsageError("a link's rate is more than 0 bit/s")
    return rate


def duration_of(name: str, value: Duration | str) -> Duration:
    """Read a length of time: nanoseconds, or text such as "20ms"; raise UsageError for another."""
    return _whole(name, value, parse_duration, 'nanoseconds, or text such as "20ms"')


def size_of(name: str, value: Size | str) -> Size:
    """Read a size: octets, or text such as "64KiB"; raise UsageError for another."""
    return _whole(name, value, parse_size, 'octets, or text such as "64KiB"')


def ratio_of(name: str, value: float | str) -> float:
    """Read a ratio: a number from 0 to 1, or text such as "5%"; raise UsageError for another."""
    ratio = _parsed(name, value, parse_ratio)
    if not isinstance(ratio, int | float) or isinstance(ratio, bool):
        raise UsageError(f'a link\'s {name} is a ratio from 0 to 1, or text such as "5%", not {value!r}')
    if not 0 <= ratio <= 1:
        raise UsageError(f"a link's {name} is a ratio from 0 to 1, or a percentage")
    return ratio


def _whole(name: str, value: object, parse: Callable[[str], int], what: str) -> int:
    whole = _parsed(name, value, parse)
    if not isinstance(whole, int) or isinstance(whole, bool):
        raise UsageError(f"a link's {name} is a whole number of {what}, not {value!r}")
    if whole < 0:
        raise UsageError(f"a link's {name} is not negative")
    return whole


def _parsed(name: str, value: object, parse: Callable[[str], object]) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ValueError as error:
        raise UsageError(f"a link's {name}: {error}") from error
