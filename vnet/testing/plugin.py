"""The pytest plugin: tests that run inside a lab, in virtual time.

::

    @pytest.mark.vnet("topologies/office-in-a-box.yaml")
    async def test_dmz_is_reachable(lab):
        reply = await lab.guests["pc"].ping(lab.guests["web"].address)
        assert reply.ok

The test runs under ``vnet.simulate`` with the seed of ``--vnet-seed`` (or one run for each of ``--vnet-seeds``), its lab is
up before the first line and gone after the last. ``--vnet-live`` runs the same test in real time. A test that fails leaves a
capture of every cable, the event log, the state of the lab at that instant and the command that replays it in
``vnet-failures/``, until it passes; ``--vnet-stop`` opens the debugger there, while the lab stands still.

With many seeds the end of the report names the first that failed of each test. What it needs for that travels with the
tests' reports, because under pytest-xdist those come from other processes.
"""

from __future__ import annotations

import inspect
import json
import pdb
import re
import shlex
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, final

import pytest

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab
    from vnet.topology.resolved import ResolvedTopology

# pytest loads this module in every project of whoever has vnet installed: what a lab needs is imported when one is made.

FAILURES: Final = "vnet-failures"
OPTIONS: Final = ("seed", "state", "wait", "limit")
"""What the marker takes beside the topology."""
LIMIT: Final = "365d"
"""Lab time after which a test is taken to wait for ever: in real time that is seconds, and ten years are a minute."""
_RUN: Final = pytest.StashKey["LabRun"]()
_KEPT: Final = pytest.StashKey[set[str]]()
"""Tests of this process that failed, and left what helps to understand why: with many seeds each does so once."""


@final
@dataclass(slots=True)
class LabRun:
    """What one test's lab leaves for the report, should the test fail."""

    seed: int
    live: bool
    capture: bytes = b""
    events: str = ""
    state: str = ""
    topology: str = ""
    coverage: dict[str, dict[str, int]] = field(default_factory=dict)
    instant: float | None = None
    """When it failed, in seconds on the lab clock."""
    opened: bool = False
    """Whether there was a lab: a topology may have been wrong."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose seeds and the kind of time."""
    group = parser.getgroup("vnet", "labs")
    group.addoption("--vnet-seed", type=int, default=None, metavar="N", help="seed of simulated labs (default 0)")
    group.addoption(
        "--vnet-seeds", type=int, default=0, metavar="COUNT", help="run each lab test with COUNT seeds, from --vnet-seed on"
    )
    group.addoption(
        "--vnet-stop", action="store_true", help="open the debugger where a lab test fails, with the lab as it is then"
    )
    group.addoption("--vnet-cov", action="store_true", help="report which parts of the topologies the lab tests exercised")
    group.addoption("--vnet-live", action="store_true", help="run lab tests in real time, with real namespaces")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.stash[_KEPT] = set()
    config.addinivalue_line(
        "markers",
        f"vnet(topology, *, seed=None, state=None, wait=True, limit={LIMIT!r}): run the async test inside a lab made from a "
        "topology file, its text or a ResolvedTopology; `wait` lets guests get their addresses first, and a test that "
        "still waits after `limit` of lab time fails",
    )


