"""Measure every row and print the table: ``python -m benchmarks.run``.

Exit status 0 means that every row that could be measured passes its gate; 1 that one fails; with ``--all`` also if a row
could not be measured. ``--write docs/performance.md`` puts the table into that file, between its two markers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Final

from benchmarks import setup_peers
from benchmarks.bed import raise_on_terminate, sweep
from benchmarks.rows import ROUNDS, Row

GROUPS: Final = (
    "live_switch",
    "live_bridge",
    "live_nat",
    "stack_live",
    "user_adapter",
    "switch_core",
    "sim_hops",
    "stack_tcp",
    "sim_idle",
    "dhcp_vs_kea",
    "lab_build",
    "live_start",
    "live_vms",
)
"""One module each, with ``rows(rounds) -> list[Row]``."""
QUICK_ROUNDS: Final = 2
MARKERS: Final = ("<!-- measured -->", "<!-- /measured -->")


def measure(group: str, rounds: int) -> list[Row]:
    """Run one group; a group that breaks yields one row that says so, and the others still run."""
    started = time.monotonic()
    print(f"{group} ...", file=sys.stderr, flush=True)
    try:
        rows: Callable[[int], list[Row]] = import_module(f"benchmarks.{group}").rows
        return rows(rounds)
    except Exception as failure:
        traceback.print_exc()
        return [Row(what=group, gate=0, ambition=0, note=f"{type(failure).__name__}: {failure}".splitlines()[0])]
    finally:
        print(f"{group} took {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _bar(row: Row, bar: float) -> str:
    return f"{'<= ' if row.better == 'less' else ''}{bar:g} {row.unit}" if bar else "-"


def _measured(row: Row) -> str:
    if row.measured is None:
        return "-"
    return f"{row.measured:.3g} ({min(row.ratios):.3g}..{max(row.ratios):.3g})"


def cells(row: Row) -> tuple[str, ...]:
    """Put a row in words, column by column."""
    return (row.what, _bar(row, row.gate), _bar(row, row.ambition), _measured(row), row.verdict)


TITLES: Final = ("what", "gate", "ambition", "measured (range)", "verdict")


def table(rows: Sequence[Row]) -> str:
    """Draw the table for a terminal, with the figures behind each ratio beneath it."""
    lines = [TITLES, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(TITLES))]
    drawn = []
    for line, row in zip(lines, [None, *rows], strict=True):
        drawn.append("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        if row is not None:
            details = ", ".join(f"{name} {figure}" for name, figure in row.figures.items())
            drawn += [f"    {text}" for text in (details, row.note) if text]
    return "\n".join(drawn)


def markdown(rows: Sequence[Row], rounds: int) -> str:
    """Draw the table for the documentation, with when and where it was taken."""
    lines = [
        f"Taken {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {rounds} rounds, on {machine()}, load {os.getloadavg()[0]:.1f}.",
        "",
        f"| {' | '.join(TITLES)} | medians |",
        "|" + "---|" * (len(TITLES) + 1),
    ]
    for row in rows:
        details = "; ".join([f"{name} {figure}" for name, figure in row.figures.items()] + ([row.note] if row.note else []))
        lines.append("| " + " | ".join((*cells(row), details)) + " |")
    return "\n".join(lines)


def machine() -> str:
    """Describe where this runs."""
    models = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return (
        f"{os.cpu_count()} CPUs ({models[0] if models else platform.machine()}), "
        f"Linux {platform.release().split('-')[0]}, CPython {platform.python_version()}"
    )


def write(path: Path, text: str) -> None:
    """Replace what stands between the markers of a document."""
    document = path.read_text()
    before, _, rest = document.partition(MARKERS[0])
    _, found, after = rest.partition(MARKERS[1])
    if not found:
        raise SystemExit(f"{path} has no {MARKERS[0]} ... {MARKERS[1]}")
    path.write_text(f"{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{after}")


def main() -> int:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=GROUPS, metavar="GROUP", help=f"one of {', '.join(GROUPS)}; repeatable"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"measurements of each contender (default {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds: for development, not for publication")
    parser.add_argument("--all", action="store_true", help="fail also if a row cannot be measured here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows, with every round, as JSON")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also put the table into this document")
    options = parser.parse_args()
    rounds = QUICK_ROUNDS if options.quick else options.rounds
    raise_on_terminate()
    if os.geteuid() == 0:
        sweep()
    if setup_peers.missing() and shutil.which("apt-get"):
        setup_peers.main()
    rows = [row for group in options.only or GROUPS for row in measure(group, rounds)]
    print(f"\nvnet beside its peers, {rounds} rounds, {machine()}, load {os.getloadavg()[0]:.1f}\n")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([{**asdict(row), "verdict": row.verdict} for row in rows], indent=1) + "\n")
    if options.write:
        write(options.write, markdown(rows, rounds))
    bad = {"FAIL", "not measured"} if options.all else {"FAIL"}
    return 1 if any(row.verdict in bad for row in rows) else 0


if __name__ == "__main__":
    try:
        status = main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    raise SystemExit(status)
