"""TCP out through NAT: vnet's router between two namespaces, and slirp4netns, at an MTU of 1500."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import vnet_side
from benchmarks.bed import Bed, Pair, settle, why_not
from benchmarks.live_tools import tcp
from benchmarks.peers import slirp
from benchmarks.rows import ROUNDS, Row, against_best, interleave, medians

WHAT = "NAT, TCP, 1 flow, vs slirp4netns at MTU 1500"


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure the row of this group."""
    reason = why_not(("iperf3", "slirp4netns"))
    if reason:
        return [Row(what=WHAT, gate=6, ambition=9, note=reason)]
    with ExitStack() as stack:
        vnet = vnet_side.nat_pair(stack.enter_context(Bed("n0")))
        settle(vnet)
        peer = slirp.pair(stack.enter_context(Bed("n1")))

        def contender(pair: Pair) -> Callable[[], float]:
            return lambda: tcp(pair.a, pair.b, pair.address_b)

        measured = interleave({"vnet": contender(vnet), "slirp4netns": contender(peer)}, rounds)
    ratios = against_best(measured, "vnet", ("slirp4netns",))
    return [Row(what=WHAT, gate=6, ambition=9, ratios=ratios, figures=medians(measured, "Gbit/s", 1e9))]
