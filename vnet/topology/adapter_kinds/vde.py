"""``vde``: a Virtual Distributed Ethernet switch; the lab plugs into one, or is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, final

from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.vocabulary import Strict, about

if TYPE_CHECKING:
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path

LONGEST_PATH = 80
"""Octets of a switch's directory that leave room for the names of sockets in it (unix(7): 107)."""


class Vde(Strict, frozen=True, kw_only=True):
    """A VDE switch; give one of the two."""

    switch: Annotated[str | None, about("The directory of a vde_switch that runs; the lab plugs into it.")] = None
    port: Annotated[int | None, about("The port of that switch; not given: the first free one.")] = None
    listen: Annotated[str | None, about("A directory for the lab to be a switch itself: vde_plug and others plug in.")] = (
        None
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VdeSpec(AdapterSpec):
    """The directory of a switch, and whether the lab is that switch; ``port`` 0 leaves the choice to the switch."""

    kind: ClassVar[str] = "vde"
    directory: str
    listens: bool
    port: int = 0

    @property
    def dials(self) -> bool:
        """Whether it needs a switch that runs."""
        return not self.listens

    def describe(self) -> str:
        """Say which directory."""
        return f"vde listen {self.directory}" if self.listens else f"vde {self.directory}"


def resolve_vde(model: str | Vde, around: Surroundings, path: Path) -> VdeSpec | None:
    """Read a directory, or which side of it the lab is on."""
    full = Vde(switch=model) if isinstance(model, str) else model
    if (full.switch is None) == (full.listen is None):
        around.error(path, "a vde adapter plugs into a switch or is one; write switch: or listen: with a directory")
        return None
    if full.listen is not None and full.port is not None:
        around.error((*path, "port"), "port goes with switch; who plugs into the lab gets a port of their own")
    directory = full.switch or full.listen or ""
    if not directory or "\0" in directory or len(directory.encode()) > LONGEST_PATH:
        around.error(path, f"{directory[:60]!r} cannot be a switch's directory; use a path of 1 to {LONGEST_PATH} octets")
        return None
    port = around.reader.whole(full.port, (*path, "port"), 1, 65535, 0)
    return VdeSpec(directory=directory, listens=full.listen is not None, port=port)
