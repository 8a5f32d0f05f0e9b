"""TCP from Linux to an emulated host, live: beside slirp4netns and pasta, whose TCP ends in user space as ours does.

The emulated host runs vnet's iperf3 server (``run: [iperf3]``), the peers end at a real one on the loopback of a namespace.
vnet's guest has an MTU of 1500 in both rows: super-frames cross the TAP either way, and its ports take 9216 octets at most.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from benchmarks import vnet_side
from benchmarks.bed import Bed, settle, why_not
from benchmarks.live_tools import tcp, tcp_to
from benchmarks.peers import pasta, slirp
from benchmarks.rows import ROUNDS, Row, against_best, interleave, medians

AGAINST_SLIRP: Final = "TCP from Linux to an emulated host, MTU 1500, vs slirp4netns"
AGAINST_PASTA: Final = "TCP from Linux to an emulated host, vs pasta at MTU 65520"
VNET: Final = "vnet"


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure the rows of this group."""
    reason = why_not(("iperf3", "slirp4netns", "pasta"))
    if reason:
        return [Row(what=AGAINST_SLIRP, gate=3, ambition=6, note=reason)]
    with ExitStack() as stack:
        vnet = vnet_side.emulated_pair(stack.enter_context(Bed("e0")))
        settle(vnet)
        small = slirp.pair(stack.enter_context(Bed("e1")))
        large = pasta.pair(stack.enter_context(Bed("e2")))
        measured = interleave(
            {
                VNET: lambda: tcp_to(vnet.a, vnet.address_b),
                "slirp4netns": lambda: tcp(small.a, small.b, small.address_b),
                "pasta": lambda: tcp(large.a, large.b, large.address_b),
            },
            rounds,
        )
    figures = medians(measured, "Gbit/s", 1e9)
    return [
        Row(
            what=AGAINST_SLIRP, gate=3, ambition=6, ratios=against_best(measured, VNET, ("slirp4netns",)),
            figures={name: figures[name] for name in (VNET, "slirp4netns")},
        ),
        Row(
            what=AGAINST_PASTA, gate=0.5, ambition=1.0, ratios=against_best(measured, VNET, ("pasta",)),
            figures={name: figures[name] for name in (VNET, "pasta")},
        ),
    ]  # fmt: skip
