"""The way to the outside without privileges, beside slirp4netns and pasta, which end guests' connections in sockets too.

The guest is a namespace with a TAP device in all rows, the "internet" the loopback of another. pasta is measured at its own
MTU of 65520, the others at 1500.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from benchmarks import vnet_side
from benchmarks.bed import Bed, Pair, settle, why_not
from benchmarks.live_tools import connections, tcp
from benchmarks.peers import pasta, slirp
from benchmarks.rows import ROUNDS, Row, against_best, interleave, medians

VNET: Final = "vnet"
SLIRP: Final = "slirp4netns"
PASTA: Final = "pasta"


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure the rows of this group."""
    reason = why_not(("iperf3", "slirp4netns", "pasta"))
    if reason:
        return [Row(what="the user adapter, TCP of one flow, vs slirp4netns", gate=5, ambition=9, note=reason)]
    with ExitStack() as stack:
        ours = vnet_side.outward_pair(stack.enter_context(Bed("u0")))
        settle(ours)
        pairs = {
            VNET: ours,
            SLIRP: slirp.pair(stack.enter_context(Bed("u1"))),
            PASTA: pasta.pair(stack.enter_context(Bed("u2"))),
        }
        return [row for flows in (1, 8) for row in _throughput(pairs, flows, rounds)] + [_connections(pairs, rounds)]


def _throughput(pairs: dict[str, Pair], flows: int, rounds: int) -> list[Row]:
    measured = interleave(
        {name: lambda pair=pair: tcp(pair.a, pair.b, pair.address_b, flows=flows) for name, pair in pairs.items()}, rounds
    )
    figures = medians(measured, "Gbit/s", 1e9)
    what = f"the user adapter, TCP of {flows} flow{'s' * (flows > 1)}"
    return [
        Row(
            what=f"{what}, vs slirp4netns", gate=5, ambition=9, ratios=against_best(measured, VNET, (SLIRP,)),
            figures={name: figures[name] for name in (VNET, SLIRP)},
        ),
        Row(
            what=f"{what}, vs pasta at MTU 65520", gate=0.6, ambition=1.0, ratios=against_best(measured, VNET, (PASTA,)),
            figures={name: figures[name] for name in (VNET, PASTA)},
        ),
    ]  # fmt: skip


def _connections(pairs: dict[str, Pair], rounds: int) -> Row:
    contenders = {name: lambda pair=pair: connections(pair) for name, pair in pairs.items() if name != SLIRP}
    measured = interleave(contenders, rounds)
    return Row(
        what="the user adapter, connections a second, vs pasta", gate=0.7, ambition=1.0,
        ratios=against_best(measured, VNET, (PASTA,)), figures=medians(measured, "/s", digits=0),
    )  # fmt: skip
