"""Plug everything into switch ports and say which VLANs each port carries.

Ports are numbered in the order in which things are plugged: links, routers, guests, DHCP servers, each in file order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, final

from vnet.topology.model import Link, Switch, Topology
from vnet.topology.problems import Path, Problems, nearest, suggestion
from vnet.topology.reading import Reader
from vnet.topology.resolved import (
    ALL_VLANS,
    Admit,
    Peer,
    PortRef,
    ResolvedLink,
    ResolvedSwitch,
    ResolvedSwitchPort,
    Vlans,
)
from vnet.topology.shape import numbered
from vnet.units import SECOND

ONLY_SWITCH: Final = "switch"
"""Name of the switch that carries everything when the topology names none."""
AGEING: Final = 300 * SECOND
"""IEEE 802.1Q-2018, table 8-6: the recommended ageing time."""
FDB_SIZE: Final = 8192
SWITCH_MTU: Final = 9000
LARGEST_MTU: Final = 9202
"""A frame of 9216 octets without its Ethernet header."""
PRIORITY: Final = 32768
"""IEEE 802.1Q-2018, table 13-3: the recommended bridge priority."""


@final
@dataclass(frozen=True, slots=True)
class PortVlans:
    """VLAN membership of a port."""

    pvid: int | None
    members: Vlans
    untagged: tuple[int, ...]
    admit: Admit


def access(vid: int) -> PortVlans:
    """Make an access port: untagged and priority-tagged frames only."""
    return PortVlans(vid, (vid,), (vid,), "untagged")


def trunk(members: Vlans, native: int | None) -> PortVlans:
    """Make a trunk: tagged frames only, unless it has a native VLAN."""
    if native is None:
        return PortVlans(None, members, (), "tagged")
    with_native = members if native in members else tuple(sorted((*members, native)))
    return PortVlans(native, with_native, (native,), "all")


@final
class Wiring:
    """The switches while things are being plugged in."""

    def __init__(self, model: Topology, vids: Mapping[str, int], problems: Problems) -> None:
        self.problems = problems
        self.vids = vids
        self._reader = Reader(problems)
        self.models: Mapping[str, Switch | None] = model.switches or {ONLY_SWITCH: None}
        self._ports: dict[str, list[ResolvedSwitchPort]] = {name: [] for name in self.models}
        self._owned = frozenset(vids.values())
        self.default = next(iter(self.models))

    def find(self, *choices: tuple[str | None, Path]) -> str:
        """Return the first switch that is named in *choices* (name, path); the default one if none is."""
        for name, path in choices:
            if name is None:
                continue
            if name in self.models:
                return name
            return self._meant(name, path) or self.default
        return self.default

    def _meant(self, name: str, path: Path) -> str | None:
        """Note that there is no such switch; return the one that was probably meant."""
        if self.problems.blamed(("switches",)):
            return None
        self.problems.error("unknown-switch", path, f"there is no switch {name!r}; {suggestion(name, list(self.models))}")
        return nearest(name, self.models)

    def plug(self, switch: str, peer: Peer, node: str, interface: str, vlans: PortVlans, *, name: str = "") -> PortRef:
        """Take the switch's next port."""
        ports = self._ports[switch]
        ports.append(
            ResolvedSwitchPort(
                number=len(ports) + 1,
                name=name or f"{node}:{interface}",
                pvid=vlans.pvid,
                members=vlans.members,
                untagged=vlans.untagged,
                admit=vlans.admit,
                peer=peer,
                node=node,
                interface=interface,
            )
        )
        return PortRef(switch, len(ports))

    def port_vlans(self, ref: PortRef) -> tuple[int | None, Vlans]:
        """Return the PVID and the member set of a port that was plugged into."""
        port = self._ports[ref.switch][ref.number - 1]
        return port.pvid, port.members

    def vid(self, value: int | str | None, path: Path, *, key: bool = False) -> int | None:
        """Read a single VLAN: a number or a network's name; *key*: it stands there as a key."""
        if value is None:
            return None
        if isinstance(value, str) and value in self.vids:
            return self.vids[value]
        read = self._reader.vid_range(value)
        if read is None or read[0] != read[1]:
            self._not_a_vlan(value, path, key=key)
            return None
        return read[0]

    def vlan_set(self, value: Literal["all"] | list[int | str], path: Path) -> Vlans:
        """Read a trunk's VLANs."""
        if value == "all":
            return ALL_VLANS
        members: set[int] = set()
        for index, item in numbered(value):
            if isinstance(item, str) and item in self.vids:
                members.add(self.vids[item])
            elif (read := self._reader.vid_range(item)) is None:
                self._not_a_vlan(item, (*path, index))
            else:
                members.update(range(read[0], read[1] + 1))
                if self._owned.isdisjoint(range(read[0], read[1] + 1)):
                    text = f"no network has VLAN {item}; {self._known()}"
                    self.problems.warning("unused-vlan", (*path, index), text)
        return tuple(sorted(members))

    def _not_a_vlan(self, value: int | str, path: Path, *, key: bool = False) -> None:
        if isinstance(value, int) or value.strip().isdigit():
            self.problems.error("bad-vlan", path, f"{value} is not a VLAN number; write one from 1 to 4094", key=key)
        elif not self.problems.blamed(("networks",)):
            text = f"{value!r} is neither a VLAN number nor a network; {suggestion(value, list(self.vids))}"
            self.problems.error("unknown-network", path, text, key=key)

    def _known(self) -> str:
        return "known: " + (", ".join(f"{vid} ({name})" for name, vid in list(self.vids.items())[:8]) or "none")

    def links(self, models: list[Link]) -> tuple[ResolvedLink, ...]:
        """Plug the links in; each is a cable and two ports with the same VLANs."""
        links: list[ResolvedLink] = []
        counts: dict[frozenset[str], int] = {}
        for index, link in numbered(models):
            path: Path = ("links", index)
            vlans = self._link_vlans(link, path)
            cable = self._reader.impairment(link, path)
            ends = self._ends(link, path)
            if ends is None:
                continue
            a, b = ends
            count = counts[frozenset(ends)] = counts.get(frozenset(ends), 0) + 1
            mark = f"#{count}" if count > 1 else ""
            name = f"{a}-{b}{mark}"
            links.append(
                ResolvedLink(
                    name=name,
                    a=self.plug(a, "link", b, name, vlans, name=b + mark),
                    b=self.plug(b, "link", a, name, vlans, name=a + mark),
                    cable=cable,
                )
            )
        return tuple(links)

    def _ends(self, link: Link, path: Path) -> tuple[str, str] | None:
        if len(link.between) != 2:
            text = f"a link is between two switches, not {len(link.between)}; write between: [core, edge]"
            self.problems.error("bad-link", (*path, "between"), text)
            return None
        good = True
        for end, name in enumerate(link.between):
            if name not in self.models:
                self._meant(name, (*path, "between", end))
                good = False
        a, b = link.between
        if a == b:
            self.problems.error("bad-link", (*path, "between"), f"both ends are {a!r}; a link joins two different switches")
            good = False
        return (a, b) if good else None

    def _link_vlans(self, link: Link, path: Path) -> PortVlans:
        if link.vlan is not None:
            for key, value in (("trunk", link.trunk), ("native", link.native)):
                if value is not None:
                    text = f"vlan makes it an access link, {key} a trunk; give one of them"
                    self.problems.error("bad-link", (*path, key), text, key=True)
            return access(self.vid(link.vlan, (*path, "vlan")) or 1)
        native = self.vid(link.native, (*path, "native"))
        return trunk(self.vlan_set("all" if link.trunk is None else link.trunk, (*path, "trunk")), native)

    def finish(self) -> dict[str, ResolvedSwitch]:
        """Return the switches with all their ports."""
        return {name: self._switch(name, model or Switch(), ("switches", name)) for name, model in self.models.items()}

    def _switch(self, name: str, model: Switch, path: Path) -> ResolvedSwitch:
        priority = self._reader.whole(model.priority, (*path, "priority"), 0, 61440, PRIORITY)
        if priority % 4096:
            right = round(priority / 4096) * 4096
            text = f"{priority} is not a multiple of 4096 (IEEE 802.1Q, 14.2.5); the nearest is {right}"
            self.problems.error("out-of-range", (*path, "priority"), text)
        ageing = self._reader.duration(model.ageing, (*path, "ageing"), AGEING)
        if ageing == 0:
            self.problems.error(
                "out-of-range", (*path, "ageing"), "0 would forget every address at once; write one such as 300s"
            )
        return ResolvedSwitch(
            name=name,
            ports=tuple(self._ports[name]),
            ageing=ageing,
            fdb_size=self._reader.whole(model.fdb_size, (*path, "fdb_size"), 1, 1 << 20, FDB_SIZE),
            mtu=self._reader.whole(model.mtu, (*path, "mtu"), 1500, LARGEST_MTU, SWITCH_MTU),
            priority=priority,
            stp=model.stp,
        )
