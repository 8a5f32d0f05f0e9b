"""``vxlan``, ``geneve`` and ``udp``: the network goes on at other machines, its frames in UDP datagrams."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, final

from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.vocabulary import AddressText, Strict, about
from vnet.wire.tunnels import GENEVE_PORT, MAX_VNI, VXLAN_PORT

if TYPE_CHECKING:
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path

Address = IPv4Address | IPv6Address
MOST_REMOTES: Final = 64
"""Every broadcast goes to each of them."""


class _Remote(Strict, frozen=True, kw_only=True):
    """Where the other ends are."""

    remote: Annotated[AddressText | list[AddressText], about("The other end, or a list of them.")]
    local: Annotated[AddressText | None, about("The machine's address to use; not given: any.")] = None
    mtu: Annotated[int | None, about("Largest IP packet of guests that is carried; not given: 1500.")] = None


class Vxlan(_Remote, frozen=True, kw_only=True):
    """A VXLAN tunnel (RFC 7348)."""

    vni: Annotated[int, about("The network's number in the tunnel, 0 to 16777215.")]
    port: Annotated[int | None, about("The UDP port at all ends; not given: 4789.")] = None


class Geneve(_Remote, frozen=True, kw_only=True):
    """A GENEVE tunnel (RFC 8926)."""

    vni: Annotated[int, about("The network's number in the tunnel, 0 to 16777215.")]
    port: Annotated[int | None, about("The UDP port at all ends; not given: 6081.")] = None


class Udp(Strict, frozen=True, kw_only=True):
    """Frames as they are, one in a datagram, between two transport addresses."""

    local: Annotated[str, about("Address and port of this end, such as 127.0.0.1:5001.")]
    remote: Annotated[str, about("Address and port of the other end.")]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSpec(AdapterSpec):
    """A tunnel with *word* ``vxlan`` or ``geneve``; ``local`` is None for any address of the machine."""

    kind: ClassVar[str] = "tunnel"
    word: str
    vni: int
    remotes: tuple[Address, ...]
    port: int
    local: Address | None
    mtu: int

    def describe(self) -> str:
        """Say which tunnel to whom."""
        return f"{self.word} {self.vni} to {', '.join(str(each) for each in self.remotes)}"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UdpSpec(AdapterSpec):
    """A pair of transport addresses."""

    kind: ClassVar[str] = "udp"
    local: tuple[Address, int]
    remote: tuple[Address, int]

    def describe(self) -> str:
        """Say from where to where."""
        return f"udp {_text(self.local)} to {_text(self.remote)}"


def resolve_tunnel(word: str, model: Vxlan | Geneve, around: Surroundings, path: Path) -> TunnelSpec | None:
    """Read a VXLAN or GENEVE tunnel."""
    reader = around.reader
    texts = [model.remote] if isinstance(model.remote, str) else model.remote
    read = [reader.address(text, (*path, "remote")) for text in texts]
    remotes = tuple(dict.fromkeys(address for address in read if address is not None))
    local = reader.address(model.local, (*path, "local"))
    vni = reader.whole(model.vni, (*path, "vni"), 0, MAX_VNI, 0)
    port = reader.whole(model.port, (*path, "port"), 1, 65535, VXLAN_PORT if word == "vxlan" else GENEVE_PORT)
    mtu = reader.whole(model.mtu, (*path, "mtu"), 68, 9202, 1500)
    if not texts or len(texts) > MOST_REMOTES:
        around.error((*path, "remote"), f"a tunnel has 1 to {MOST_REMOTES} other ends, not {len(texts)}")
    versions = {address.version for address in (*remotes, *([local] if local else []))}
    if len(versions) > 1:
        around.error((*path, "remote"), "all ends of a tunnel have addresses of one IP version")
    if not remotes or len(versions) > 1:
        return None
    return TunnelSpec(word=word, vni=vni, remotes=remotes, port=port, local=local, mtu=mtu)


def resolve_udp(model: Udp, around: Surroundings, path: Path) -> UdpSpec | None:
    """Read two transport addresses."""
    local = _transport_address(model.local, around, (*path, "local"))
    remote = _transport_address(model.remote, around, (*path, "remote"))
    if local is None or remote is None:
        return None
    if local[0].version != remote[0].version:
        around.error((*path, "remote"), "both ends have addresses of one IP version")
        return None
    return UdpSpec(local=local, remote=remote)


def _transport_address(text: str, around: Surroundings, path: Path) -> tuple[Address, int] | None:
    host, colon, port = text.strip().rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    number = around.reader.port(port)
    if not number or not colon or (":" in host) != ("[" in text):
        around.error(path, f"{text[:60]!r} is not an address with a port; write one such as 127.0.0.1:5001 or [::1]:5001")
        return None
    address = around.reader.address(host, path)
    return None if address is None else (address, number)


def _text(end: tuple[Address, int]) -> str:
    address, port = end
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
