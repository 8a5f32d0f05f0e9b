"""What the settings of a link may be. Tests set them as attributes, where no type checker need have looked."""

from __future__ import annotations

from vnet.errors import UsageError


def check_whole(name: str, value: object, unit: str, example: str) -> None:
    """Raise UsageError unless *value* is a whole number that is not negative; *example* shows how one is made."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"a link's {name} is a whole number of {unit}, not {value!r}: {example}")
    if value < 0:
        raise UsageError(f"a link's {name} is not negative")


def check_ratio(name: str, value: object) -> None:
    """Raise UsageError unless *value* is a ratio."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UsageError(f"a link's {name} is a ratio from 0 to 1, not {value!r}: 0.05 is 5%")
    if not 0 <= value <= 1:
        raise UsageError(f"a link's {name} is a ratio from 0 to 1, or a percentage")
