"""``tap`` and ``fd``: a TAP device of the machine, by its name, or as a descriptor that somebody else has opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, final

from vnet.topology.adapter_kinds.names import check_interface_name
from vnet.topology.adapter_kinds.spec import AdapterSpec

if TYPE_CHECKING:
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path

FIRST_FREE: Final = 3
"""Descriptors below are standard input, output and error."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TapSpec(AdapterSpec):
    """A TAP device called ``name`` on the machine: one that is there already is attached, any other is made."""

    kind: ClassVar[str] = "tap"
    name: str

    def describe(self) -> str:
        """Say which device."""
        return f"{self.kind} {self.name}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FdSpec(AdapterSpec):
    """The open TAP device behind file descriptor ``fd``, which the process of the lab has inherited."""

    kind: ClassVar[str] = "fd"
    fd: int

    def describe(self) -> str:
        """Say which descriptor."""
        return f"{self.kind} {self.fd}"


def resolve_tap(name: str, around: Surroundings, path: Path) -> TapSpec:
    """Read the name."""
    check_interface_name(name, around, path)
    return TapSpec(name=name)


def resolve_fd(fd: int, around: Surroundings, path: Path) -> FdSpec:
    """Read the number."""
    if fd < FIRST_FREE:
        around.error(path, f"{fd} is no descriptor that can be inherited: they begin at {FIRST_FREE}")
    return FdSpec(fd=fd)
