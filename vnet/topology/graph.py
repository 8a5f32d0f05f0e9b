"""The topology as a graph, and as a drawing: SVG, Graphviz DOT, Mermaid or text.

Two graphs matter. The *cable graph* has switches, guests, routers and DHCP servers as nodes and cables as edges; the
*network graph* joins networks with the routers and guests on them. Drawings show the second, because it is what people think
in, with the switches beneath.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from vnet.errors import UsageError
from vnet.topology.describe import (
    address_text,
    cable_text,
    guest_networks,
    network_text,
    policy_text,
    vlans_text,
)
from vnet.topology.drawing import draw_svg
from vnet.topology.resolved import ResolvedNetwork, ResolvedTopology

if TYPE_CHECKING:
    from networkx import Graph

Format: TypeAlias = Literal["svg", "dot", "mermaid", "text"]


def cable_graph(resolved: ResolvedTopology) -> Graph[str]:
    """Make a graph of everything that is plugged in; its nodes have a ``kind``, its edges two endpoints ``a``, ``b``."""
    import networkx  # takes longer to import than most labs take to resolve

    graph: Graph[str] = networkx.Graph()
    for name in resolved.switches:
        graph.add_node(name, kind="switch")
    for link in resolved.links:
        graph.add_edge(link.a.switch, link.b.switch, a=str(link.a), b=str(link.b), link=link.name)
    for kind, names in (("guest", resolved.guests), ("router", resolved.routers)):
        for name in names:
            graph.add_node(name, kind=kind)
    for node, _, cable in resolved.cables():
        graph.add_edge(node, cable.port.switch, a=f"{node}:{cable.name}", b=str(cable.port))
    for network in resolved.networks.values():
        if network.dhcp is not None:
            graph.add_node(f"{network.name}:dhcp", kind="dhcp")
            graph.add_edge(
                f"{network.name}:dhcp", network.dhcp.port.switch, a=f"{network.name}:dhcp", b=str(network.dhcp.port)
            )
    return graph


def network_graph(resolved: ResolvedTopology) -> Graph[str]:
    """Make a graph whose nodes are ``network NAME``, ``router NAME`` and ``guest NAME``, and whose edges are interfaces."""
    import networkx

    graph: Graph[str] = networkx.Graph()
    for name in resolved.networks:
        graph.add_node(f"network {name}", kind="network")
    for kind, names in (("router", resolved.routers), ("guest", resolved.guests)):
        for name in names:
            graph.add_node(f"{kind} {name}", kind=kind)
    for node, interface in resolved.endpoints():
        kind = "router" if node in resolved.routers else "guest"
        for network in guest_networks(resolved, interface):
            graph.add_edge(f"{kind} {node}", f"network {network}", interface=interface.name)
    return graph


def partitions(resolved: ResolvedTopology) -> list[list[str]]:
    """List the parts of the lab that no network, router or guest joins, each as names of networks in file order."""
    import networkx

    order = {f"network {name}": index for index, name in enumerate(resolved.networks)}
    parts = [
        sorted(part & order.keys(), key=order.__getitem__) for part in networkx.connected_components(network_graph(resolved))
    ]
    named = [[name.removeprefix("network ") for name in part] for part in parts if part]
    return sorted(named, key=lambda part: order[f"network {part[0]}"])


def path_between(resolved: ResolvedTopology, a: str, b: str) -> list[str] | None:
    """Return the nodes of the cable graph on the way from *a* to *b*, both included; None if no cable joins them."""
    import networkx

    graph = cable_graph(resolved)
    for name in (a, b):
        if name not in graph:
            raise UsageError(f"there is no node {name!r} in this lab")
    return list(networkx.shortest_path(graph, a, b)) if networkx.has_path(graph, a, b) else None


def draw(resolved: ResolvedTopology, format: str = "svg") -> str:
    """Draw the topology; raise ``UsageError`` for a format that is not in ``FORMATS``. The text ends with a newline."""
    if format not in _DRAWERS:
        raise UsageError(f"unknown format {format!r}; choose one of {', '.join(_DRAWERS)}")
    return _DRAWERS[format](resolved)


def _draw_text(resolved: ResolvedTopology) -> str:
    lines = [resolved.name]
    for network in resolved.networks.values():
        lines += ["", f"{network.name}  {network_text(network)}"]
        lines += _members(resolved, network)
    trunks = [(n, i) for n, i in resolved.endpoints() if i.network is None and i.vid is None]
    if trunks:
        lines += ["", "trunks"]
        for node, interface in trunks:
            lines.append(f"  {node}:{interface.name}  {vlans_text(resolved, resolved.switch_port(interface.port))}")
    lines += ["", "switches"]
    for switch in resolved.switches.values():
        lines.append(f"  {switch.name}  {len(switch.ports)} ports")
        for link in resolved.links:
            if switch.name == link.a.switch:
                about = ", ".join(filter(None, (vlans_text(resolved, resolved.switch_port(link.a)), cable_text(link.cable))))
                lines.append(f"    -- {link.b.switch}  {about}")
    return "\n".join(lines) + "\n"


def _members(resolved: ResolvedTopology, network: ResolvedNetwork) -> list[str]:
    rows: list[tuple[str, str, str]] = []
    if network.dhcp is not None:
        rows.append(("(dhcp)", str(network.dhcp.server), str(network.dhcp.port)))
    for node, interface in resolved.endpoints():
        if interface.network != network.name:
            continue
        mark = node
        if node in resolved.routers:
            others = [i.name for i in resolved.routers[node].interfaces if i.name != network.name]
            mark = f"{node} -> {', '.join(others)}" if others else node
        elif resolved.guests[node].kind != "emulated":
            mark = f"{node} ({resolved.guests[node].kind})"
        rows.append((mark, address_text(resolved, interface), ", ".join(map(str, interface.ports))))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    return [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]


def _draw_dot(resolved: ResolvedTopology) -> str:
    quote = _dot_quote
    lines = [
        f"graph {quote(resolved.name)} {{",
        '  graph [layout=neato, overlap=false, splines=true, fontname="sans-serif"];',
    ]
    lines += ['  node [fontname="sans-serif", fontsize=11];', '  edge [fontname="sans-serif", fontsize=9];']
    for network in resolved.networks.values():
        label = f"{network.name}\n{network_text(network)}"
        lines.append(
            f"  {quote('network ' + network.name)} [shape=ellipse, style=filled, fillcolor=ivory, label={quote(label)}];"
        )
    for name, router in resolved.routers.items():
        label = "\n".join(filter(None, (name, policy_text(router))))
        lines.append(f"  {quote(name)} [shape=diamond, style=filled, fillcolor=mistyrose, label={quote(label)}];")
    for name, guest in resolved.guests.items():
        fill = "white" if guest.kind == "emulated" else "lightgrey"
        lines.append(f"  {quote(name)} [shape=box, style=filled, fillcolor={fill}, label={quote(name)}];")
    for node, interface in resolved.endpoints():
        for network_name in guest_networks(resolved, interface):
            label = address_text(resolved, interface) if interface.network else "tagged"
            lines.append(f"  {quote(node)} -- {quote('network ' + network_name)} [label={quote(label)}];")
    return "\n".join([*lines, "}"]) + "\n"


def _dot_quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _draw_mermaid(resolved: ResolvedTopology) -> str:
    ids: dict[tuple[str, str], str] = {}

    def identify(kind: str, name: str) -> str:
        return ids.setdefault((kind, name), f"{kind[0]}{len(ids)}")

    lines = ["flowchart TB"]
    for network in resolved.networks.values():
        label = _mermaid_quote(f"{network.name}\n{network_text(network)}")
        lines.append(f"  {identify('network', network.name)}([{label}])")
    for name, router in resolved.routers.items():
        label = _mermaid_quote("\n".join(filter(None, (name, policy_text(router)))))
        lines.append(f"  {identify('router', name)}{{{{{label}}}}}")
    for name, guest in resolved.guests.items():
        label = _mermaid_quote(name if guest.kind == "emulated" else f"{name}\n({guest.kind})")
        lines.append(f"  {identify('guest', name)}[{label}]")
    for node, interface in resolved.endpoints():
        kind = "router" if node in resolved.routers else "guest"
        for network_name in guest_networks(resolved, interface):
            label = _mermaid_quote(address_text(resolved, interface) if interface.network else "tagged")
            lines.append(f"  {identify(kind, node)} ---|{label}| {identify('network', network_name)}")
    return "\n".join(lines) + "\n"


def _mermaid_quote(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
    return '"' + escaped.replace("\n", "<br/>") + '"'


_DRAWERS: Final[Mapping[str, Callable[[ResolvedTopology], str]]] = {
    "svg": draw_svg,
    "dot": _draw_dot,
    "mermaid": _draw_mermaid,
    "text": _draw_text,
}
FORMATS: Final = tuple(_DRAWERS)
