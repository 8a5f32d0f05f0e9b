"""Drawings: complete, valid, and the same every time."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from vnet.errors import UsageError
from vnet.topology import load_topology, parse_topology
from vnet.topology.graph import FORMATS, cable_graph, draw, network_graph, partitions, path_between

SHIPPED = sorted((Path(__file__).parents[3] / "topologies").glob("*.yaml"))
SVG = "{http://www.w3.org/2000/svg}"

TWISTED = """
name: twisted
networks:
  {a: {subnet: 10.0.1.0/24}, b: {subnet: 10.0.2.0/24, dhcp: {}}, c: {subnet: 10.0.3.0/24}, "d <&> \\"d\\"": {vlan: 7}, e: }
routers:
  r1: {interfaces: {a: 10.0.1.1, b: 10.0.2.1, c: 10.0.3.1}}
  r2: {interfaces: {a: 10.0.1.2, c: {address: 10.0.3.2, rate: 10mbit}}}
switches: {s1: , s2: , s3: }
links: [{between: [s1, s2]}, {between: [s1, s3], trunk: [a, b, 300-310], native: c, rate: 1gbit}]
guests:
  two: {nics: [b, {network: "d <&> \\"d\\"", rate: 10mbit, latency: 3ms, loss: 5%}, e]}
  three: {kind: namespace, nics: [{network: a, address: 10.0.1.77}, c], switch: s2}
  tagged: {nics: [{trunk: [a, b]}]}
  none:
"""


def svg_texts(svg: str) -> list[str]:
    """The text elements with what was cut off (their titles) put back."""
    texts = []
    for element in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        title = element.find(f"{SVG}title")
        texts.append((title.text if title is not None else element.text) or "")
    return texts


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_an_svg_shows_everybody(path: Path) -> None:
    lab = load_topology(path)
    texts = svg_texts(draw(lab, "svg"))
    for name in (lab.name, *lab.networks, *lab.switches, *lab.routers):
        assert name in texts
    for guest in lab.guests.values():
        assert guest.name in [text.removesuffix(f"  ({guest.kind})") for text in texts]
    joined = "\n".join(texts)
    for _, interface in lab.endpoints():
        assert all(str(address.ip) in joined for address in interface.addresses)
    for network in lab.networks.values():
        assert f"VLAN {network.vid}" in joined


@pytest.mark.parametrize(
    "text", [TWISTED, "name: empty\n", "name: alone\nguests: {a: }\n"], ids=["twisted", "empty", "alone"]
)
def test_any_topology_can_be_drawn(text: str) -> None:
    lab = parse_topology(text)
    for format in FORMATS:
        drawn = draw(lab, format)
        assert drawn == draw(parse_topology(text), format)
        assert lab.name in drawn or format == "mermaid"
        assert drawn.endswith("\n")
    root = ElementTree.fromstring(draw(lab, "svg"))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for rect in list(root.iter(f"{SVG}rect"))[1:]:
        assert 0 <= float(rect.attrib["x"]) <= float(rect.attrib["x"]) + float(rect.attrib["width"]) <= width
        assert 0 <= float(rect.attrib["y"]) <= float(rect.attrib["y"]) + float(rect.attrib["height"]) <= height


def text_extent(element: ElementTree.Element) -> tuple[float, float]:
    """From where to where a text reaches in DejaVu Sans, whose letters are wide."""
    each = {"name": 7.6, "small": 5.8}.get(element.attrib.get("class", "").split(" ")[0], 6.4)
    x, width = float(element.attrib["x"]), each * len("".join(element.itertext()))
    title = element.find(f"{SVG}title")
    width -= each * len(title.text or "") if title is not None else 0
    start = {"end": x - width, "middle": x - width / 2}.get(element.attrib.get("text-anchor", ""), x)
    return start, start + width


CROWDED = """
name: crowded
networks:
  far-away: {vlan: 1, subnet: 100.100.100.0/24, dhcp: {}}
  b: {subnet: 10.0.2.0/24}
  c: {subnet: 10.0.3.0/24}
  d: {subnet: 100.100.200.0/24, dhcp: {}}
routers:
  one: {interfaces: {far-away: 100.100.100.251, b: 10.0.2.1, c: 10.0.3.1, d: 100.100.200.251}}
  another-one: {interfaces: {far-away: 100.100.100.252, d: [100.100.200.252, 100.100.200.253]}}
  THIRD: {interfaces: {b: 10.0.2.3, d: 100.100.200.254}}
"""


@pytest.mark.parametrize("text", [*(path.read_text() for path in SHIPPED), TWISTED, CROWDED])
def test_no_text_is_printed_over_another(text: str) -> None:
    root = ElementTree.fromstring(draw(parse_topology(text), "svg"))
    by_line: dict[str, list[tuple[float, float]]] = {}
    for element in root.iter(f"{SVG}text"):
        by_line.setdefault(element.attrib["y"], []).append(text_extent(element))
    for line in by_line.values():
        ordered = sorted(line)
        assert all(before[1] < after[0] for before, after in zip(ordered, ordered[1:], strict=False))


def test_boxes_do_not_overlap() -> None:
    root = ElementTree.fromstring(draw(parse_topology(TWISTED), "svg"))
    boxes = [
        tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        for rect in root.iter(f"{SVG}rect")
        if rect.attrib.get("class") in ("guest", "namespace", "router", "switch")
    ]
    assert len(boxes) == 4 + 2 + 3
    for index, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[index + 1 :]:
            apart = (
                x + width <= other_x or other_x + other_width <= x or y + height <= other_y or other_y + other_height <= y
            )
            assert apart


def test_text() -> None:
    text = draw(load_topology(SHIPPED[0].parent / "infrastructure-in-a-box.yaml"), "text")
    assert "dmz  VLAN 20, 172.17.1.0/24, DHCP 172.17.1.32-172.17.1.253\n" in text
    assert re.search(r"^  web +172\.17\.1\.26 \(DHCP\) +core:\d+$", text, re.MULTILINE)
    assert re.search(r"^  perimeter -> dmz +203\.0\.113\.2 ", text, re.MULTILINE)
    assert "    -- edge  trunk: office\n" in text


def test_names_are_quoted_in_dot_and_mermaid() -> None:
    lab = parse_topology(TWISTED)
    assert r'"network d <&> \"d\""' in draw(lab, "dot")
    assert "d &lt;&amp;&gt; &quot;d&quot;" in draw(lab, "mermaid")


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match="choose one of svg, dot, mermaid, text"):
        draw(parse_topology("name: lab\n"), "png")


def test_graphs() -> None:
    lab = parse_topology(TWISTED)
    cables = cable_graph(lab)
    assert cables.nodes["r1"]["kind"] == "router"
    assert cables.nodes["b:dhcp"]["kind"] == "dhcp"
    assert cables.edges["s1", "s2"]["link"] == "s1-s2"
    assert path_between(lab, "three", "two") == ["three", "s2", "s1", "two"]
    assert path_between(lab, "none", "two") is None
    with pytest.raises(UsageError, match="no node 'four'"):
        path_between(lab, "four", "two")
    assert network_graph(lab).edges["router r1", "network a"]["interface"] == "a"
    assert partitions(lab) == [["a", "b", "c", 'd <&> "d"', "e"]]
    apart = parse_topology("name: lab\nnetworks: {a: , b: , c: }\nguests: {x: {nics: [c, a]}, y: {nics: [b]}}\n")
    assert partitions(apart) == [["a", "c"], ["b"]]
