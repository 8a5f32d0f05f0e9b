"""How long 100 Linux hosts on one switch take to start: a live vnet lab beside Mininet with its LinuxBridge.

Both are timed inside a fresh process each, from the description of the network to the moment at which every host has its
address and is plugged in; then the first host pings the last, and everything is taken down. Loading the programs is left
out on both sides. Mininet is spared its change of the machine's sysctls, which costs time and would outlive it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.rows import ROUNDS, Row, interleave, medians
from benchmarks.setup_peers import environment, find, root

HOSTS: Final = 100
WHAT: Final = f"a live lab of {HOSTS} namespaces: start vs Mininet (LinuxBridge)"
SYSTEM_PYTHON: Final = "/usr/bin/python3"
"""Mininet is packaged for the distribution's own Python."""

MININET: Final = """
import sys, time
import mininet.net
from mininet.log import setLogLevel
from mininet.nodelib import LinuxBridge
from mininet.topo import SingleSwitchTopo
setLogLevel("critical")
mininet.net.fixLimits = lambda: None
count = int(sys.argv[1])
begin = time.perf_counter()
net = mininet.net.Mininet(topo=SingleSwitchTopo(count), switch=LinuxBridge, controller=None, ipBase="10.99.0.0/16")
try:
    net.start()
    up = time.perf_counter() - begin
    answer = net.hosts[0].cmd("ping -c 1 -w 3", net.hosts[-1].IP())
finally:
    net.stop()
if " 1 received" not in answer:
    sys.exit("the last host does not answer: " + answer)
print(up)
"""


def topology(count: int) -> dict[str, object]:
    """Describe *count* namespace guests on one network."""
    guests = {
        f"h{number}": {
            "kind": "namespace",
            "nics": [{"network": "lan", "address": f"10.99.{number >> 8}.{number & 255}/16"}],
        }
        for number in range(1, count + 1)
    }
    return {"name": f"start{os.getpid()}", "networks": {"lan": {"subnet": "10.99.0.0/16"}}, "guests": guests}


def start_vnet(count: int) -> float:
    """Start a lab in this process; return the seconds until it is up."""
    import trio

    from vnet.runtime.opening import open_lab

    async def main() -> float:
        begin = time.perf_counter()
        async with open_lab(path) as lab:
            up = time.perf_counter() - begin
            reply = await lab.ping("h1", f"h{count}", timeout=3)
            if not reply.ok:
                raise RuntimeError(f"the last host does not answer: {reply.error}")
        return up

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "hosts.yaml")
        path.write_text(json.dumps(topology(count)))  # JSON is YAML
        return trio.run(main)


def _child(*command: str, extra: dict[str, str] | None = None) -> float:
    done = subprocess.run(
        command, capture_output=True, text=True, env={**environment(), **(extra or {})}, timeout=300, check=False
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or done.stdout.strip())
    return float(done.stdout.split()[-1])


def vnet_in_a_child() -> float:
    """Time vnet in a fresh process."""
    return _child(sys.executable, "-m", "benchmarks.live_start", "--child")


def mininet_in_a_child() -> float:
    """Time Mininet in a fresh process."""
    modules = str(root() / "usr/lib/python3/dist-packages")
    return _child(SYSTEM_PYTHON, "-c", MININET, str(HOSTS), extra={"PYTHONPATH": modules})


def why_not() -> str:
    """Say what is missing, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [program for program in ("mn", "brctl", "mnexec") if find(program) is None]
    return f"needs {', '.join(missing)}" if missing else ""


def live_start(rounds: int = ROUNDS) -> Row:
    """Measure the row."""
    if reason := why_not():
        return Row(what=WHAT, gate=3, ambition=5, note=reason)
    measured = interleave({"vnet": vnet_in_a_child, "Mininet": mininet_in_a_child}, rounds)
    ratios = tuple(theirs / ours for ours, theirs in zip(measured["vnet"], measured["Mininet"], strict=True))
    return Row(what=WHAT, gate=3, ambition=5, ratios=ratios, unit="x faster", figures=medians(measured, "s"))


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure this group's rows."""
    return [live_start(rounds)]


if __name__ == "__main__":
    if "--child" in sys.argv:
        print(start_vnet(HOSTS))
    else:
        row = live_start()
        print(row.what, row.note or f"{row.measured:.1f} {row.unit} ({row.verdict})", dict(row.figures), sep="\n")
        print(" ".join(f"{ratio:.1f}" for ratio in row.ratios))
