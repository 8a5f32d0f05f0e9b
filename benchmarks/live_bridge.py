"""The bridge adapter beside a TAP device: what it costs that frames come and go by a NIC.

Two labs run at once, each with a guest in a namespace. In one, its peer is another guest behind a TAP device; in the other
the peer is beyond a NIC, a veth pair, with which the network is bridged.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from benchmarks import vnet_side
from benchmarks.bed import PREFIX, Bed, Pair, Space, configure, settle, wait_until, why_not
from benchmarks.live_tools import lossless, round_trip, saturated, tcp
from benchmarks.rows import ROUNDS, Contender, Row, against_best, interleave, medians

BRIDGED: Final = """\
name: {name}
networks:
  lan: {{subnet: 10.77.0.0/24, adapter: {{bridge: {{nic: eth1, host: false}}}}}}
guests:
  a: {{kind: namespace, namespace: {name}-a, nics: [{{network: lan, address: 10.77.0.1/24}}]}}
"""


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure every row of this group."""
    reason = why_not(("iperf3", "gcc"))
    if reason:
        return [Row(what="bridge adapter", gate=0, ambition=0, note=reason)]
    with ExitStack() as stack:
        pairs = {
            "bridge": bridged_pair(stack.enter_context(Bed("b0"))),
            "TAP": vnet_side.pair(stack.enter_context(Bed("b1"))),
        }
        for pair in pairs.values():
            settle(pair)

        def out(pair: Pair) -> float:
            return tcp(pair.a, pair.b, pair.address_b)

        def back(pair: Pair) -> float:
            return tcp(pair.b, pair.a, pair.address_a)

        found = []
        for what, how, gate, unit, scale in (
            ("TCP out by a bridged NIC vs TAP to TAP", out, 0.7, "Gbit/s", 1e9),
            ("TCP in by a bridged NIC vs TAP to TAP", back, 0.7, "Gbit/s", 1e9),
            # a veth pair stands for the NIC: what is sent passes the kernel's receive queue once more
            ("frames of 64 octets, saturated, bridged NIC vs TAP to TAP", saturated, 0.7, "kframe/s", 1e3),
            ("frames of 64 octets, none lost, bridged NIC vs TAP to TAP", lossless, 0.7, "kframe/s", 1e3),
        ):
            measured = interleave({name: _contender(how, pair) for name, pair in pairs.items()}, rounds)
            ratios = against_best(measured, "bridge", ("TAP",))
            found.append(Row(what=what, gate=gate, ambition=1, ratios=ratios, figures=medians(measured, unit, scale)))
        measured = interleave({name: _contender(round_trip, pair) for name, pair in pairs.items()}, rounds)
        found.append(
            Row(
                what="round trip, bridged NIC vs TAP to TAP", gate=1.4, ambition=1, better="less",
                ratios=against_best(measured, "bridge", ("TAP",), "less"), figures=medians(measured, "us", 1e-6, 1),
            )
        )  # fmt: skip
        return found


def _contender(how: Callable[[Pair], float], pair: Pair) -> Contender:
    return lambda: how(pair)


def bridged_pair(bed: Bed) -> Pair:
    """Start a lab in a namespace that stands for the machine, with a guest a; b is at the other end of the machine's NIC."""
    machine, b = bed.space("machine"), bed.space("b")
    machine.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", b.name)
    machine.run("ip", "link", "set", "eth1", "up")
    configure(b, "eth0", "10.77.0.2/24")
    name = f"{PREFIX}-{os.getpid()}-{bed.name}"
    file = bed.folder / "lab.yaml"
    file.write_text(BRIDGED.format(name=name))
    # not by `ip netns exec`, whose mounts are its own: the guest's namespace would have no name here
    enter = ("nsenter", f"--net=/run/netns/{machine.name}")
    lab = bed.start(*enter, sys.executable, "-m", "benchmarks.vnet_side", str(file), death="TERM", patience=20)
    log = bed.folder / "log"
    wait_until(lambda: lab.poll() is not None or vnet_side.READY in log.read_text(), "the lab becoming ready", 30)
    if lab.poll() is not None:
        raise RuntimeError(f"the lab ended: {log.read_text()}")
    return Pair(Space(f"{name}-a"), b, "10.77.0.1", "10.77.0.2", (lab.pid,))
