"""An adapter in full: what all kinds share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSpec:
    """The way out of a network, resolved; each kind adds what it needs. ``kind`` is the word in the topology file."""

    kind: ClassVar[str]
    works_simulated: ClassVar[bool] = False
    """Whether it leads somewhere in a simulated lab, too."""

    @property
    def dials(self) -> bool:
        """Whether it opens only where somebody listens already, which another way out of the same lab may do."""
        return False

    def describe(self) -> str:
        """Say in a few words which it is, for tables: ``bridge eth1``."""
        return self.kind


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NoAdapter(AdapterSpec):
    """An internal network: there is no way out."""

    kind: ClassVar[str] = "none"
