"""Draw a topology as a self-contained SVG: readable on paper, in a browser, without fonts or scripts of its own.

Each network is a band in its own colour, with its guests in it. Routers stand in the gaps between bands, with a line to each
of their networks: straight to the bands next to them, by lanes at the left margin to others. Guests on several networks have
lanes at the right margin. The switches and their links are beneath. The same topology gives the same octets.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, final
from xml.sax.saxutils import escape

from vnet.topology.describe import address_text, cable_text, network_text, policy_text, vlans_text
from vnet.topology.resolved import ResolvedGuest, ResolvedInterface, ResolvedTopology

_BOX: Final = 148
"""Width of a guest's box."""
_GAP: Final = 14
_LINE: Final = 15
_HEAD: Final = 30
_MARGIN: Final = 24
_LANE: Final = 14
_PER_ROW: Final = 6
_ROUTER_WIDTH: Final = 250
_ROUTER_HEIGHT: Final = 46
_BETWEEN: Final = 26
"""From a band to the routers beneath it, and from those to the next band."""
_SWITCH_WIDTH: Final = 150
_SWITCH_HEIGHT: Final = 44
_SWITCH_APART: Final = 190
_BOLD: Final = 7.8
"""Width that a letter of a name takes, on the safe side; fonts differ."""
_SMALL: Final = 6.0
_HUES: Final = (0.58, 0.08, 0.38, 0.78, 0.0, 0.5, 0.92, 0.16)

_STYLE: Final = """
    text { font-family: "DejaVu Sans", "Segoe UI", Helvetica, Arial, sans-serif; font-size: 11px; fill: #1f2933; }
    .title { font-size: 18px; font-weight: bold; }
    .name { font-size: 12px; font-weight: bold; }
    .small { font-size: 10px; fill: #52606d; }
    .guest { fill: #ffffff; stroke: #9aa5b1; }
    .namespace { fill: #eef2f6; stroke: #52606d; stroke-width: 1.5; }
    .router { fill: #fff4f2; stroke: #ba2525; stroke-width: 1.5; }
    .switch { fill: #243b53; stroke: #102a43; }
    .on-switch { fill: #ffffff; }
    .link { stroke: #243b53; stroke-width: 3; fill: none; }
"""


@final
@dataclass(slots=True)
class _Canvas:
    """Collects elements; keeps track of how far they reach."""

    parts: list[str] = field(default_factory=list)
    width: float = 0
    height: float = 0

    def rect(self, x: float, y: float, width: float, height: float, attributes: str, radius: int = 6) -> None:
        size = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.parts.append(f'<rect {size} rx="{radius}" {attributes}/>')
        self._reach(x + width, y + height)

    def text(self, x: float, y: float, text: str, style: str = "", room: float | None = None, anchor: str = "start") -> None:
        shown = text if room is None else _fit(text, room, 7.4 if "name" in style else 5.9 if style == "small" else 6.5)
        kind = f' class="{style}"' if style else ""
        place = "" if anchor == "start" else f' text-anchor="{anchor}"'
        title = f"<title>{escape(text)}</title>" if shown != text else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}"{kind}{place}>{title}{escape(shown)}</text>')
        self._reach(x + (len(shown) * 7 if anchor == "start" else 0), y)

    def path(self, points: Sequence[tuple[float, float]], attributes: str) -> None:
        way = " L".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<path d="M{way}" {attributes}/>')
        for x, y in points:
            self._reach(x, y)

    def dot(self, x: float, y: float, colour: str) -> None:
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="4" fill="{colour}"/>')

    def _reach(self, x: float, y: float) -> None:
        self.width, self.height = max(self.width, x), max(self.height, y)


@final
@dataclass(frozen=True, slots=True)
class _Lane:
    """A line that waits to be drawn: from a router's underside, down by *depth*, and along the left margin to a band."""

    network: str
    x: float
    bottom: float
    depth: float


def _fit(text: str, room: float, each: float) -> str:
    most = max(4, int(room / each))
    return text if len(text) <= most else text[: most - 1] + "…"


