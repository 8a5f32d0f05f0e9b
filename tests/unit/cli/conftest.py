"""Run command lines in this process, and a live lab of emulated guests for them to speak with."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from vnet.cli.main import run as run_cli
from vnet.runtime.commands import Commands
from vnet.runtime.control import ControlServer
from vnet.runtime.lab import Lab
from vnet.runtime.opening import open_lab
from vnet.runtime.places import place_of

TOPOLOGY = """\
name: tiny
networks:
  lan: {vlan: 10, subnet: 10.0.0.0/24}
  far: {vlan: 20, subnet: 10.0.1.0/24}
  pool: {vlan: 30, subnet: 10.0.2.0/24, dhcp: {}}
routers:
  r:
    interfaces: {lan: 10.0.0.254/24, far: 10.0.1.254/24}
    firewall: {policy: drop, allow: [{from: lan, to: far}]}
switches: {core: {}, edge: {}}
links: [{between: [core, edge], trunk: all}]
guests:
  a: {nics: [{network: lan, address: 10.0.0.1/24, mac: 52:54:00:00:00:0a}]}
  b: {switch: edge, nics: [{network: lan, address: 10.0.0.2/24, mac: 52:54:00:00:00:0b}]}
  c: {nics: [{network: far, address: 10.0.1.3/24, gateway: 10.0.1.254}]}
"""


class Result(NamedTuple):
    """What a command line did."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a command line; labs live in a directory of the test unless a lab is there already."""
    if "VNET_RUN_DIR" not in os.environ:
        monkeypatch.setenv("VNET_RUN_DIR", str(tmp_path_factory.mktemp("run")))

    def run_line(*arguments: object) -> Result:
        capfd.readouterr()
        status = run_cli([str(argument) for argument in arguments])
        return Result(status, *capfd.readouterr())

    return run_line


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    """A topology file with two networks, a router, two switches and three guests."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TOPOLOGY)
    return path


class LabThread:
    """A live lab in a thread of its own, with its control socket."""

    def __init__(self, topology: Path) -> None:
        self._topology = topology
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self.lab: Lab | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(10)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            self._failure = error
        self._started.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with open_lab(self._topology) as self.lab:
            server = ControlServer(Commands(self.lab), place_of(self.lab.name).control)
            listener = server.listen()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run, listener)
                self._started.set()
                await self.lab.stopping.wait()
                nursery.cancel_scope.cancel()

    def end(self) -> None:
        assert self._token is not None and self.lab is not None
        self._token.run_sync_soon(self.lab.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure


@pytest.fixture
def lab(topology: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabThread]:
    """The lab ``tiny``, running."""
    monkeypatch.setenv("VNET_RUN_DIR", str(tmp_path_factory.mktemp("run")))
    thread = LabThread(topology)
    yield thread
    if thread._thread.is_alive():
        thread.end()
