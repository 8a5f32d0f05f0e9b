"""The pytest plugin and helpers for tests; imported when first used, since pytest loads the plugin everywhere."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vnet.testing.expectations import expect, never
    from vnet.testing.invariants import Invariants

__all__ = ["Invariants", "expect", "never"]

_HOMES: Final = {
    "Invariants": "vnet.testing.invariants",
    "expect": "vnet.testing.expectations",
    "never": "vnet.testing.expectations",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'vnet.testing' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
