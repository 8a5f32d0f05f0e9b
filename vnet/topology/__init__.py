"""Topology files: read, check, resolve, draw."""

from vnet.errors import Problem, TopologyError
from vnet.topology.loader import check_text, check_topology, load_topology, parse_topology
from vnet.topology.resolve import resolve
from vnet.topology.resolved import ResolvedTopology

__all__ = [
    "Problem",
    "ResolvedTopology",
    "TopologyError",
    "check_text",
    "check_topology",
    "load_topology",
    "parse_topology",
    "resolve",
]