@pytest.hookimpl(trylast=True)  # the seed is the last part of a test's id, behind those of parametrize
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for each seed, if many are asked for."""
    count = metafunc.config.getoption("--vnet-seeds")
    if count and metafunc.definition.get_closest_marker("vnet"):
        first = metafunc.config.getoption("--vnet-seed") or 0
        metafunc.fixturenames.append("vnet_seed")
        metafunc.parametrize("vnet_seed", range(first, first + count), ids=lambda seed: f"seed{seed}", indirect=True)


@pytest.fixture
def vnet_seed(request: pytest.FixtureRequest) -> int:
    """Give the seed of the test's lab: that of --vnet-seeds or --vnet-seed, else the marker's, else 0."""
    if hasattr(request, "param"):
        return int(request.param)
    return _seed(request.node)


@pytest.fixture
def lab(request: pytest.FixtureRequest, vnet_seed: int) -> Lab:
    """Give the test its lab; only async tests with the marker ``vnet`` have one."""
    if request.node.get_closest_marker("vnet") is None:
        raise pytest.UsageError("the lab fixture needs @pytest.mark.vnet(topology) on the test")
    if not inspect.iscoroutinefunction(request.node.obj):
        raise pytest.UsageError(f"{request.node.name} needs async def: a lab runs only while a test waits")
    # The real one is made within the run, where there is a clock; see pytest_pyfunc_call.
    return cast("Lab", None)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a marked async test inside its lab."""
    marker = pyfuncitem.get_closest_marker("vnet")
    if marker is None or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    import trio

    from vnet.runtime.clock import simulate
    from vnet.runtime.opening import open_lab
    from vnet.runtime.sinks import MemorySink
    from vnet.runtime.usage import length_of
    from vnet.runtime.views import everything
    from vnet.testing.coverage import exercised

    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    seed = _seed(pyfuncitem)
    run = LabRun(seed, bool(pyfuncitem.config.getoption("--vnet-live")))
    pyfuncitem.stash[_RUN] = run
    topology = _topology(pyfuncitem, marker)

    async def test() -> None:
        trio.lowlevel.current_task().name = pyfuncitem.name  # for errors that say who waits
        async with open_lab(topology, seed=seed, state=marker.kwargs.get("state")) as opened:
            run.opened = True
            sink = MemorySink()
            capture = opened.captures.start(sink)
            try:
                if marker.kwargs.get("wait", True):
                    await opened.wait_up()
                if "lab" in names:
                    arguments["lab"] = opened
                await pyfuncitem.obj(**arguments)
            except BaseException as error:
                run.instant = opened.now
                run.state = _dump(lambda: everything(opened))
                if isinstance(error, Exception | pytest.fail.Exception):
                    _stop(pyfuncitem.config, error, opened)
                raise
            finally:
                capture.finish()
                run.capture, run.events = sink.octets(), opened.events.to_lines()
                if pyfuncitem.config.getoption("--vnet-cov"):
                    run.topology, run.coverage = opened.name, exercised(opened)

    if run.live:
        trio.run(test)
    else:
        simulate(test, seed=seed, limit=length_of(marker.kwargs.get("limit", LIMIT)))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what helps to understand a failure, and say how to see it again."""
    report = yield
    run = item.stash.get(_RUN, None)
    if run is None or call.when != "call":
        return report
    replay = f"pytest {shlex.quote(_without_seed(item.nodeid))} --vnet-seed {run.seed}{' --vnet-live' if run.live else ''}"
    vars(report)["vnet"] = {
        "test": _without_seed(item.nodeid), "seed": run.seed, "replay": replay,
        "topology": run.topology, "coverage": run.coverage,
    }  # fmt: skip
    directory = _directory(item.config, item.nodeid)
    if report.passed:
        for each in directory, _directory(item.config, _with_seed(item.nodeid, run.seed)):
            _forget(each, replay)
    if not report.failed or not run.opened:
        return report
    kept = item.config.stash[_KEPT]
    if item.config.getoption("--vnet-seeds") and _without_seed(item.nodeid) in kept:
        _forget(directory, replay)
        report.sections.append(("vnet", f"replay: {replay}\nwhat another seed left is kept"))
        return report
    kept.add(_without_seed(item.nodeid))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "capture.pcapng").write_bytes(run.capture)
    (directory / "events.jsonl").write_text(run.events)
    (directory / "state.json").write_text(run.state)
    (directory / "replay.txt").write_text(replay + "\n")
    when = ":" if run.instant is None else f" at {run.instant:.6f} s: "
    report.sections.append(
        (
            "vnet",
            f"capture of every cable: {directory / 'capture.pcapng'}\n"
            f"event log:              {directory / 'events.jsonl'}\n"
            f"state{when:<19}{directory / 'state.json'}\n"
            f"replay:                 {replay}\n"
            f"replay and stop there:  {replay} --vnet-stop",
        )
    )
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the first seed with which each test failed, if there were many; say what the tests covered, if asked."""
    outcomes = [
        (told, outcome == "failed")
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        if (told := vars(report).get("vnet")) is not None
    ]
    if terminalreporter.config.getoption("--vnet-seeds"):
        _tell_seeds(terminalreporter, outcomes)
    if terminalreporter.config.getoption("--vnet-cov"):
        _tell_coverage(terminalreporter, [told for told, _ in outcomes])


def _tell_seeds(terminal: pytest.TerminalReporter, outcomes: list[tuple[dict[str, Any], bool]]) -> None:
    failed: dict[str, list[tuple[int, str]]] = {}
    seeds: dict[str, int] = {}
    for told, is_failure in outcomes:
        seeds[told["test"]] = seeds.get(told["test"], 0) + 1
        if is_failure:
            failed.setdefault(told["test"], []).append((told["seed"], told["replay"]))
    if failed:
        terminal.section("vnet: seeds that fail")
    for test, found in failed.items():
        first, replay = min(found)
        terminal.write_line(f"{test}: {len(found)} of {seeds[test]} seeds, the first is {first}")
        terminal.write_line(f"  {replay}")


