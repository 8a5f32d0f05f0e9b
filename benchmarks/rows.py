"""What a benchmark returns: one line of the table, made of ratios taken side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Literal, TypeAlias, final

Better: TypeAlias = Literal["more", "less"]

ROUNDS: Final = 5
"""How often every contender is measured; the median of the rounds counts."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    ``ratios`` has one entry for each round, taken from that round's measurements alone; with ``better="less"`` a small
    ratio is a good one. ``figures`` are the medians behind it, in words (``{"vnet": "9.2 Gbit/s", "VDE2": ...}``). A row
    that could not be measured has no ratios and says why in ``note``.
    """

    what: str
    gate: float
    ambition: float
    ratios: tuple[float, ...] = ()
    better: Better = "more"
    unit: str = "x"
    figures: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def measured(self) -> float | None:
        """The median ratio, or None if there is none."""
        return median(self.ratios) if self.ratios else None

    def reaches(self, bar: float) -> bool:
        """Tell whether the median is on the good side of *bar*."""
        measured = self.measured
        if measured is None:
            return False
        return measured >= bar if self.better == "more" else measured <= bar

    @property
    def verdict(self) -> str:
        """Say how the row did: "ambition", "pass", "FAIL" or "not measured"."""
        if not self.ratios:
            return "not measured"
        return "ambition" if self.reaches(self.ambition) else "pass" if self.reaches(self.gate) else "FAIL"


Contender: TypeAlias = Callable[[], float]


def interleave(contenders: Mapping[str, Contender], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Measure all contenders in turn, *rounds* times, so that a slow minute of the machine hits all of them.

    Every other round runs in reverse order: whoever profits from its neighbour does so no more than the others.
    """
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        order = list(contenders) if turn % 2 == 0 else list(contenders)[::-1]
        for name in order:
            measured[name].append(contenders[name]())
    return measured


def against_best(
    measured: Mapping[str, list[float]], ours: str, peers: tuple[str, ...], better: Better = "more"
) -> tuple[float, ...]:
    """Divide our measurement by that round's best peer."""
    best = max if better == "more" else min
    return tuple(
        mine / best(theirs) for mine, *theirs in zip(measured[ours], *(measured[peer] for peer in peers), strict=True)
    )


def medians(measured: Mapping[str, list[float]], unit: str, scale: float = 1.0, digits: int = 2) -> dict[str, str]:
    """Put the median of each contender in words."""
    return {name: f"{median(values) / scale:,.{digits}f} {unit}" for name, values in measured.items()}
