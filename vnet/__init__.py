"""A virtual network fabric in user space: switches, guests and services, live or in virtual time.

``open_lab`` runs a topology; within ``simulate`` it runs in virtual time.
"""

from vnet.errors import (
    HostError,
    LabError,
    NetworkError,
    NoAnswer,
    SimulationStalled,
    TopologyError,
    Unreachable,
    UsageError,
    VnetError,
    WireError,
)
from vnet.guests.base import Guest, PingReply, ProbeReply, Verdict
from vnet.links.link import Link
from vnet.runtime.clock import simulate
from vnet.runtime.lab import Lab, open_lab
from vnet.topology import ResolvedTopology, check_topology, load_topology, parse_topology

__all__ = [
    "Guest",
    "HostError",
    "Lab",
    "LabError",
    "Link",
    "NetworkError",
    "NoAnswer",
    "PingReply",
    "ProbeReply",
    "ResolvedTopology",
    "SimulationStalled",
    "TopologyError",
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
