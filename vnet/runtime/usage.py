"""Calls that people make wrongly: told as a UsageError that shows how to make them, not as Python tells them.

Tests call a lab where no type checker need have looked; a ``TypeError`` from the depths of the lab says nothing to them.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar

from vnet.errors import UsageError
from vnet.units import SECOND, Duration, duration_of

P = ParamSpec("P")
R = TypeVar("R")


def called_as(example: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a call with arguments that do not fit the signature raise UsageError, which shows the *example*.

    It costs nothing where they do: the signature is looked at only once Python has complained.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except TypeError:
                check_arguments(function, example, *args, **kwargs)
                raise

        return call

    return decorate


def check_arguments(function: Callable[..., object], example: str, *args: object, **kwargs: object) -> None:
    """Raise UsageError if a function does not take these arguments; one without a signature is believed to."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(f"{name_of(function)}: {error}; write it as {example}") from error


def check_waitable(function: object, example: str) -> None:
    """Raise UsageError for what is no function that can be awaited, or has been called already."""
    if inspect.iscoroutine(function):
        function.close()
        raise UsageError(f"{name_of(function)} was called already: hand over the function itself, as {example}")
    if not callable(function):
        raise UsageError(f"{function!r} is no function; write it as {example}")


def seconds_of(value: float | str) -> float:
    """Read a time-out: seconds, or text with a unit; raise UsageError for another."""
    if isinstance(value, str):
        return length_of(value) / SECOND
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:  # nan is not either
        raise UsageError(f"{value!r} is no time-out: write seconds, such as 1.5, or text with a unit, such as '20ms'")
    return value


def length_of(value: float | str) -> Duration:
    """Read a length of lab time; raise UsageError for what is none."""
    try:
        return duration_of(value)
    except ValueError as error:
        raise UsageError(str(error)) from error


def name_of(function: object) -> str:
    """Name a function for people."""
    return str(getattr(function, "__name__", function))


def check_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Return a name that is known; raise UsageError, with the nearest there is, for another."""
    names = list(known)
    if not isinstance(name, str):
        raise UsageError(f"a {kind} is named by text, such as {names[0] if names else kind!r}, not by {name!r}")
    if name not in names:
        near = difflib.get_close_matches(name, names, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names[:12]) or 'none'}"
        raise UsageError(f"there is no {kind} {name!r}; {hint}")
    return name
