"""Simulated link hops for each second, hosts sending UDP at a constant rate: vnet beside ns-3, on the same trees.

One hop is one frame over one link. Both sides deliver the same datagrams over the same paths, so hops are counted by
multiplication: datagrams delivered times the links on their path; what ARP adds has happened before the clock starts.

ns-3 is measured twice: with its Ethernet (CsmaNetDevice, as its own bridge examples), which is what vnet's links model and
what the row is taken from; and with its lightest link, SimpleNetDevice, which carries packets without Ethernet frames and is
named beside it. ns-3 computes no checksums. vnet's hosts compute and check that of the IPv4 header; that of UDP they leave
pending, as a NIC with checksum offload does, and nobody here needs it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Interface
from statistics import median
from typing import Final, final

from benchmarks.peers import ns3
from benchmarks.rows import ROUNDS, Row, against_best, interleave, medians
from benchmarks.setup_peers import why_not
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.links.link import Link
from vnet.ports import Port
from vnet.stack.host import Host
from vnet.stack.udp import UdpSocket
from vnet.switch.switch import Switch
from vnet.switch.vlan import access
from vnet.units import MILLISECOND, SECOND

ETHERNET: Final = "ns-3 CSMA"
LIGHTEST: Final = "ns-3 SimpleNetDevice"
PAYLOAD: Final = 512
LINK_BPS: Final = 1_000_000_000
LINK_DELAY: Final = 10_000
START: Final = 3 * SECOND
"""When the measured traffic begins: everybody has resolved his peer by then."""


@final
@dataclass(frozen=True, slots=True)
class Tree:
    """Switch 0 is the core, the others hang from it, hosts are spread over those (over switch 0 if it is alone).

    Host i sends *rate* datagrams per second to host (i + *offset*) mod *hosts*, *hops* links away, for *seconds* of virtual
    time.
    """

    name: str
    switches: int
    hosts: int
    offset: int
    rate: int
    seconds: float
    hops: int


TREES: Final = (
    Tree("star of 8 hosts", 1, 8, 3, 1000, 4.0, 2),
    Tree("20 switches, 500 hosts", 20, 500, 251, 100, 1.0, 4),
)


class _Sender:
    """Sends at a constant rate: one event for each datagram, on the timeline as everything else."""

    __slots__ = ("_destination", "_interval", "_payload", "_send_to", "_timeline")

    def __init__(self, timeline: Timeline, socket: UdpSocket, destination: tuple[bytes, int], interval: int) -> None:
        self._timeline = timeline
        self._send_to = socket.send_to
        self._destination = destination
        self._interval = interval
        self._payload = bytes(PAYLOAD)

    def send(self) -> None:
        self._send_to(self._payload, self._destination)
        self._timeline.at(self._timeline.now + self._interval, self.send)

    def send_once(self) -> None:
        self._send_to(self._payload, self._destination)


def deliver(tree: Tree) -> tuple[int, float]:
    """Simulate with vnet; return the datagrams delivered and the CPU seconds that took."""
    timeline = Timeline()
    streams = RandomStreams(1)
    delivered = 0

    def receive(_payload: bytes, _source: tuple[bytes, int]) -> None:
        nonlocal delivered
        delivered += 1

    def link(a: Port, b: Port) -> None:
        Link(timeline, a, b, partial(streams.stream, a.name), rate=LINK_BPS, latency=LINK_DELAY)

    switches = [Switch(f"s{index}", timeline) for index in range(tree.switches)]
    vlan = access(1)
    for switch in switches[1:]:
        link(switches[0].add_port(vlan).port, switch.add_port(vlan).port)
    addresses = [bytes((10, 0, *divmod(index + 1, 256))) for index in range(tree.hosts)]
    interval = SECOND // tree.rate
    for index, address in enumerate(addresses):
        host = Host(f"h{index}", timeline, partial(streams.stream, f"h{index}"))
        interface = host.add_interface("eth0", b"\x02\x00" + address)
        interface.add_address(IPv4Interface((address, 16)))
        switch = switches[1 + index % (tree.switches - 1) if tree.switches > 1 else 0]
        link(interface.port, switch.add_port(vlan).port)
        host.udp_bind(9, on_datagram=receive)
        socket = host.udp_bind(on_datagram=receive)
        sender = _Sender(timeline, socket, (addresses[(index + tree.offset) % tree.hosts], 9), interval)
        timeline.at(100 * MILLISECOND + 4 * MILLISECOND * index, sender.send_once)
        timeline.at(START + interval * index // tree.hosts, sender.send)
    timeline.run_until(START - 1)
    delivered = 0
    began = time.process_time()
    timeline.run_until(START + round(tree.seconds * SECOND))
    return delivered, time.process_time() - began


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure one row for each tree."""
    reason = why_not(("g++", "ns3/core-module.h"))
    return [_row(tree, rounds, reason) for tree in TREES]


def _row(tree: Tree, rounds: int, reason: str) -> Row:
    what = f"simulated link hops/s, {tree.name}, vs ns-3"
    if reason:
        return Row(what=what, gate=1.5, ambition=3, note=reason)
    expected = tree.hosts * tree.rate * tree.seconds

    def hops(run: Callable[[], tuple[int, float]]) -> Callable[[], float]:
        def measure() -> float:
            delivered, used = run()
            if delivered < 0.99 * expected:
                raise RuntimeError(f"{tree.name}: only {delivered} of {expected:.0f} datagrams arrived")
            return delivered * tree.hops / used

        return measure

    def peer(kind: str) -> tuple[int, float]:
        return ns3.deliver(
            tree.switches, tree.hosts, tree.offset, tree.rate, PAYLOAD, tree.seconds, LINK_BPS, LINK_DELAY, kind
        )  # fmt: skip

    def ours() -> tuple[int, float]:
        """Run in a process of its own, as ns-3 does: with nothing else on the heap."""
        words = [sys.executable, "-m", "benchmarks.sim_hops", str(TREES.index(tree))]
        delivered, used = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        return delivered, used

    measured = interleave(
        {"vnet": hops(ours), ETHERNET: hops(partial(peer, "csma")), LIGHTEST: hops(partial(peer, "simple"))}, rounds
    )
    ratios = against_best(measured, "vnet", (ETHERNET,))
    lighter = median(against_best(measured, "vnet", (LIGHTEST,)))
    return Row(
        what=what, gate=1.5, ambition=3, ratios=ratios, figures=medians(measured, "k hops/s", 1e3, 0),
        note=f"{lighter:.2f} x its lightest link, which has no Ethernet",
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(deliver(TREES[int(sys.argv[1])])))
