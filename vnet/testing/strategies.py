"""Hypothesis strategies: topologies, frames, and steps to take in a lab: faults, changes, traffic, pauses, in any order.

::

    @given(topologies().flatmap(lambda topology: st.tuples(st.just(topology), plans(topology))))
    def test_nothing_passes_between_vlans(case):
        topology, steps = case
        simulate(play, topology, steps)

``play`` runs the steps in a lab and checks ``vnet.testing.invariants`` after each. A step prints as what it does, so that
the example to which Hypothesis shrinks a failure can be read, and typed into a test.

Hypothesis is not among vnet's dependencies: this module alone imports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

import trio

from vnet.errors import UsageError
from vnet.ports import NO_OFFLOAD
from vnet.runtime.change import change
from vnet.runtime.opening import open_lab
from vnet.runtime.waiting import When, advance
from vnet.testing.invariants import Invariants
from vnet.topology import resolve
from vnet.wire import arp, ipv4, udp
from vnet.wire.ethernet import ETHERTYPE_IPV4

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise UsageError("vnet.testing.strategies needs hypothesis: pip install hypothesis") from error

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from vnet.runtime.lab import Lab
    from vnet.topology.resolved import ResolvedTopology

Kind: TypeAlias = Literal["partition", "isolate", "flap", "crash", "restart", "heal", "set", "send", "ping", "wait"]

LATENCIES: Final = ("0s", "1us", "5ms", "300ms")
VARIATIONS: Final = ("0s", "1us", "20ms")
LOSSES: Final = ("0%", "1%", "30%", "100%")
ALTERED: Final = ("reordering", "duplication", "corruption")
RATES: Final = ("none", "64kbit", "10mbit", "1gbit")
LENGTHS: Final = ("1ms", "1s", "7s", "10min", "36h")


@final
@dataclass(frozen=True)
class Step:
    """One thing done to a lab: *kind* names a fault, or is ``set`` (as the command), ``send``, ``ping`` or ``wait``."""

    kind: Kind
    args: tuple[object, ...] = ()

    def __repr__(self) -> str:
        return f"Step({self.kind!r}, {self.args!r})"

    async def run(self, lab: Lab) -> None:
        """Do it."""
        await trio.lowlevel.checkpoint()
        match self.kind, self.args:
            case "set", (str(target), str(setting)):
                await change(lab, target, [setting])
            case "send", (str(port), bytes(frame)):
                lab.ports[port].send(frame, NO_OFFLOAD)
            case "ping", (str(source), str(target)):
                await lab.ping(source, target, timeout=1)
            case "wait", (str(length),):
                await advance(lab, length)
            case (("partition" | "isolate" | "flap" | "crash" | "restart" | "heal"), args):
                getattr(lab.faults, self.kind)(*args)
            case _:
                raise UsageError(f"there is no such step: {self!r}")


async def play(topology: ResolvedTopology, steps: Iterable[Step], settle: When = "10s") -> Lab:
    """Run a lab, take the steps one after the other, and check the invariants after each; return the lab, ended.

    The first step comes after *settle*, when most guests have their addresses; ten seconds after the last, all being healed
    by then, it is checked once more.
    """
    async with open_lab(topology) as lab:
        with Invariants(lab) as watch:
            await advance(lab, settle)
            for step in steps:
                await step.run(lab)
                watch.check()
            lab.faults.heal()
            await advance(lab, "10s")
        return lab


@st.composite
def topologies(
    draw: st.DrawFn, max_switches: int = 3, max_networks: int = 3, max_guests: int = 5, routers: bool = True
) -> ResolvedTopology:
    """Make right topologies: switches, networks, guests, perhaps a router with NAT and a firewall.

    Switches form a tree, as there is no spanning tree protocol yet. Guests have addresses of their own or ask for them, on
    plain NICs, bonds or VLAN sub-interfaces; cables have a latency, a loss, a rate and other impairments, or none.
    """
    networks = [f"net{number}" for number in range(draw(st.integers(1, max_networks)))]
    switches = [f"switch{number}" for number in range(draw(st.integers(1, max_switches)))]
    links = [
        {"between": [switches[draw(st.integers(0, number - 1))], switches[number]], "trunk": "all", **draw(_cables())}
        for number in range(1, len(switches))
    ]
    served = {name: draw(st.booleans()) for name in networks}
    routed = routers and draw(st.booleans())
    described: dict[str, object] = {
        name: {"subnet": f"10.0.{number}.0/24"}
        | ({"dhcp": {"range": f"10.0.{number}.100-10.0.{number}.120", "lease": "1h"}} if served[name] else {})
        for number, name in enumerate(networks)
    }
    guests: dict[str, object] = {}
    for number in range(draw(st.integers(1, max_guests))):
        place = draw(st.integers(0, len(networks) - 1))
        ends: dict[str, object] = {}
        if not served[networks[place]] or draw(st.booleans()):
            ends["address"] = f"10.0.{place}.{10 + number}/24"
            if routed:
                ends["gateway"] = f"10.0.{place}.1"
        nic = draw(_nics(networks, place, switches, ends))
        guests[f"guest{number}"] = {"switch": draw(st.sampled_from(switches)), "nics": [nic]}
    data: dict[str, object] = {
        "name": "drawn",
        "networks": described,
        "guests": guests,
        "switches": {name: {} for name in switches},
        "links": links,
    }
    if routed:
        router: dict[str, object] = {"interfaces": {name: f"10.0.{n}.1/24" for n, name in enumerate(networks)}}
        if len(networks) > 1 and draw(st.booleans()):
            router["nat"] = {"outside": networks[0], "inside": networks[1:]}
        if draw(st.booleans()):
            allow = [{"from": draw(st.sampled_from(networks)), "to": draw(st.sampled_from(networks))}]
            router["firewall"] = {"policy": draw(st.sampled_from(["drop", "reject", "accept"])), "allow": allow}
        data["routers"] = {"gate": router}
    return resolve(data)


@st.composite
def _nics(
    draw: st.DrawFn, networks: list[str], place: int, switches: list[str], ends: dict[str, object]
) -> dict[str, object]:
    """Make a NIC on a network, with the addresses that *ends* says: its own, those of a bond, or of a sub-interface."""
    kind = draw(st.sampled_from(["plain", "plain", "bond", "vlans", "both"]))
    plug: dict[str, object] = {"network": networks[place], **ends}
    if kind in ("vlans", "both"):
        plug = {"trunk": networks, "vlans": {networks[place]: ends}}
    if kind in ("plain", "vlans"):
        return {**plug, **draw(_cables())}
    members = [{"switch": draw(st.sampled_from(switches)), **draw(_cables())} for _ in range(2)]
    delays = st.sampled_from(["0ms", "200ms", "1s"])
    bond: dict[str, object] = {"members": members, "downdelay": draw(delays), "updelay": draw(delays)}
    if draw(st.booleans()):
        bond |= {"primary_reselect": draw(st.sampled_from(["always", "better", "failure"]))}
        bond["members"] = [{"name": f"leg{leg}", **member} for leg, member in enumerate(members)]
        bond["primary"] = draw(st.sampled_from(["leg0", "leg1"]))
    return {**plug, "bond": bond}


@st.composite
def _cables(draw: st.DrawFn) -> dict[str, str]:
    cable = {}
    if draw(st.booleans()):
        cable = {"latency": draw(st.sampled_from(LATENCIES)), "loss": draw(st.sampled_from(LOSSES[:3]))}
        rate = draw(st.sampled_from(RATES))
        if rate != "none":
            cable["rate"] = rate
        if draw(st.booleans()):
            cable["delay_variation"] = draw(st.sampled_from(VARIATIONS))
            cable |= {kind: draw(st.sampled_from(LOSSES[:3])) for kind in ALTERED}
    return cable


def _stations(topology: ResolvedTopology) -> list[tuple[bytes, bytes]]:
    """List MAC and IPv4 address of every interface; one that has none yet gets one that nobody has."""
    return [
        (nic.mac, next((each.ip.packed for each in nic.addresses if each.version == 4), bytes((10, 0, 0, 250))))
        for _, nic in topology.endpoints()
    ]


@st.composite
def frames(draw: st.DrawFn, topology: ResolvedTopology) -> bytes:
    """Make frames from and to the stations of a topology, and some that are not quite right."""
    station = st.sampled_from(_stations(topology))
    (from_mac, source), (to_mac, destination) = draw(station), draw(station)
    group = st.sampled_from([b"\xff" * 6, bytes.fromhex("01005e000001"), bytes.fromhex("0180c2000000")])
    to_mac = draw(st.just(to_mac) | group | st.binary(min_size=6, max_size=6))
    payload = draw(st.binary(max_size=64))
    kind = draw(st.sampled_from(["arp", "udp", "other", "tagged", "noise"]))
    if kind == "noise":
        return draw(st.binary(max_size=80))
    if kind == "arp":
        return arp.request_frame(from_mac, source, destination)
    if kind == "udp":
        ports = draw(st.tuples(st.integers(0, 65535), st.sampled_from([7, 53, 67, 68, 5000])))
        datagram = udp.build(source, destination, *ports, payload)
        head = ipv4.build(source, destination, ipv4.PROTOCOL_UDP, len(datagram), ttl=draw(st.integers(0, 255)), ident=1)
        return to_mac + from_mac + ETHERTYPE_IPV4 + head + datagram
    tag = b""
    if kind == "tagged":
        vids = [0, 1, 4095, *(network.vid for network in topology.networks.values())]
        tag = b"\x81\x00" + (draw(st.integers(0, 7)) << 13 | draw(st.sampled_from(vids))).to_bytes(2, "big")
    return to_mac + from_mac + tag + b"\x88\xb6" + payload


def faults(topology: ResolvedTopology) -> SearchStrategy[Step]:
    """Choose a fault, or the end of all."""
    guests = list(topology.guests)
    nodes = guests + list(topology.routers) + [f"{net.name}:dhcp" for net in topology.networks.values() if net.dhcp]
    guest, node = st.sampled_from(guests), st.sampled_from(nodes)
    kinds = [
        st.builds(lambda name: Step("isolate", (name,)), node),
        st.builds(lambda name: Step("crash", (name,)), guest),
        st.builds(lambda name: Step("restart", (name,)), guest),
        st.builds(
            lambda name, times, period: Step("flap", (name, times, period)),
            st.sampled_from(_links(topology)), st.integers(1, 5), st.sampled_from(LENGTHS[:3]),
        ),
        st.just(Step("heal")),
    ]  # fmt: skip
    if len(nodes) > 1:
        kinds.append(st.builds(lambda two: Step("partition", (two[:1], two[1:])), _some(nodes, 2)))
    return st.one_of(kinds)


def changes(topology: ResolvedTopology) -> SearchStrategy[Step]:
    """Choose a change as ``vnet set`` makes it: of a cable, or of a switch port."""
    settings = [
        *(f"latency={value}" for value in LATENCIES), *(f"loss={value}" for value in LOSSES),
        *(f"delay_variation={value}" for value in VARIATIONS),
        *(f"{kind}={value}" for kind in ALTERED for value in LOSSES), *(f"rate={value}" for value in RATES),
        "queue=3000", "queue=256KiB", "up", "down",
    ]  # fmt: skip
    links = st.builds(
        lambda name, text: Step("set", (name, text)), st.sampled_from(_links(topology)), st.sampled_from(settings)
    )
    ports = [f"{switch.name}:{port.number}" for switch in topology.switches.values() for port in switch.ports]
    return links | st.builds(
        lambda port, text: Step("set", (port, text)), st.sampled_from(ports), st.sampled_from(["up", "down"])
    )


@st.composite
def _traffic(draw: st.DrawFn, topology: ResolvedTopology) -> Step:
    guests = list(topology.guests)
    if draw(st.booleans()):
        return Step("ping", (draw(st.sampled_from(guests)), draw(st.sampled_from([*guests, *topology.routers]))))
    ports = [f"{node}:{cable.name}" for node, _, cable in topology.cables() if node in topology.guests]
    return Step("send", (draw(st.sampled_from(ports)), draw(frames(topology))))


def steps(topology: ResolvedTopology) -> SearchStrategy[Step]:
    """Choose a fault, a change, some traffic or a pause."""
    pauses = st.builds(lambda length: Step("wait", (length,)), st.sampled_from(LENGTHS))
    return st.one_of(_traffic(topology), pauses, faults(topology), changes(topology))


def plans(topology: ResolvedTopology, max_size: int = 12) -> SearchStrategy[list[Step]]:
    """Put steps in an order."""
    return st.lists(steps(topology), max_size=max_size)


def _links(topology: ResolvedTopology) -> list[str]:
    """Name the cables as the lab does."""
    names = [link.name for link in topology.links]
    names += [f"{net.name}:dhcp" for net in topology.networks.values() if net.dhcp is not None]
    return names + [f"{node}:{cable.name}" for node, _, cable in topology.cables()]


def _some(names: Sequence[str], least: int) -> SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(names), min_size=least, max_size=4, unique=True).map(tuple)
