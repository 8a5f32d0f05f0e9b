"""A simulated lab of 1,000 hosts on 20 switches: how long it takes to build, how much memory it holds.

Build time is that of making and plugging all parts of a resolved topology, as ``open_lab`` does; reading, validating and
resolving the file comes on top and is shown beside it. Memory is what Python holds afterwards that it did not before
(tracemalloc), for each host: its stack, its cable, its switch port and its share of the rest; and, beside it, the same after
every host has pinged another, when ARP caches and switch tables are filled.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc
from functools import partial
from time import perf_counter
from typing import Final

from benchmarks.rows import ROUNDS, Row, interleave, medians
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.fabric.trace import EventLog
from vnet.guests.emulated import EmulatedGuest
from vnet.runtime.build import Builder, Parts
from vnet.runtime.state import open_store
from vnet.topology import parse_topology
from vnet.units import MILLISECOND, SECOND

HOSTS: Final = 1000
SWITCHES: Final = 20


def topology_text() -> str:
    """Write the lab: hosts with fixed addresses, spread over 19 switches that hang from one."""
    lines = ["name: thousand", "networks:", "  lan: {subnet: 10.0.0.0/16}", "switches:", "  s0: {}"]
    lines += [f"  s{number}: {{}}" for number in range(1, SWITCHES)]
    lines += ["links:", *(f"  - {{between: [s0, s{number}], trunk: [lan]}}" for number in range(1, SWITCHES)), "guests:"]
    for host in range(HOSTS):
        address = f"10.0.{(host + 1) // 256}.{(host + 1) % 256}/16"
        lines.append(f"  h{host}: {{switch: s{1 + host % (SWITCHES - 1)}, nics: [{{network: lan, address: {address}}}]}}")
    return "\n".join(lines) + "\n"


def build(memory: bool, use: bool) -> dict[str, float]:
    """Build the lab once; return the seconds for reading and for building, or the octets for each host."""
    began = perf_counter()
    topology = parse_topology(topology_text())
    read = perf_counter()
    timeline = Timeline()
    with open_store(None, topology.name, timeline, live=False) as store:
        gc.collect()
        if memory:
            tracemalloc.start()
        started = perf_counter()
        parts = Builder(topology, timeline, RandomStreams(1), EventLog(timeline), store.for_network, {}).build()
        built = perf_counter()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] if memory else 0
        assert len(parts.guests) == HOSTS
        used = _use(parts, timeline) if use else 0
        return {"read": read - began, "build": built - started, "octets": held / HOSTS, "used": used / HOSTS}


def _use(parts: Parts, timeline: Timeline) -> int:
    """Let every host ping another; return the octets held then."""
    guests = list(parts.guests.values())
    answers: list[object] = []
    for number, guest in enumerate(guests):
        target = guests[(number + HOSTS // 2 + 1) % HOSTS].address
        assert isinstance(guest, EmulatedGuest) and target is not None
        timeline.at(number * MILLISECOND, partial(guest.host.ping, target.packed, on_result=answers.append))
    timeline.run_until(HOSTS * MILLISECOND + SECOND)
    assert len(answers) == HOSTS
    answers.clear()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure both rows, each time in a fresh process."""

    def fresh(what: str, *words: str) -> float:
        command = [sys.executable, "-m", "benchmarks.lab_build", *words]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        value: float = json.loads(output)[what]
        return value

    times = interleave({"build": lambda: fresh("build"), "read and validate": lambda: fresh("read")}, rounds)
    memory = interleave({"built": lambda: fresh("octets", "--memory") / 1024}, rounds)
    used = (
        fresh("used", "--memory", "--use") / 1024
    )  # takes a while: 1,000 broadcasts to 1,000 hosts, and every malloc traced
    return [
        Row(
            what="simulated lab of 1,000 hosts: build time", gate=0.3, ambition=0.05, better="less", unit="s",
            ratios=tuple(times["build"]), figures=medians(times, "s", digits=3),
        ),
        Row(
            what="simulated lab of 1,000 hosts: memory per host", gate=40, ambition=8, better="less", unit="KiB",
            ratios=tuple(memory["built"]),
            figures={**medians(memory, "KiB", digits=1), "after each has pinged another": f"{used:.1f} KiB"},
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(build("--memory" in sys.argv, "--use" in sys.argv)))
