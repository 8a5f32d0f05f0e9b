"""``vnet up``: run a lab in the foreground, detached, or in virtual time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, final

import click
import trio

from vnet.cli.output import print_json, print_progress
from vnet.cli.show import print_view, rows_of
from vnet.errors import TopologyError, UsageError
from vnet.units import DAY, SECOND, Duration, format_duration, parse_duration

if TYPE_CHECKING:
    from vnet.errors import Problem
    from vnet.fabric.trace import Event
    from vnet.runtime.lab import Lab
    from vnet.topology.resolved import ResolvedTopology

READY: Final = "ready"
MOST_TIMEOUT: Final = 86_400.0
FLUSH_INTERVAL: Final = 1.0
FAILED_NAMED: Final = 8
"""Programs that failed are named up to this many."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Summary: TypeAlias = "dict[str, object]"


@final
@dataclass(frozen=True, slots=True)
class Options:
    """What ``vnet up`` was asked to do."""

    file: Path
    seed: int
    state: Path | None
    capture: Path | None
    events: Path | None
    timeout: float
    emulate: bool
    as_json: bool


@click.command("up")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--detach", "-d", is_flag=True, help="Return when the lab is ready, and leave it running.")
@click.option(
    "--simulate", "-s", is_flag=False, flag_value="", default=None, metavar="[DURATION]",
    help="Run in virtual time: no privileges, the same result for the same seed. Ends after DURATION (24h) of lab time, "
    "or when everything is up.",
)  # fmt: skip
@click.option("--emulate", is_flag=True, help="Emulate every guest, namespaces too: a live lab without root.")
@click.option("--seed", type=int, metavar="N", default=0, show_default=True, help="Seed of everything random.")
@click.option("--state", type=click.Path(path_type=Path), metavar="DIR", help="Where DHCP leases outlive the lab.")
@click.option("--capture", type=click.Path(path_type=Path), metavar="PCAPNG", help="Capture one end of every cable.")
@click.option("--events", type=click.Path(path_type=Path), metavar="FILE", help="Write the event log, a line of JSON each.")
@click.option(
    "--timeout", type=click.FloatRange(0), default=60.0, metavar="SECONDS", show_default=True,
    help="How long to wait for addresses.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the networks and guests as JSON.")
@click.option("--ready-fd", type=int, hidden=True, help="Where a detached lab tells its starter that it is ready.")
def up_command(
    file: Path | None,
    detach: bool,
    simulate: str | None,
    emulate: bool,
    seed: int,
    state: Path | None,
    capture: Path | None,
    events: Path | None,
    timeout: float,
    as_json: bool,
    ready_fd: int | None,
) -> int:
    """Run the lab in FILE: print its networks and guests, then "ready" when every guest has its address.

    Ctrl-C, SIGTERM or vnet down end it and leave nothing behind. With --simulate the exit status is 1 if a program failed.

    \b
    vnet up lab.yaml
    vnet up lab.yaml --detach && vnet exec lab pc1 -- ip addr; vnet down lab
    vnet up lab.yaml --simulate 24h --seed 7 --capture day.pcapng
    """
    if file is None and simulate and not _is_duration(simulate):
        file, simulate = Path(simulate), ""  # vnet up --simulate FILE
    if file is None:
        raise click.UsageError("which topology file is to run? vnet up FILE")
    if detach and simulate is not None:
        raise click.UsageError("a simulated lab runs at once and ends: --detach and --simulate exclude each other")
    if not timeout <= MOST_TIMEOUT:  # nan is not either
        raise click.UsageError(f"--timeout is at most {MOST_TIMEOUT:.0f} seconds")
    options = Options(file, seed, state, capture, events, timeout, emulate, as_json)
    if detach:
        return _detach(options)
    if simulate is not None:
        return _simulate(options, parse_simulated(simulate) if simulate else None)
    return trio.run(_run_live, options, ready_fd, strict_exception_groups=True)


