"""``gvproxy``: a socket for a virtual machine whose program knows gvproxy's protocols; the lab is where gvproxy would be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias, final

from vnet.topology.adapter_kinds.sockets import SocketPlace, read_path
from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.vocabulary import Strict, about

if TYPE_CHECKING:
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path

GvproxyProtocol: TypeAlias = Literal["vfkit", "hyperkit", "stdio", "bess"]


class Gvproxy(Strict, frozen=True, kw_only=True):
    """A socket that a VM program connects to as if it were gvproxy's."""

    protocol: Annotated[GvproxyProtocol, about("How frames are told apart: vfkit, hyperkit, stdio or bess.")]
    socket: Annotated[str, about("The Unix socket; a path without / at its start lies in the lab's run directory.")]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GvproxySpec(AdapterSpec):
    """A Unix socket at ``place``, and what is spoken there."""

    kind: ClassVar[str] = "gvproxy"
    protocol: GvproxyProtocol
    place: SocketPlace

    def describe(self) -> str:
        """Say what is spoken where."""
        return f"{self.kind} {self.protocol} at {self.place}"


def resolve_gvproxy(model: Gvproxy, around: Surroundings, path: Path) -> GvproxySpec | None:
    """Read what, and where."""
    place = read_path(model.socket, around, (*path, "socket"))
    return None if place is None else GvproxySpec(protocol=model.protocol, place=place)
