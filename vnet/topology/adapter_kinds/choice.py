"""All kinds of adapters: the words of ``adapter:``, and the one function that reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec

from vnet.topology.adapter_kinds.bridge import Bridge, resolve_bridge
from vnet.topology.adapter_kinds.gvproxy import Gvproxy, resolve_gvproxy
from vnet.topology.adapter_kinds.loopback import Loopback, resolve_loopback
from vnet.topology.adapter_kinds.pcap import Pcap, resolve_pcap
from vnet.topology.adapter_kinds.sockets import Dgram, Stream, resolve_dgram, resolve_stream
from vnet.topology.adapter_kinds.spec import AdapterSpec, NoAdapter
from vnet.topology.adapter_kinds.tap import resolve_fd, resolve_tap
from vnet.topology.adapter_kinds.tunnels import Geneve, Udp, Vxlan, resolve_tunnel, resolve_udp
from vnet.topology.adapter_kinds.user import User, resolve_user
from vnet.topology.adapter_kinds.vde import Vde, resolve_vde
from vnet.topology.adapter_kinds.vhost_user import VhostUser, resolve_vhost_user
from vnet.topology.vocabulary import Strict, about

if TYPE_CHECKING:
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path


class Adapter(Strict, frozen=True, kw_only=True):
    """A way out to the machine with its options; give exactly one."""

    loopback: Annotated[Loopback | None, about("An interface of the machine on the network.")] = None
    user: Annotated[User | None, about("To the outside by the machine's own sockets, without privileges.")] = None
    bridge: Annotated[str | Bridge | None, about("A NIC of the machine: its name, or a mapping with options.")] = None
    tap: Annotated[str | None, about("A TAP device of this name on the machine; made if it is not there.")] = None
    fd: Annotated[int | None, about("A TAP device that is open as this file descriptor already.")] = None
    stream: Annotated[Stream | None, about("A stream socket with frames in it, such as QEMU's.")] = None
    dgram: Annotated[Dgram | None, about("A datagram socket with frames in it, such as QEMU's.")] = None
    vxlan: Annotated[Vxlan | None, about("A VXLAN tunnel to other machines.")] = None
    geneve: Annotated[Geneve | None, about("A GENEVE tunnel to other machines.")] = None
    vde: Annotated[str | Vde | None, about("A vde_switch to plug into, by its directory, or the lab as one.")] = None
    pcap: Annotated[str | Pcap | None, about("Capture files for what is beyond: one to replay, one to record.")] = None
    udp: Annotated[Udp | None, about("Frames as they are in UDP datagrams, to another lab or VM.")] = None
    vhost_user: Annotated[VhostUser | None, about("A VM whose memory the lab shares, by QEMU's -netdev vhost-user.")] = None
    gvproxy: Annotated[Gvproxy | None, about("A socket for a VM program that knows gvproxy's protocols.")] = None


AdapterWord: TypeAlias = Literal["none", "loopback", "user"]
AdapterChoice: TypeAlias = Annotated[
    AdapterWord | Adapter,
    about(
        "The way out to the machine: none (an internal network, the default), loopback, user, or a mapping with one of the"
        " kinds."
    ),
]

_Read: TypeAlias = "Callable[[Adapter, Surroundings, Path], AdapterSpec | None]"

T = TypeVar("T")


def _is(given: T | None) -> T:
    assert given is not None, "it was asked for because it is there"
    return given


_KINDS: Final[Mapping[str, _Read]] = {
    "loopback": lambda given, around, path: resolve_loopback(given.loopback or Loopback(), around, path),
    "user": lambda given, around, path: resolve_user(given.user or User(), around, path),
    "bridge": lambda given, around, path: resolve_bridge(given.bridge or "", around, path),
    "tap": lambda given, around, path: resolve_tap(given.tap or "", around, path),
    "fd": lambda given, around, path: resolve_fd(given.fd or 0, around, path),
    "stream": lambda given, around, path: resolve_stream(given.stream or Stream(), around, path),
    "dgram": lambda given, around, path: resolve_dgram(given.dgram or Dgram(), around, path),
    "vxlan": lambda given, around, path: resolve_tunnel("vxlan", _is(given.vxlan), around, path),
    "geneve": lambda given, around, path: resolve_tunnel("geneve", _is(given.geneve), around, path),
    "vde": lambda given, around, path: resolve_vde(given.vde or "", around, path),
    "pcap": lambda given, around, path: resolve_pcap(given.pcap or "", around, path),
    "udp": lambda given, around, path: resolve_udp(_is(given.udp), around, path),
    "vhost_user": lambda given, around, path: resolve_vhost_user(_is(given.vhost_user), around, path),
    "gvproxy": lambda given, around, path: resolve_gvproxy(_is(given.gvproxy), around, path),
}


def read_adapter(choice: AdapterWord | Adapter, around: Surroundings, path: Path) -> AdapterSpec:
    """Read a network's adapter; after a mistake, which is noted, the network is internal."""
    if not isinstance(choice, Adapter):
        return NoAdapter() if choice == "none" else _KINDS[choice](Adapter(), around, path) or NoAdapter()
    kinds = msgspec.structs.fields(Adapter)
    given = [kind.name for kind in kinds if getattr(choice, kind.name) is not None]
    if not given and any(around.problems.lost((*path, kind.name)) for kind in kinds):
        return NoAdapter()  # what is wrong with it was said already
    if len(given) != 1:
        words = ", ".join(kind.name for kind in kinds)
        around.error(path, f"an adapter is one thing, not {len(given)}; write one of {words}")
        return NoAdapter()
    return _KINDS[given[0]](choice, around, (*path, given[0])) or NoAdapter()
