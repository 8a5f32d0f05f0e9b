"""ns-3: the same topologies as ``benchmarks.sim_hops``, as an optimized C++ program against the packaged library."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.bed import run
from benchmarks.setup_peers import LIBRARIES, root

SOURCE: Final = Path(__file__).parents[1] / "tools" / "hops.cc"
MODULES: Final = ("applications", "bridge", "csma", "internet", "network", "core")


@cache
def program() -> str:
    """Compile the program, if its source is newer than the last binary, and return its path."""
    binary = root() / "tools" / "hops"
    if not binary.exists() or binary.stat().st_mtime < SOURCE.stat().st_mtime:
        binary.parent.mkdir(parents=True, exist_ok=True)
        folders = [f"-L{root() / folder}" for folder in LIBRARIES]
        run(
            "g++", "-std=c++17", "-O3", "-DNDEBUG", "-march=native", "-isystem", str(root() / "usr/include"),
            "-o", str(binary), str(SOURCE), *folders, "-Wl,--unresolved-symbols=ignore-in-shared-libs",
            *(f"-lns3-{name}" for name in MODULES),
            timeout=300,
        )  # fmt: skip
    return str(binary)


def deliver(
    switches: int,
    hosts: int,
    offset: int,
    rate: int,
    payload: int,
    seconds: float,
    bps: int,
    delay: int,
    kind: str = "simple",
) -> tuple[int, float]:
    """Simulate; return the datagrams delivered and the CPU seconds that took. *kind* is "simple" or "csma"."""
    words = (switches, hosts, offset, rate, payload, seconds, bps, delay)
    delivered, used = run(program(), kind, *(str(word) for word in words), timeout=300).split()
    return int(delivered), float(used)
