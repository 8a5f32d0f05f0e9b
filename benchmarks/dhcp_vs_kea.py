"""DHCP exchanges per second with 32 clients under way and leases on disk: vnet's server, and Kea with its memfile.

Both get the same load (``dhcp_load``) from a namespace of their own; vnet's path is the whole of it: TAP, switch, server,
SQLite, and back, in one process. Neither waits for the disk: a lease that was acknowledged survives the end of the server
process, not that of the machine's power. Server and load have a CPU each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Final

from benchmarks.bed import PREFIX, Bed, Space, wait_until, why_not
from benchmarks.peers import kea
from benchmarks.rows import ROUNDS, Row, against_best, interleave, medians

WHAT: Final = "DHCP exchanges/s, 32 in flight, leases on disk, vs Kea memfile"
SECONDS: Final = 3.0
IN_FLIGHT: Final = 32
POPULATION: Final = 4096
"""Clients, each with a MAC address of its own, that come again and again: as many as a switch of 8,192 addresses knows."""
SERVER_CPU: Final = 0
LOAD_CPU: Final = 1

TOPOLOGY: Final = """\
name: {name}
networks:
  lan:
    subnet: 10.0.0.0/8
    dhcp:
      range: 10.1.0.0-10.200.255.255
      server: 10.0.0.2
      gateway: 10.0.0.1
      dns: [10.0.0.53]
      domain: lab.example
guests:
  load: {{kind: namespace, namespace: {namespace}, nics: [lan]}}
"""


def vnet_server(bed: Bed, cpu: int) -> Space:
    """Start a live lab whose only guest is the load's namespace."""
    name = f"{PREFIX}-{bed.name}"
    space = Space(f"{name}-load")
    file = bed.folder / "lab.yaml"
    file.write_text(TOPOLOGY.format(name=name, namespace=space.name))
    lab = bed.start(
        "taskset", "-c", str(cpu), sys.executable, "-m", "vnet", "up", str(file), "--state", str(bed.folder / "state"),
        death="TERM", patience=20,
    )  # fmt: skip
    log = bed.folder / "log"
    wait_until(lambda: lab.poll() is not None or "ready" in log.read_text().split(), "the lab becoming ready", 30)
    if lab.poll() is not None:
        raise RuntimeError(f"the lab ended: {log.read_text()}")
    return space


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure the row of this group."""
    reason = why_not(("kea-dhcp4", "taskset"))
    if reason:
        return [Row(what=WHAT, gate=1, ambition=2, note=reason)]
    busy: dict[str, list[float]] = {"vnet": [], "Kea": []}
    failures: list[str] = []
    with ExitStack() as stack:
        spaces = {
            "vnet": vnet_server(stack.enter_context(Bed("d0")), SERVER_CPU),
            "Kea": kea.server(stack.enter_context(Bed("d1")), SERVER_CPU),
        }

        def contender(name: str) -> Callable[[], float]:
            def measure() -> float:
                words = f"--in-flight {IN_FLIGHT} --seconds {SECONDS} --population {POPULATION}".split()
                load = ("taskset", "-c", str(LOAD_CPU), sys.executable, "-m", "benchmarks.dhcp_load", "eth0", *words)
                found = json.loads(spaces[name].run(*load))
                busy[name].append(found["busy"])
                if found["stalls"] or found["unexpected"]:
                    failures.append(f"{name}: {found['stalls']} stalls, {found['unexpected']} unexpected replies")
                return float(found["rate"])

            return measure

        measured = interleave({name: contender(name) for name in spaces}, rounds)
    load = ", ".join(f"{median(values):.0%} for {name}" for name, values in busy.items())
    return [
        Row(
            what=WHAT,
            gate=1,
            ambition=2,
            ratios=against_best(measured, "vnet", ("Kea",)),
            figures=medians(measured, "exchanges/s", digits=0),
            note="; ".join([f"the load generator was busy {load}", *failures]),
        )
    ]


if __name__ == "__main__":
    for row in rows(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS):
        print(row.what, row.verdict, row.measured, row.ratios, dict(row.figures), row.note, sep="\n  ")
