"""Check how switches are joined: no loops, no network cut in two, no payload too large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from vnet.topology.draft import Draft
from vnet.topology.problems import Path
from vnet.topology.resolved import ResolvedTopology

Rule: TypeAlias = Callable[[Draft, ResolvedTopology], None]
_Groups: TypeAlias = dict[str, str]
"""Each switch's group, by the name of one of its members."""


def _find(groups: _Groups, switch: str) -> str:
    while groups[switch] != switch:
        switch = groups[switch]
    return switch


def _join(groups: _Groups, a: str, b: str) -> bool:
    """Put two switches in one group; True if they were in one already."""
    a, b = _find(groups, a), _find(groups, b)
    groups[a] = b
    return a == b


def _link_paths(draft: Draft, resolved: ResolvedTopology) -> list[Path]:
    """Return where each resolved link stands; links that could not be resolved have no place in the list."""
    if len(resolved.links) == len(draft.model.links):
        return [("links", index) for index in range(len(resolved.links))]
    return [("links",)] * len(resolved.links)


def no_loops(draft: Draft, resolved: ResolvedTopology) -> None:
    """Frames would circle for ever: spanning tree is not built yet, so a loop is an error even with stp set.

    A loop counts where all its links carry the same VLAN; each VLAN is a tree of its own.
    """
    for link, path, vids in _closing_links(draft, resolved):
        a, b = resolved.links[link].a.switch, resolved.links[link].b.switch
        shown = "every VLAN" if vids is None else f"VLAN {min(vids)}"
        stp = any(switch.stp for switch in resolved.switches.values())
        hint = "stp is not built yet, so it does not help; " if stp else ""
        text = (
            f"this link closes a loop between {a!r} and {b!r} for {shown}, and frames would circle in it for ever; "
            f"{hint}remove a link of the loop"
        )
        draft.problems.error("loop", path, text)


def _closing_links(draft: Draft, resolved: ResolvedTopology) -> list[tuple[int, Path, frozenset[int] | None]]:
    """List the links that close a loop for some VLAN; None stands for all VLANs."""
    everywhere: _Groups = {name: name for name in resolved.switches}
    if not any(_join(everywhere, link.a.switch, link.b.switch) for link in resolved.links):
        return []  # without a loop of cables there is none for any VLAN
    paths = _link_paths(draft, resolved)
    members = [frozenset(resolved.switch_port(link.a).members) for link in resolved.links]
    closing: dict[int, set[int]] = {}
    for vid in sorted(frozenset().union(*members)):
        groups: _Groups = {name: name for name in resolved.switches}
        for index, link in enumerate(resolved.links):
            if vid in members[index] and _join(groups, link.a.switch, link.b.switch):
                closing.setdefault(index, set()).add(vid)
    return [(index, paths[index], None if len(vids) == 4094 else frozenset(vids)) for index, vids in sorted(closing.items())]


def networks_whole(draft: Draft, resolved: ResolvedTopology) -> None:
    """The switches that have ports of a network are joined by links that carry its VLAN."""
    if len(resolved.switches) < 2 or draft.problems.lost(("links",)) or draft.problems.has_error("unknown-switch"):
        return
    by_vid = {vid: name for name, vid in draft.vids.items()}
    where: dict[int, dict[str, str]] = {}
    for switch in resolved.switches.values():
        for port in switch.ports:
            if port.peer != "link" and port.pvid is not None:
                where.setdefault(port.pvid, {}).setdefault(switch.name, port.name)
    for node, interface in resolved.endpoints():
        if interface.vid is not None:
            for ref in interface.ports:
                where.setdefault(interface.vid, {}).setdefault(ref.switch, f"{node}:{interface.name}")
    for vid, ports in where.items():
        groups: _Groups = {name: name for name in resolved.switches}
        joined: _Groups = dict(groups)
        for link in resolved.links:
            _join(joined, link.a.switch, link.b.switch)
            if vid in resolved.switch_port(link.a).members:
                _join(groups, link.a.switch, link.b.switch)
        first = next(iter(ports))
        cut = next((name for name in ports if _find(groups, name) != _find(groups, first)), None)
        if cut is None:
            continue
        network = by_vid.get(vid, "")
        what = f"network {network!r} (VLAN {vid})"
        path: Path = ("networks", network)
        sides = f"{ports[first]} is on switch {first!r}, {ports[cut]} on {cut!r}"
        if _find(joined, first) != _find(joined, cut):
            text = f"{what} is cut in two: {sides}, and no link joins them; add one to links:"
            draft.problems.error("switch-island", path, text, key=True)
            continue
        blamed = _blamed_link(draft, resolved, vid, groups)
        text = f"{what} is cut in two: {sides}, and this link does not carry VLAN {vid}; add it to the trunk"
        draft.problems.error("vlan-not-carried", blamed, text)


def _blamed_link(draft: Draft, resolved: ResolvedTopology, vid: int, groups: _Groups) -> Path:
    """Find a link between two parts of a VLAN that leaves it out."""
    for path, link in zip(_link_paths(draft, resolved), resolved.links, strict=True):
        carried = vid in resolved.switch_port(link.a).members
        if not carried and _find(groups, link.a.switch) != _find(groups, link.b.switch):
            return path
    return ("links",)


def payloads_fit(draft: Draft, resolved: ResolvedTopology) -> None:
    """No NIC sends larger packets than its switch forwards."""
    for (node, name), interface in draft.interfaces.items():
        switches = [resolved.switches[cable.port.switch] for cable in interface.cables]
        switch = min(switches, key=lambda each: each.mtu, default=None)
        if switch is not None and interface.mtu > switch.mtu:
            text = f"{interface.mtu} is more than the {switch.mtu} that switch {switch.name!r} forwards; raise its mtu"
            draft.problems.error("mtu", (*draft.paths[node, name], "mtu"), text)


def spanning_tree(draft: Draft, resolved: ResolvedTopology) -> None:
    """Say that spanning tree does nothing yet."""
    for name, switch in resolved.switches.items():
        if switch.stp is not None:
            text = "spanning tree is not built yet; the key has no effect (there is no loop without it)"
            if not draft.problems.has_error("loop"):
                draft.problems.warning("stp-not-built", ("switches", name, "stp"), text)


SWITCHING_RULES: Final[tuple[Rule, ...]] = (no_loops, networks_whole, payloads_fit, spanning_tree)
