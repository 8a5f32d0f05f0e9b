"""Check the names that a topology gives.

Nodes (guests, routers, switches) share one name space, because an endpoint is written ``node:interface``; networks have
their own, and may be called almost anything ("Production Network VLAN 16").
"""

from __future__ import annotations

import re
from typing import Final

from vnet.topology.adapter_kinds.names import INTERFACE_NAME
from vnet.topology.model import BondMember, Nic, SubInterface, Topology
from vnet.topology.problems import Path, Problems
from vnet.topology.shape import numbered

GOOD_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
"""What guests, routers, switches and plugs may be called."""
_LAB: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
_NETWORK: Final = re.compile(r"[^\s:/\x00-\x1f\x7f](?:[^:/\x00-\x1f\x7f]{0,78}[^\s:/\x00-\x1f\x7f])?")
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_KEPT_NODES: Final = {"host": "the machine that vnet runs on"}
_KEPT_NICS: Final = {"lo": "the loopback interface", "dhcp": "a network's DHCP server"}


def check_names(model: Topology, problems: Problems) -> None:
    """Check every name of the topology."""
    if not _LAB.fullmatch(model.name):
        text = f"{model.name[:60]!r} cannot be a lab's name; use up to 48 letters, digits, - and _"
        problems.error("bad-name", ("name",), text)
    for name in model.networks:
        if not _NETWORK.fullmatch(name):
            text = f"{name[:90]!r} cannot be a network's name; use up to 80 characters without : and /"
            problems.error("bad-name", ("networks", name), text, key=True)
    _check_nodes(model, problems)
    _check_namespaces(model, problems)
    for guest_name, guest in model.guests.items():
        for index, nic in numbered(guest.nics) if guest is not None else ():
            if isinstance(nic, Nic) and nic.name is not None:
                _check_nic(nic.name, ("guests", guest_name, "nics", index, "name"), problems)
            bond = nic.bond if isinstance(nic, Nic) else None
            for member, each in numbered(bond.members) if bond is not None else ():
                if isinstance(each, BondMember) and each.name is not None:
                    _check_nic(each.name, ("guests", guest_name, "nics", index, "bond", "members", member, "name"), problems)
            for key, sub in nic.vlans.items() if isinstance(nic, Nic) else ():
                if isinstance(sub, SubInterface) and sub.name is not None:
                    _check_nic(sub.name, ("guests", guest_name, "nics", index, "vlans", key, "name"), problems)


def _check_nodes(model: Topology, problems: Problems) -> None:
    seen: dict[str, str] = {}
    for kind, names in (("router", model.routers), ("switch", model.switches), ("guest", model.guests)):
        section = "switches" if kind == "switch" else f"{kind}s"
        for name in names:
            path: Path = (section, name)
            if not GOOD_NAME.fullmatch(name):
                text = f"{name[:80]!r} cannot be a {kind}'s name; use up to 63 letters, digits, - and _"
                problems.error("bad-name", path, text, key=True)
            elif name in _KEPT_NODES:
                problems.error("bad-name", path, f"{name!r} means {_KEPT_NODES[name]}; choose another name", key=True)
            elif name in seen:
                text = f"a {seen[name]} is called {name!r} already; guests, routers and switches share their names"
                problems.error("duplicate-name", path, text, key=True)
            seen.setdefault(name, kind)


def _check_namespaces(model: Topology, problems: Problems) -> None:
    owners: dict[str, str] = {}
    for name, guest in model.guests.items():
        if guest is None:
            continue
        path: Path = ("guests", name, "namespace")
        if guest.kind != "namespace":
            if guest.namespace is not None and not problems.blamed(("guests", name, "kind")):
                text = f"guest {name!r} is {guest.kind}, so it has no namespace; add kind: namespace"
                problems.error("bad-namespace", path, text, key=True)
            continue
        namespace = guest.namespace or f"{model.name}-{name}"
        if not _NAMESPACE.fullmatch(namespace):
            text = f"{namespace[:140]!r} cannot be a namespace's name; use up to 128 letters, digits, -, _ and ."
            problems.error("bad-namespace", path, text)
        elif namespace in owners:
            text = f"guest {owners[namespace]!r} is in namespace {namespace!r} already; choose another"
            problems.error("duplicate-name", path, text)
        owners.setdefault(namespace, name)


def _check_nic(name: str, path: Path, problems: Problems) -> None:
    if not INTERFACE_NAME.fullmatch(name):
        text = f"{name[:40]!r} cannot be a NIC's name; use up to 15 letters, digits, -, _ and ., a letter first"
        problems.error("bad-name", path, text)
    elif name in _KEPT_NICS:
        problems.error("bad-name", path, f"{name!r} means {_KEPT_NICS[name]}; choose another name")
