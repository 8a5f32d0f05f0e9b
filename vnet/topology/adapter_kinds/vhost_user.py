"""``vhost_user``: a virtual machine whose memory the lab shares: frames pass without a socket between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, final

from vnet.topology.adapter_kinds.sockets import SocketPlace, read_path
from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.vocabulary import Strict, about

if TYPE_CHECKING:
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path


class VhostUser(Strict, frozen=True, kw_only=True):
    """The socket of a vhost-user front-end, such as QEMU."""

    socket: Annotated[str, about("The Unix socket; a path without / at its start lies in the lab's run directory.")]
    connect: Annotated[
        bool | None, about("Whether the VM program listens there, and the lab dials; not given: the lab listens.")
    ] = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VhostUserSpec(AdapterSpec):
    """A Unix socket at ``place``, and which end of it the lab is."""

    kind: ClassVar[str] = "vhost_user"
    place: SocketPlace
    listens: bool

    def describe(self) -> str:
        """Say who waits for whom, and where."""
        return f"{self.kind} {'at' if self.listens else 'to'} {self.place}"


def resolve_vhost_user(model: VhostUser, around: Surroundings, path: Path) -> VhostUserSpec | None:
    """Read where, and which end."""
    place = read_path(model.socket, around, (*path, "socket"))
    return None if place is None else VhostUserSpec(place=place, listens=not model.connect)
