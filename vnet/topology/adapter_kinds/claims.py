"""What a way out has of the machine for itself: two that want the same thing cannot be open at once."""

from __future__ import annotations

import os
from collections.abc import Iterable

from vnet.topology.adapter_kinds.bridge import BridgeSpec
from vnet.topology.adapter_kinds.loopback import LoopbackSpec
from vnet.topology.adapter_kinds.pcap import PcapSpec, same_file
from vnet.topology.adapter_kinds.sockets import DgramSpec, StreamSpec
from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.adapter_kinds.tap import FdSpec, TapSpec
from vnet.topology.adapter_kinds.tunnels import TunnelSpec, UdpSpec
from vnet.topology.adapter_kinds.user import UserSpec
from vnet.topology.adapter_kinds.vde import VdeSpec
from vnet.topology.resolved import ResolvedNetwork


def compete(one: AdapterSpec, other: AdapterSpec) -> bool:
    """Tell whether two ways out want the same thing: both interfaces of a name, addresses, a NIC, a socket's place."""
    match one, other:
        case TunnelSpec(), TunnelSpec() if (one.word, one.local, one.port) == (other.word, other.local, other.port):
            return one.vni == other.vni  # tunnels share their socket
        case BridgeSpec(), BridgeSpec() if "macvtap" not in (one.mode, other.mode):
            return False  # packet sockets of one NIC do not mind each other
    return not claims(one).isdisjoint(claims(other))


def claims(spec: AdapterSpec) -> frozenset[tuple[str, object]]:
    """List what a way out wants for itself, as kinds and names."""
    match spec:
        case LoopbackSpec():
            return frozenset({("interface", spec.name), *(("address", each.ip) for each in spec.addresses)})
        case TapSpec():
            return frozenset({("interface", spec.name)})
        case BridgeSpec():
            return frozenset({("interface", spec.nic)})
        case FdSpec():
            return frozenset({("fd", spec.fd)})
        case StreamSpec():
            return frozenset({("socket", str(spec.place))})
        case DgramSpec():
            return frozenset({("socket", str(spec.local))})
        case VdeSpec():
            return frozenset({("directory", os.path.realpath(spec.directory))})
        case TunnelSpec():
            return frozenset({("port", spec.port)})
        case UdpSpec():
            return frozenset({("port", spec.local[1])})
        case UserSpec():
            return frozenset(("listen", each.place) for each in spec.forwards)
        case _:
            return frozenset()  # a file to record is begun by an adapter once the one before is closed


def taken(spec: AdapterSpec, others: Iterable[ResolvedNetwork]) -> str:
    """Say what another network of the lab has already that this way out wants, or nothing."""
    for other in others:
        theirs = other.adapter
        if (
            isinstance(spec, LoopbackSpec | TapSpec)
            and isinstance(theirs, LoopbackSpec | TapSpec)
            and spec.name == theirs.name
        ):
            return f"the interface {spec.name} is that of network {other.name!r} already; give it another name"
        if not isinstance(spec, PcapSpec) or not isinstance(theirs, PcapSpec) or not spec.record or not theirs.record:
            continue
        if same_file(spec.record, theirs.record) and not spec.record.startswith("/dev/"):
            return f"network {other.name!r} records into {theirs.record} already; record into another file"
    return ""
