"""All kinds of adapters: the words of ``adapter:``, and the one function that reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import msgspec

from vnet.topology.adapter_kinds.loopback import Loopback, resolve_loopback
from vnet.topology.adapter_kinds.pending import resolve_pending
from vnet.topology.adapter_kinds.sockets import Dgram, Stream, resolve_dgram, resolve_stream
from vnet.topology.adapter_kinds.spec import AdapterSpec, NoAdapter
from vnet.topology.vocabulary import Strict, about

if TYPE_CHECKING:
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path


class Adapter(Strict, frozen=True, kw_only=True):
    """A way out to the machine with its options; give exactly one."""

    loopback: Annotated[Loopback | None, about("An interface of the machine on the network.")] = None
    bridge: Annotated[str | None, about("Bridge the network with this NIC of the machine.")] = None
    tap: Annotated[str | None, about("A TAP device of this name on the machine.")] = None
    stream: Annotated[Stream | None, about("A stream socket with frames in it, such as QEMU's.")] = None
    dgram: Annotated[Dgram | None, about("A datagram socket with frames in it, such as QEMU's.")] = None
    vxlan: Annotated[dict[str, str | int] | None, about("A VXLAN tunnel to other machines: vni, remote, port.")] = None


AdapterWord: TypeAlias = Literal["none", "loopback", "user"]
AdapterChoice: TypeAlias = Annotated[
    AdapterWord | Adapter,
    about(
        "The way out to the machine: none (an internal network, the default), loopback, user, or a mapping with one of the"
        " kinds."
    ),
]

_Read: TypeAlias = "Callable[[Adapter, Surroundings, Path], AdapterSpec | None]"

_KINDS: Final[Mapping[str, _Read]] = {
    "loopback": lambda given, around, path: resolve_loopback(given.loopback or Loopback(), around, path),
    "user": lambda given, around, path: resolve_pending("user", None, around, path),
    "bridge": lambda given, around, path: resolve_pending("bridge", given.bridge, around, path),
    "tap": lambda given, around, path: resolve_pending("tap", given.tap, around, path),
    "stream": lambda given, around, path: resolve_stream(given.stream or Stream(), around, path),
    "dgram": lambda given, around, path: resolve_dgram(given.dgram or Dgram(), around, path),
    "vxlan": lambda given, around, path: resolve_pending("vxlan", given.vxlan, around, path),
}


def read_adapter(choice: AdapterWord | Adapter, around: Surroundings, path: Path) -> AdapterSpec:
    """Read a network's adapter; after a mistake, which is noted, the network is internal."""
    if not isinstance(choice, Adapter):
        return NoAdapter() if choice == "none" else _KINDS[choice](Adapter(), around, path) or NoAdapter()
    kinds = msgspec.structs.fields(Adapter)
    given = [kind.name for kind in kinds if getattr(choice, kind.name) is not None]
    if len(given) != 1:
        words = ", ".join(kind.name for kind in kinds)
        around.error(path, f"an adapter is one thing, not {len(given)}; write one of {words}")
        return NoAdapter()
    return _KINDS[given[0]](choice, around, (*path, given[0])) or NoAdapter()