def _tell_coverage(terminal: pytest.TerminalReporter, tests: list[dict[str, Any]]) -> None:
    from vnet.testing.coverage import Counts, merge, summary

    totals: dict[str, Counts] = {}
    count: dict[str, int] = {}
    for told in tests:
        if told["topology"]:
            merge(totals.setdefault(told["topology"], {}), told["coverage"])
            count[told["topology"]] = count.get(told["topology"], 0) + 1
    terminal.section("vnet: coverage of the network")
    if not totals:
        terminal.write_line("no lab was run")
    for topology in sorted(totals):
        terminal.write_line(f"{topology}, {count[topology]} test{'s' if count[topology] != 1 else ''}")
        for line in summary(totals[topology]):
            terminal.write_line("  " + line)


def _dump(view: Callable[[], object]) -> str:
    """Write the state as JSON. A lab so broken that it cannot be shown must not hide why its test failed."""
    try:
        return json.dumps(view(), indent=1) + "\n"
    except Exception as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n"


def _stop(config: pytest.Config, error: BaseException, opened: Lab) -> None:
    """Open the debugger where *error* was raised, if that is asked for and there is a terminal: workers have none."""
    if not config.getoption("--vnet-stop") or hasattr(config, "workerinput"):
        return
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    if capture is not None:
        capture.suspend_global_capture(in_=True)
    try:
        if terminal is not None:
            terminal.write_line(f"\nstopped at {opened.now:.6f} s of lab {opened.name}: {type(error).__name__}: {error}")
        pdb.post_mortem(error.__traceback__)
    finally:
        if capture is not None:
            capture.resume_global_capture()


def _directory(config: pytest.Config, nodeid: str) -> Path:
    """Name the directory of what a test leaves when it fails."""
    return config.rootpath / FAILURES / re.sub(r"[^A-Za-z0-9_.-]+", "-", nodeid).strip("-")


def _forget(directory: Path, replay: str) -> None:
    """Remove what this very run, with this seed, left when it failed the last time."""
    try:
        if (directory / "replay.txt").read_text() == replay + "\n":
            shutil.rmtree(directory)
    except OSError:
        pass  # there is nothing, or it is somebody else's


def _with_seed(nodeid: str, seed: int) -> str:
    """Name the test as with --vnet-seeds."""
    return f"{nodeid[:-1]}-seed{seed}]" if nodeid.endswith("]") else f"{nodeid}[seed{seed}]"


def _without_seed(nodeid: str) -> str:
    """Take the seed's part out of a test's id, so that the replay names a test that exists without --vnet-seeds."""
    return re.sub(r"\[seed\d+\]$", "", re.sub(r"-seed\d+\]$", "]", nodeid))


def _seed(item: pytest.Function) -> int:
    if "vnet_seed" in item.funcargs:
        return int(str(item.funcargs["vnet_seed"]))
    asked: int | None = item.config.getoption("--vnet-seed")
    if asked is not None:
        return asked
    marker = item.get_closest_marker("vnet")
    return int(marker.kwargs.get("seed") or 0) if marker is not None else 0


def _topology(item: pytest.Function, marker: pytest.Mark) -> ResolvedTopology:
    """Load the marker's topology: a path (from the test's folder, or from the root), its text, or the resolved thing."""
    from vnet.errors import UsageError
    from vnet.topology import load_topology, parse_topology
    from vnet.topology.resolved import ResolvedTopology

    for name in marker.kwargs:
        if name not in OPTIONS:
            raise pytest.UsageError(f"the marker vnet takes no {name!r}; it takes a topology, and {', '.join(OPTIONS)}")
    if len(marker.args) != 1:
        raise pytest.UsageError("the marker vnet takes one topology: @pytest.mark.vnet('topologies/lab.yaml')")
    source = marker.args[0]
    if isinstance(source, ResolvedTopology):
        return source
    if isinstance(source, str) and "\n" in source:
        return parse_topology(source, source=item.name)
    path = Path(cast("Any", source))
    for base in (item.path.parent, item.config.rootpath):
        if (base / path).is_file():
            return load_topology(base / path)
    raise UsageError(f"no topology {path} beside {item.path.name} or in {item.config.rootpath}")
