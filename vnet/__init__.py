"""A virtual network fabric in user space: switches, guests and services, live or in virtual time.

``open_lab`` runs a topology; within ``simulate`` it runs in virtual time. Everything public is listed in ``__all__``, and
imported when it is first used: the command line should not wait for what a command does not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vnet.errors import (
        HostError,
        LabError,
        NetworkError,
        NoAnswer,
        PeerError,
        SimulationStalled,
        TopologyError,
        UnknownName,
        Unreachable,
        UsageError,
        VnetError,
        WireError,
    )
    from vnet.guests.base import Guest, PingReply, ProbeReply, Verdict
    from vnet.links.link import Link
    from vnet.runtime.clock import simulate
    from vnet.runtime.faults import Fault
    from vnet.runtime.lab import Lab
    from vnet.runtime.matrix import Reachability
    from vnet.runtime.opening import open_lab
    from vnet.topology import ResolvedTopology, check_topology, load_topology, parse_topology

__all__ = [
    "Fault",
    "Guest",
    "HostError",
    "Lab",
    "LabError",
    "Link",
    "NetworkError",
    "NoAnswer",
    "PeerError",
    "PingReply",
    "ProbeReply",
    "Reachability",
    "ResolvedTopology",
    "SimulationStalled",
    "TopologyError",
    "UnknownName",
    "Unreachable",
    "UsageError",
    "Verdict",
    "VnetError",
    "WireError",
    "check_topology",
    "load_topology",
    "open_lab",
    "parse_topology",
    "simulate",
]

_HOMES: Final = {
    "vnet.guests.base": ("Guest", "PingReply", "ProbeReply", "Verdict"),
    "vnet.links.link": ("Link",),
    "vnet.runtime.clock": ("simulate",),
    "vnet.runtime.faults": ("Fault",),
    "vnet.runtime.lab": ("Lab",),
    "vnet.runtime.matrix": ("Reachability",),
    "vnet.runtime.opening": ("open_lab",),
    "vnet.topology": ("ResolvedTopology", "check_topology", "load_topology", "parse_topology"),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'vnet' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF.get(name, "vnet.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