def _colours(index: int) -> tuple[str, str]:
    """Return the strong and the pale colour of a network."""
    hue = _HUES[index] if index < len(_HUES) else (index * 0.618034) % 1

    def rgb(lightness: float, saturation: float) -> str:
        return "#" + "".join(f"{round(part * 255):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))

    return rgb(0.38, 0.65), rgb(0.94, 0.7)


def draw_svg(resolved: ResolvedTopology) -> str:
    """Draw the topology."""
    return _Drawing(resolved).draw()


@final
class _Drawing:
    """One drawing, from top to bottom."""

    def __init__(self, resolved: ResolvedTopology) -> None:
        self.resolved = resolved
        self.canvas = _Canvas()
        self.order = _band_order(resolved)
        self.colours = {name: _colours(index) for index, name in enumerate(resolved.networks)}
        self.homes = self._homes()
        far = sum(len(self._far_networks(name)) for name in resolved.routers)
        self.left = _MARGIN + far * _LANE + (_LANE if far else 0)
        widest = max((min(len(guests), _PER_ROW) for guests in self.homes.values()), default=1)
        self.labels = self._far_labels()
        """For each band the routers that reach it by a lane, with their addresses."""
        headers = [self._header_width(name) for name in self.order]
        self.band_width = max([max(3, widest) * (_BOX + _GAP) + _GAP, *headers])
        self.bands: dict[str, tuple[float, float]] = {}
        """Top and bottom of each network's band."""
        self.boxes: dict[str, tuple[float, float]] = {}
        """Right edge and middle of each guest's box."""
        self.right = self.left + self.band_width

    def _homes(self) -> dict[str | None, list[ResolvedGuest]]:
        """Put each guest in the band of its first network; None is for trunks and for guests without NICs."""
        homes: dict[str | None, list[ResolvedGuest]] = {name: [] for name in self.order}
        for guest in self.resolved.guests.values():
            home = next((i.network for i in guest.interfaces if i.network is not None), None)
            homes.setdefault(home, []).append(guest)
        return homes

    def _place(self, router: str) -> int:
        """Return the index of the band that a router stands under: the first of its networks."""
        places = [self.order.index(i.name) for i in self.resolved.routers[router].interfaces]
        return min(places, default=len(self.order) - 1)

    def _far_networks(self, router: str) -> list[str]:
        """List the networks of a router whose bands are not next to it."""
        place = self._place(router)
        names = [interface.name for interface in self.resolved.routers[router].interfaces]
        return [name for name in names if self.order.index(name) not in (place, place + 1)]

    def _far_labels(self) -> dict[str, str]:
        labels: dict[str, list[str]] = {}
        for router in sorted(self.resolved.routers.values(), key=lambda router: self._place(router.name)):
            for name in self._far_networks(router.name):
                addresses = next(i.addresses for i in router.interfaces if i.name == name)
                labels.setdefault(name, []).append(f"{router.name} {', '.join(str(a) for a in addresses)}")
        return {name: ",  ".join(parts) for name, parts in labels.items()}

    def _header_width(self, name: str) -> float:
        """Return how wide a band has to be for its name, its description and the routers that reach it by a lane."""
        about = network_text(self.resolved.networks[name])
        label = self.labels.get(name, "")
        return _GAP * 3 + len(name) * _BOLD + len(about) * _SMALL + (_GAP * 2 + len(label) * _SMALL if label else 0)

    def draw(self) -> str:
        canvas, resolved = self.canvas, self.resolved
        canvas.text(_MARGIN, 34, resolved.name, "title")
        y = 52.0
        lane = [0]
        pending: list[_Lane] = []
        for index, name in enumerate(self.order):
            y = self._band(name, y)
            routers = [router for router in resolved.routers if self._place(router) == index]
            y = self._routers(routers, index, y, pending) if routers else y + _GAP
        if self.homes.get(None):
            y = self._band(None, y) + _GAP
        for waiting in pending:
            self._left_lane(waiting, lane)
        for name, label in self.labels.items():
            edge = self.left + self.band_width - _GAP
            canvas.text(edge, self.bands[name][0] + 20, label, "small", anchor="end")
        self._right_lanes()
        y = self._switches(y + 24)
        width, height = canvas.width + _MARGIN, max(y, canvas.height) + _MARGIN
        size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
        title = f"<title>{escape(resolved.name)}</title>"
        back = '<rect width="100%" height="100%" fill="#ffffff"/>'
        body = "\n  ".join(canvas.parts)
        return f"{head}\n  {title}\n  <style>{_STYLE}  </style>\n  {back}\n  {body}\n</svg>\n"

    def _band(self, name: str | None, top: float) -> float:
        """Draw a network with its guests; return where it ends."""
        guests = self.homes.get(name, [])
        rows = [guests[start : start + _PER_ROW] for start in range(0, len(guests), _PER_ROW)]
        heights = [max(_guest_height(guest) for guest in row) for row in rows]
        bottom = top + _HEAD + sum(height + _GAP for height in heights)
        strong, pale = self.colours[name] if name is not None else ("#52606d", "#f5f7fa")
        self.canvas.rect(
            self.left, top, self.band_width, bottom - top, f'fill="{pale}" stroke="{strong}" stroke-width="1.5"', 8
        )
        title = name if name is not None else "on trunks, or on no network"
        self.canvas.text(self.left + _GAP, top + 20, title, "name")
        if name is not None:
            about = network_text(self.resolved.networks[name])
            self.canvas.text(self.left + _GAP * 2 + len(title) * _BOLD, top + 20, about, "small")
            self.bands[name] = (top, bottom)
        y = top + _HEAD
        for row, height in zip(rows, heights, strict=True):
            for column, guest in enumerate(row):
                self._guest(guest, self.left + _GAP + column * (_BOX + _GAP), y, height)
            y += height + _GAP
        return bottom

    def _guest(self, guest: ResolvedGuest, x: float, y: float, height: float) -> None:
        self.canvas.rect(x, y, _BOX, height, f'class="{"guest" if guest.kind == "emulated" else "namespace"}"')
        label = guest.name if guest.kind == "emulated" else f"{guest.name}  ({guest.kind})"
        self.canvas.text(x + 8, y + 16, label, "name", _BOX - 12)
        for index, interface in enumerate(guest.interfaces):
            line = y + 16 + (index * 2 + 1) * _LINE
            self.canvas.dot(x + 12, line - 4, self._colour(interface))
            self.canvas.text(x + 21, line, self._address(interface), "", _BOX - 24)
            places = ", ".join(map(str, interface.ports))
            more = " ".join(filter(None, (f"{interface.name} at {places}", cable_text(interface.cable))))
            self.canvas.text(x + 21, line + _LINE - 1, more, "small", _BOX - 20)
        self.boxes[guest.name] = (x + _BOX, y + height / 2)

    def _colour(self, interface: ResolvedInterface) -> str:
        return self.colours[interface.network][0] if interface.network is not None else "#52606d"

    def _address(self, interface: ResolvedInterface) -> str:
        if interface.network is not None or interface.vid is not None:
            return address_text(self.resolved, interface)
        return vlans_text(self.resolved, self.resolved.switch_port(interface.port))

    def _routers(self, names: list[str], index: int, top: float, pending: list[_Lane]) -> float:
        """Draw the routers that stand under a band; return where the next band begins."""
        y = top + _BETWEEN
        for column, name in enumerate(names):
            router = self.resolved.routers[name]
            x = self.left + _GAP + column * (_ROUTER_WIDTH + 40)
            middle = x + _ROUTER_WIDTH / 2
            far = 0
            self.right = max(self.right, x + _ROUTER_WIDTH)
            for interface in router.interfaces:
                place = self.order.index(interface.name)
                address = ", ".join(str(a) for a in interface.addresses)
                way = f'stroke="{self.colours[interface.name][0]}" stroke-width="2.5" fill="none"'
                if place == index:
                    self.canvas.path([(middle, top), (middle, y)], way)
                    self.canvas.text(middle + 7, top + 17, address, "small")
                elif place == index + 1:
                    self.canvas.path([(middle, y + _ROUTER_HEIGHT), (middle, y + _ROUTER_HEIGHT + _BETWEEN)], way)
                    self.canvas.text(middle + 7, y + _ROUTER_HEIGHT + 17, address, "small")
                else:
                    step = far % 6  # lanes of one router keep apart
                    pending.append(_Lane(interface.name, x + 24 + 12 * step, y + _ROUTER_HEIGHT, 8 + 3 * step))
                    far += 1
            self.canvas.rect(x, y, _ROUTER_WIDTH, _ROUTER_HEIGHT, 'class="router"', 20)
            self.canvas.text(middle, y + 19, name, "name", _ROUTER_WIDTH - 30, "middle")
            self.canvas.text(middle, y + 35, policy_text(router) or "router", "small", _ROUTER_WIDTH - 14, "middle")
        return y + _ROUTER_HEIGHT + _BETWEEN

    def _left_lane(self, waiting: _Lane, lane: list[int]) -> None:
        """Draw a line from a router's underside to a band that is not next to it."""
        lane[0] += 1
        network = waiting.network
        rail = self.left - lane[0] * _LANE
        top, bottom = self.bands[network]
        target = (top + min(bottom, top + _HEAD)) / 2
        way = f'stroke="{self.colours[network][0]}" stroke-width="2.5" fill="none" stroke-linejoin="round"'
        x, depth = waiting.x, waiting.bottom + waiting.depth
        self.canvas.path([(x, waiting.bottom), (x, depth), (rail, depth), (rail, target), (self.left, target)], way)

    def _right_lanes(self) -> None:
        """Draw lines from guests on several networks to the other bands."""
        edge = self.left + self.band_width
        lane = 0
        for guest in self.resolved.guests.values():
            home = next((i.network for i in guest.interfaces if i.network is not None), None)
            others = [i.network for i in guest.interfaces if i.network is not None and i.network != home]
            for index, network in enumerate(dict.fromkeys(others)):
                lane += 1
                x, y = self.boxes[guest.name]
                top, _ = self.bands[network]
                start, target = y + 5 * index, top + _HEAD / 2
                way = f'stroke="{self.colours[network][0]}" stroke-width="2" fill="none" stroke-dasharray="5 3"'
                rail = self.right + lane * _LANE
                self.canvas.path([(x, start), (rail, start), (rail, target), (edge, target)], way)

    def _switches(self, top: float) -> float:
        """Draw the switches in layers of their tree, and their links."""
        resolved, canvas = self.resolved, self.canvas
        canvas.text(_MARGIN, top, "Switches", "name")
        places: dict[str, tuple[float, float]] = {}
        for row, layer in enumerate(_switch_layers(resolved)):
            for column, name in enumerate(layer):
                x = _MARGIN + column * (_SWITCH_WIDTH + _SWITCH_APART / 2 + 20)
                places[name] = (x, top + 14 + row * (_SWITCH_HEIGHT + 46))
        for link in resolved.links:
            (ax, ay), (bx, by) = places[link.a.switch], places[link.b.switch]
            points = [(ax + _SWITCH_WIDTH / 2, ay + _SWITCH_HEIGHT / 2), (bx + _SWITCH_WIDTH / 2, by + _SWITCH_HEIGHT / 2)]
            canvas.path(points, 'class="link"')
            about = ", ".join(filter(None, (vlans_text(resolved, resolved.switch_port(link.a)), cable_text(link.cable))))
            canvas.text(
                (points[0][0] + points[1][0]) / 2 + 8, (max(ay, by) + min(ay, by) + _SWITCH_HEIGHT) / 2 + 4, about, "small"
            )
        for name, (x, y) in places.items():
            canvas.rect(x, y, _SWITCH_WIDTH, _SWITCH_HEIGHT, 'class="switch"')
            canvas.text(x + _SWITCH_WIDTH / 2, y + 19, name, "name on-switch", _SWITCH_WIDTH - 10, "middle")
            count = f"{len(resolved.switches[name].ports)} ports"
            canvas.text(x + _SWITCH_WIDTH / 2, y + 35, count, "on-switch", _SWITCH_WIDTH - 10, "middle")
        return max((y for _, y in places.values()), default=top) + _SWITCH_HEIGHT


def _guest_height(guest: ResolvedGuest) -> float:
    return 24 + max(1, len(guest.interfaces)) * 2 * _LINE


def _band_order(resolved: ResolvedTopology) -> list[str]:
    """Order the networks so that those which a router joins stand together: depth first, in file order."""
    order: list[str] = []

    def visit(name: str) -> None:
        waiting = [name]
        while waiting:
            current = waiting.pop()
            if current in order:
                continue
            order.append(current)
            joined = [r for r in resolved.routers.values() if any(i.name == current for i in r.interfaces)]
            following = [i.name for r in joined for i in r.interfaces if i.name not in order]
            waiting += reversed(following)

    for name in resolved.networks:
        visit(name)
    return order


def _switch_layers(resolved: ResolvedTopology) -> list[list[str]]:
    """Sort the switches by their distance from the first one of their part of the lab."""
    depth: dict[str, int] = {}
    for root in resolved.switches:
        if root in depth:
            continue
        depth[root] = 0
        layer = [root]
        while layer:
            following: list[str] = []
            for name in layer:
                for link in resolved.links:
                    for near, far in ((link.a.switch, link.b.switch), (link.b.switch, link.a.switch)):
                        if near == name and far not in depth:
                            depth[far] = depth[name] + 1
                            following.append(far)
            layer = following
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name in depth:
        layers[depth[name]].append(name)
    return layers
