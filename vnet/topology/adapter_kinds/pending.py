"""Kinds of adapters that are read, but have nothing behind them yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from vnet.topology.adapter_kinds.spec import AdapterSpec

if TYPE_CHECKING:
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSpec(AdapterSpec):
    """Which kind it would be, and what the file says beside it."""

    kind: ClassVar[str] = "pending"
    word: str
    option: str

    def describe(self) -> str:
        """Say what the file says."""
        return f"{self.word} {self.option}".strip()


def resolve_pending(word: str, option: object, around: Surroundings, path: Path) -> PendingSpec:
    """Warn that the kind has no effect."""
    text = f"adapter {word!r} is not built yet: the network is an open end; model what lies beyond by guests on it"
    around.problems.warning("adapter-not-built", path, text)
    if isinstance(option, dict):
        option = ", ".join(f"{key}={value}" for key, value in option.items())
    return PendingSpec(word=word, option="" if option is None else str(option))
