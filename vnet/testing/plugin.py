"""The pytest plugin: tests that run inside a lab, in virtual time.

::

    @pytest.mark.vnet("topologies/office-in-a-box.yaml")
    async def test_dmz_is_reachable(lab):
        reply = await lab.guests["pc"].ping(lab.guests["web"].address)
        assert reply.ok

The test runs under ``vnet.simulate`` with the seed of ``--vnet-seed`` (or one run for each of ``--vnet-seeds``), its lab is
up before the first line and gone after the last. ``--vnet-live`` runs the same test in real time. A test that fails leaves a
capture of every cable, the event log and the command that replays it in ``vnet-failures/``.
"""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, final

import pytest

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab
    from vnet.topology.resolved import ResolvedTopology

# pytest loads this module in every project of whoever has vnet installed: what a lab needs is imported when one is made.

FAILURES: Final = "vnet-failures"
_RUN: Final = pytest.StashKey["LabRun"]()


@final
@dataclass(slots=True)
class LabRun:
    """What one test's lab leaves for the report, should the test fail."""

    seed: int
    live: bool
    capture: bytes = b""
    events: str = ""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that choose seeds and the kind of time."""
    group = parser.getgroup("vnet", "labs")
    group.addoption("--vnet-seed", type=int, default=None, metavar="N", help="seed of simulated labs (default 0)")
    group.addoption(
        "--vnet-seeds", type=int, default=0, metavar="COUNT", help="run each lab test with COUNT seeds, from --vnet-seed on"
    )
    group.addoption("--vnet-live", action="store_true", help="run lab tests in real time, with real namespaces")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "vnet(topology, *, seed=None, state=None, wait=True): run the async test inside a lab made from a topology file, "
        "its text or a ResolvedTopology; `wait` lets guests get their addresses first",
    )


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
    from vnet.runtime.lab import open_lab
    from vnet.runtime.sinks import MemorySink

    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    seed = _seed(pyfuncitem)
    run = LabRun(seed, bool(pyfuncitem.config.getoption("--vnet-live")))
    pyfuncitem.stash[_RUN] = run
    topology = _topology(pyfuncitem, marker)

    async def test() -> None:
        async with open_lab(topology, seed=seed, state=marker.kwargs.get("state")) as opened:
            sink = MemorySink()
            capture = opened.captures.start(sink)
            try:
                if marker.kwargs.get("wait", True):
                    await opened.wait_up()
                if "lab" in names:
                    arguments["lab"] = opened
                await pyfuncitem.obj(**arguments)
            finally:
                capture.finish()
                run.capture, run.events = sink.octets(), opened.events.to_lines()

    if run.live:
        trio.run(test)
    else:
        simulate(test, seed=seed)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what helps to understand a failure, and say how to see it again."""
    report = yield
    run = item.stash.get(_RUN, None)
    if run is None or call.when != "call" or not report.failed:
        return report
    directory = item.config.rootpath / FAILURES / re.sub(r"[^A-Za-z0-9_.-]+", "-", item.nodeid).strip("-")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "capture.pcapng").write_bytes(run.capture)
    (directory / "events.jsonl").write_text(run.events)
    replay = f"pytest {shlex.quote(_without_seed(item.nodeid))} --vnet-seed {run.seed}{' --vnet-live' if run.live else ''}"
    (directory / "replay.txt").write_text(replay + "\n")
    report.sections.append(
        (
            "vnet",
            f"capture of every cable: {directory / 'capture.pcapng'}\n"
            f"event log:              {directory / 'events.jsonl'}\n"
            f"replay:                 {replay}",
        )
    )
    return report


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
