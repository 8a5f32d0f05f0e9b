"""Rows between two Linux namespaces on one switch: vnet beside VDE2, Open vSwitch, QEMU's hub and the kernel's bridge.

All of them run at once, each in namespaces of its own, and sleep while another is measured; every round measures each once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Final

from benchmarks import vnet_side
from benchmarks.bed import Bed, Pair, settle, why_not
from benchmarks.live_tools import cpu_per_gigabyte, lossless, round_trip, saturated, tcp, udp_goodput
from benchmarks.peers import bridge, ovs, qemu_hub, vde
from benchmarks.rows import ROUNDS, Row, against_best, interleave, medians

NEEDS: Final = ("iperf3", "gcc", "vde_switch", "ovs-vswitchd", "qemu-system-x86_64")

VNET: Final = "vnet"
STARTERS: Final[Mapping[str, Callable[[Bed], Pair]]] = {
    VNET: vnet_side.pair,
    "VDE2": vde.pair,
    "Open vSwitch": ovs.pair,
    "QEMU hub": qemu_hub.pair,
    "bridge": bridge.pair,
}
SWITCHES: Final = ("VDE2", "Open vSwitch", "QEMU hub")
SEGMENTS: Final = 44
"""Datagrams of 1472 octets in the largest UDP super-datagram: UDP_SEGMENT takes 64, an IPv4 packet 65,535 octets."""


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure every row of this group."""
    reason = why_not(NEEDS)
    if reason:
        return [Row(what="live switching", gate=0, ambition=0, note=reason)]
    with ExitStack() as stack:
        pairs = {}
        for number, (name, starter) in enumerate(STARTERS.items()):
            pairs[name] = starter(stack.enter_context(Bed(f"s{number}")))
            settle(pairs[name])
        return [
            *_throughput(pairs, rounds),
            *_small_frames(pairs, rounds),
            _round_trip(pairs, rounds),
            _cpu(pairs, rounds),
            _udp(pairs[VNET], rounds),
        ]


def _measure(
    pairs: Mapping[str, Pair], names: tuple[str, ...], how: Callable[[Pair], float], rounds: int
) -> dict[str, list[float]]:
    def contender(pair: Pair) -> Callable[[], float]:
        return lambda: how(pair)

    return interleave({name: contender(pairs[name]) for name in (VNET, *names)}, rounds)


def _throughput(pairs: Mapping[str, Pair], rounds: int) -> list[Row]:
    one = _measure(pairs, (*SWITCHES, "bridge"), lambda pair: tcp(pair.a, pair.b, pair.address_b), rounds)
    many = _measure(pairs, SWITCHES, lambda pair: tcp(pair.a, pair.b, pair.address_b, flows=8), rounds)
    figures = medians(one, "Gbit/s", 1e9)
    return [
        Row(
            what="TCP, 1 flow, vs best of VDE2, Open vSwitch, QEMU hub", gate=6, ambition=9,
            ratios=against_best(one, VNET, SWITCHES), figures=figures,
        ),
        Row(
            what="TCP, 8 flows, vs best of VDE2, Open vSwitch, QEMU hub", gate=7, ambition=10,
            ratios=against_best(many, VNET, SWITCHES), figures=medians(many, "Gbit/s", 1e9),
        ),
        Row(
            what="TCP, 1 flow, vs kernel bridge + veth", gate=0.6, ambition=0.8,
            ratios=against_best(one, VNET, ("bridge",)), figures={name: figures[name] for name in (VNET, "bridge")},
        ),
    ]  # fmt: skip


def _small_frames(pairs: Mapping[str, Pair], rounds: int) -> list[Row]:
    peers = ("VDE2", "Open vSwitch")
    flood = _measure(pairs, peers, saturated, rounds)
    whole = _measure(pairs, peers, lossless, rounds)
    return [
        Row(
            what="64-byte frames, saturated, vs best of VDE2, Open vSwitch", gate=0.75, ambition=1.0,
            ratios=against_best(flood, VNET, peers), figures=medians(flood, "kpps", 1e3, 0),
        ),
        Row(
            what="64-byte frames, lossless, vs best of VDE2, Open vSwitch", gate=0.9, ambition=1.2,
            ratios=against_best(whole, VNET, peers), figures=medians(whole, "kpps", 1e3, 0),
        ),
    ]  # fmt: skip


def _round_trip(pairs: Mapping[str, Pair], rounds: int) -> Row:
    times = _measure(pairs, ("VDE2",), round_trip, rounds)
    return Row(
        what="RTT p50, all pinned to one CPU, vs VDE2", gate=1.3, ambition=1.0, better="less",
        ratios=against_best(times, VNET, ("VDE2",), "less"), figures=medians(times, "us", 1e-6, 1),
    )  # fmt: skip


def _cpu(pairs: Mapping[str, Pair], rounds: int) -> Row:
    spent = _measure(pairs, ("VDE2",), cpu_per_gigabyte, rounds)
    return Row(
        what="machine CPU seconds per GB of TCP, vs VDE2", gate=0.2, ambition=0.12, better="less",
        ratios=against_best(spent, VNET, ("VDE2",), "less"), figures=medians(spent, "s/GB"),
    )  # fmt: skip


def _udp(pair: Pair, rounds: int) -> Row:
    measured = interleave(
        {
            "UDP_SEGMENT": lambda: udp_goodput(pair, 1472 * SEGMENTS, 1472),
            "plain frames": lambda: udp_goodput(pair, 1472, 0),
        },
        rounds,
    )
    ratios = against_best(measured, "UDP_SEGMENT", ("plain frames",))
    return Row(
        what="UDP with UDP_SEGMENT vs plain frames, both through vnet", gate=4, ambition=6,
        ratios=ratios, figures=medians(measured, "Gbit/s", 1e9),
    )  # fmt: skip
