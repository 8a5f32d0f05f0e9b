"""What is measured between two guests, whatever carries their frames: throughput, frame rates, round trips, CPU time."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.bed import Pair, Space, run
from benchmarks.setup_peers import environment, root

SOURCE: Final = Path(__file__).parent / "tools" / "traffic.c"
IPERF_PORT: Final = "5201"
SMALL: Final = 18
"""Octets of UDP payload that make a frame of 64 with all headers and the FCS."""


@cache
def traffic() -> str:
    """Compile the traffic program, if its source is newer than the last binary, and return its path."""
    binary = root() / "tools" / "traffic"
    if not binary.exists() or binary.stat().st_mtime < SOURCE.stat().st_mtime:
        binary.parent.mkdir(parents=True, exist_ok=True)
        run("gcc", "-O2", "-Wall", "-o", str(binary), str(SOURCE))
    return str(binary)


def _popen(space: Space, *command: str, cpu: int | None = None) -> subprocess.Popen[str]:
    pinned = ["taskset", "-c", str(cpu), *command] if cpu is not None else list(command)
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *space.command(*pinned)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment(),
    )  # fmt: skip


@contextmanager
def _server(space: Space, *command: str, cpu: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a program that says in its first line that it is ready; end it at the end."""
    process = _popen(space, *command, cpu=cpu)
    assert process.stdout is not None
    try:
        if not process.stdout.readline():
            raise RuntimeError(f"{' '.join(command)} did not start")
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def tcp(client: Space, server: Space, address: str, seconds: float = 3, flows: int = 1) -> float:
    """Measure the bits per second that arrive in *seconds*."""
    return float(_iperf(client, server, address, flows, "--time", f"{seconds:g}")["bits_per_second"])


def tcp_to(client: Space, address: str, seconds: float = 3) -> float:
    """Measure the bits per second that arrive at a server that runs already."""
    command = ("iperf3", "--client", address, "--port", IPERF_PORT, "--json", "--time", f"{seconds:g}")
    report = json.loads(client.run(*command, check=False, timeout=300))
    if "error" in report:
        raise RuntimeError(f"iperf3: {report['error']}")
    return float(report["end"]["sum_received"]["bits_per_second"])


def cpu_per_gigabyte(pair: Pair, seconds: float = 3) -> float:
    """Measure the CPU seconds it takes the whole machine to move a gigabyte (10^9 octets) by TCP.

    Counted are the two iperf3 processes, whoever carries the frames, and the kernel's softirq threads; interrupts count for
    the process they interrupt. What unrelated processes do meanwhile does not count.
    """
    background = [*pair.carriers, *_softirq_threads()]
    before = _cpu_of(background) + _cpu_of_ended_children()
    octets = float(_iperf(pair.a, pair.b, pair.address_b, 1, "--time", f"{seconds:g}")["bytes"])
    return (_cpu_of(background) + _cpu_of_ended_children() - before) / octets * 1e9


def _iperf(client: Space, server: Space, address: str, flows: int, *words: str) -> dict[str, float]:
    """Run one transfer and return the receiver's sum."""
    with _server(server, "iperf3", "--server", "--one-off", "--port", IPERF_PORT, "--forceflush") as process:
        command = ("iperf3", "--client", address, "--port", IPERF_PORT, "--parallel", str(flows), "--json", *words)
        report = json.loads(client.run(*command, check=False, timeout=300))
        if "error" in report:
            raise RuntimeError(f"iperf3: {report['error']}")
        process.wait(10)
    received: dict[str, float] = report["end"]["sum_received"]
    return received


def _softirq_threads() -> list[int]:
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _read(entry / "comm").startswith("ksoftirqd/")
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _cpu_of(pids: Iterable[int]) -> float:
    """Sum what all threads of running processes have used, in seconds, from the scheduler's own account (proc(5))."""
    used = (_read(Path(f"/proc/{thread}/schedstat")).split() for thread in threads(pids))
    return sum(int(words[0]) for words in used if words) / 1e9


def _cpu_of_ended_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def saturated(pair: Pair, seconds: float = 2.0) -> float:
    """Send small frames as fast as one process can; return the frames per second that arrive."""
    received, duration = _stream(pair, seconds, 0)[1:]
    return received / duration


def lossless(pair: Pair, seconds: float = 0.8, steps: int = 7, top: float = 320_000, tries: int = 3) -> float:
    """Search for the highest rate, in frames per second, at which none of the small frames is lost.

    A rate passes if one of *tries* streams arrives whole: a hiccup of the machine is not the switch's.
    """
    low, high, best = 0.0, top, 0.0
    for _ in range(steps):
        rate = (low + high) / 2
        for _ in range(tries):
            sent, received, duration = _stream(pair, seconds, int(rate))
            if received == sent and sent >= 0.97 * rate * seconds:
                low, best = rate, max(best, received / duration)
                break
        else:
            high = rate
    return best


def udp_goodput(pair: Pair, size: int, segment: int, seconds: float = 2.0) -> float:
    """Send UDP as fast as one process can; return the bits of payload per second that arrive."""
    with _server(pair.b, traffic(), "sink", "9", "5") as sink:
        pair.a.run(traffic(), "blast", pair.address_b, "9", str(seconds), str(size), "0", str(segment))
        _, octets, duration = (float(word) for word in _rest(sink).split())
    return octets * 8 / duration


def _rest(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _stream(pair: Pair, seconds: float, rate: int) -> tuple[int, int, float]:
    with _server(pair.b, traffic(), "sink", "9", "5") as sink:
        sent = pair.a.run(traffic(), "blast", pair.address_b, "9", str(seconds), str(SMALL), str(rate), "0").split()
        received, _, duration = _rest(sink).split()
    return int(sent[0]), int(received), max(float(duration), 1e-6)


def connections(pair: Pair, seconds: float = 3.0, width: int = 16) -> float:
    """Open, use and close connections, *width* at a time; return how many a second."""
    with _server(pair.b, traffic(), "serve", "8"):
        return int(pair.a.run(traffic(), "connect", pair.address_b, "8", str(seconds), str(width))) / seconds


def threads(pids: Iterable[int]) -> list[int]:
    """List the threads of processes that still run."""
    found = []
    for pid in pids:
        tasks = Path(f"/proc/{pid}/task")
        found += [int(entry.name) for entry in tasks.iterdir()] if tasks.exists() else []
    return found


def round_trip(pair: Pair, count: int = 3000, cpu: int = 0) -> float:
    """Measure the median round trip of a small datagram, in seconds, with everything pinned to one CPU."""
    every = set(range(os.cpu_count() or 1))
    for thread in threads(pair.carriers):
        os.sched_setaffinity(thread, {cpu})
    try:
        with _server(pair.b, traffic(), "pong", "7", cpu=cpu):
            pair.a.run("taskset", "-c", str(cpu), traffic(), "ping", pair.address_b, "7", "300", str(SMALL))
            answer = pair.a.run("taskset", "-c", str(cpu), traffic(), "ping", pair.address_b, "7", str(count), str(SMALL))
    finally:
        for thread in threads(pair.carriers):
            os.sched_setaffinity(thread, every)
    return int(answer.split()[0]) / 1e9