def parse_simulated(text: str) -> Duration:
    """Read the length of a simulation; raise UsageError."""
    from vnet.runtime.clock import MAX_DURATION

    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--simulate: {error}") from error
    if duration >= MAX_DURATION:
        raise UsageError(f"--simulate: {text} is too long; the lab clock goes up to {MAX_DURATION // DAY} days")
    return duration


def _is_duration(text: str) -> bool:
    try:
        parse_duration(text)
    except ValueError:
        return False
    return True


# -- what all kinds share


@contextlib.contextmanager
def _recording(lab: Lab, options: Options) -> Iterator[None]:
    """Record the capture and the event log that were asked for; say on standard error which programs and machines fail."""
    from vnet.runtime.sinks import FileSink

    for event in lab.events:
        _tell_failure(event)
    lab.events.listeners.append(_tell_failure)
    if options.capture is not None:
        lab.captures.start(FileSink(options.capture))
    if options.events is None:
        yield
        return
    try:
        log = options.events.open("w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {options.events}: {error.strerror}") from error
    with log:
        log.writelines(event.to_json() + "\n" for event in lab.events)

        def note(event: Event) -> None:
            log.write(event.to_json() + "\n")

        lab.events.listeners.append(note)
        try:
            yield
        finally:
            lab.events.listeners.remove(note)


def _load(file: Path) -> tuple[ResolvedTopology, tuple[Problem, ...]]:
    """Load the topology, and say on standard error what is odd about it, as ``vnet check`` does; raise TopologyError."""
    from vnet.topology import check_topology

    topology, problems = check_topology(file)
    if topology is None:
        raise TopologyError(problems)
    for problem in problems:
        print_progress(str(problem))
    return topology, problems


def _tell_failure(event: Event) -> None:
    if event.kind == "program-failed":
        print_progress(f"{event.node}: program {event.fields['program']} failed: {event.fields['error']}")
    if event.kind == "vm-failed":
        told = [f"{event.node} {event.fields['error']}", event.fields["qemu"], event.fields["console"]]
        print_progress("; last it said: ".join(str(each) for each in told if each))


def _summary(lab: Lab, problems: Iterable[Problem]) -> Summary:
    from vnet.runtime.views import show

    return {
        "name": lab.name, "pid": os.getpid(), "live": lab.live, "seed": lab.seed, "time_s": round(lab.now, 3),
        "problems": [asdict(problem) for problem in problems],
        **{what: show(lab, what) for what in ("networks", "guests", "programs")},
    }  # fmt: skip


def _print_ready(summary: Mapping[str, object], as_json: bool) -> bool:
    """Print how the lab stands; tell whether no program has failed so far, and on standard error which have."""
    if as_json:
        print_json({**summary, "ready": True})
    else:
        for what in ("networks", "guests", "programs"):
            rows = rows_of(summary[what])
            if rows or what != "programs":  # few labs have any
                print_view(what, rows, what)
                click.echo()
        click.echo(READY)
    programs = rows_of(summary["programs"])
    failed = [f"{row['name']} on {row['guest']}" for row in programs if row["state"] == "failed"]
    if failed:
        more = f", and {len(failed) - FAILED_NAMED} more" if len(failed) > FAILED_NAMED else ""
        named = ", ".join(failed[:FAILED_NAMED]) + more
        print_progress(f"the guests are up, but {len(failed)} of {len(programs)} programs failed: {named}")
    return not failed


# -- live


async def _run_live(options: Options, ready_fd: int | None) -> int:
    """Run a lab until a signal or ``vnet down`` ends it."""
    is_ready = False
    async with _ended_by_signal(), _served_lab(options) as (lab, problems):
        await _wait_up(lab, options.timeout)
        is_ready = True
        if ready_fd is None:
            _print_ready(_summary(lab, problems), options.as_json)
        elif not lab.stopping.is_set():
            _go_into_background(lab, problems, ready_fd)
        await lab.stopping.wait()
    return 0 if is_ready else 130


@asynccontextmanager
async def _ended_by_signal() -> AsyncIterator[None]:
    """Cancel the block at the first signal; more of them change nothing, because what is left is cleaning up."""
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            yield
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _served_lab(options: Options) -> AsyncIterator[tuple[Lab, tuple[Problem, ...]]]:
    """Open a live lab that answers on its control socket; give it with the warnings about its file."""
    from vnet.runtime.commands import Commands
    from vnet.runtime.control import ControlServer
    from vnet.runtime.opening import open_lab
    from vnet.runtime.places import place_of

    print_progress(f"reading {options.file}")
    topology, problems = _load(options.file)
    async with open_lab(
        topology, seed=options.seed, state=options.state, emulate=options.emulate, progress=print_progress
    ) as lab:
        with _recording(lab, options):
            server = ControlServer(Commands(lab), place_of(lab.name).control, lab.events.reporter("control"))
            listener = server.listen()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run, listener)
                nursery.start_soon(_flush_files, lab)
                yield lab, problems
                nursery.cancel_scope.cancel()


async def _flush_files(lab: Lab) -> None:
    """Keep the file of ``--capture`` worth looking at while the lab runs."""
    while True:
        await trio.sleep(FLUSH_INTERVAL)
        lab.captures.flush()


async def _wait_up(lab: Lab, timeout: float) -> None:
    """Wait for every guest's address, or for the end of the lab."""
    from vnet.runtime.views import without_client

    waiting = [guest.name for guest in lab.guests.values() if any(each.dhcp for each in guest.interfaces())]
    if waiting:
        print_progress(f"waiting for the addresses of {', '.join(waiting[:8])}{', ...' if len(waiting) > 8 else ''}")
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            await lab.stopping.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop)
        await lab.wait_up(timeout)
        nursery.cancel_scope.cancel()
    for port in without_client(lab):
        guest, interface = port.split(":")
        print_progress(
            f"{port} has no address until a client of yours asks: vnet exec {lab.name} {guest} -- dhclient {interface}; "
            "or write `dhcp: vnet` at the NIC"
        )


# -- detached


def _go_into_background(lab: Lab, problems: Iterable[Problem], ready_fd: int) -> None:
    """Tell the starter what it is to print, and write to the lab's log from now on."""
    from vnet.runtime.places import place_of

    with place_of(lab.name).log.open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    with contextlib.suppress(OSError), os.fdopen(ready_fd, "w") as starter:  # the starter may be gone
        json.dump(_summary(lab, problems), starter)


def _detach(options: Options) -> int:
    """Start a process of its own session that runs the lab; return when that is ready or has failed."""
    read_end, write_end = os.pipe()
    paths = (("state", options.state), ("capture", options.capture), ("events", options.events))
    command = [sys.executable, "-m", "vnet", "up", str(options.file)]
    command += [f"--seed={options.seed}", f"--timeout={options.timeout}", f"--ready-fd={write_end}"]
    command += [f"--{name}={path}" for name, path in paths if path] + ["--emulate"] * options.emulate
    with os.fdopen(read_end) as told:
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[write_end], start_new_session=True
            )
        finally:
            os.close(write_end)
        try:
            text = told.read()
        except KeyboardInterrupt:
            child.terminate()
            child.wait()
            raise
    if not text:
        return child.wait() or 1  # it has said why on our standard error
    summary = json.loads(text)
    _print_ready(summary, options.as_json)
    return 0


# -- simulated


def _simulate(options: Options, duration: Duration | None) -> int:
    """Run a lab in virtual time for *duration*, or until all are up, and print how it stands then; 1 if programs failed."""
    from vnet.runtime.clock import simulate
    from vnet.runtime.opening import open_lab

    async def run() -> Summary:
        async with open_lab(topology, state=options.state) as lab:
            with _recording(lab, options):
                if duration is None:
                    await lab.wait_up(options.timeout)
                else:
                    await trio.sleep_until(duration / SECOND)
                return _summary(lab, problems)

    length = format_duration(duration) if duration is not None else "until all are up"
    print_progress(f"simulating {options.file}, seed {options.seed}, {length}")
    topology, problems = _load(options.file)
    summary = simulate(run, seed=options.seed)
    return 0 if _print_ready(summary, options.as_json) else 1
