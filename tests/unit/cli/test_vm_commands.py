"""``vnet console``, ``vnet set`` and ``vnet show`` with a machine, whose QEMU only pretends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.cli.conftest import LabThread
from tests.unit.guests import fake_qemu
from vnet.cli.up import _tell_failure
from vnet.fabric.timeline import Timeline
from vnet.fabric.trace import EventLog

if TYPE_CHECKING:
    from .conftest import Run

TOPOLOGY = """
name: tiny
networks: {lan: {subnet: 10.0.0.0/24}}
guests:
  a: {nics: [{network: lan, address: 10.0.0.9/24}]}
  vm: {kind: qemu, nics: [lan]}
"""


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabThread]:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {fake_qemu.__file__} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("VNET_RUN_DIR", str(tmp_path / "run"))
    (tmp_path / "tiny.yaml").write_text(TOPOLOGY)
    thread = LabThread(tmp_path / "tiny.yaml")
    yield thread
    if thread._thread.is_alive():
        thread.end()


def console(*options: str) -> subprocess.Popen[bytes]:
    """Look at the console without a terminal; standard input stays open, as long as the test does not close it."""
    command = [sys.executable, "-m", "vnet", "console", "tiny", "vm", *options]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_the_console_is_shown_until_the_machine_ends(run: Run, machines: LabThread) -> None:
    watching = console()
    assert watching.stdout is not None and watching.stdin is not None
    assert watching.stdout.readline() == b"hello from the machine\r\n"
    watching.stdin.write(b"keys for nobody\n")
    watching.stdin.flush()
    assert run("console", "tiny", "vm", "--print").status == 0
    assert run("set", "tiny", "vm", "pause").out == "guest vm, state paused\n"
    assert "qemu paused" in run("show", "tiny", "guests").out
    assert run("set", "tiny", "vm", "resume", "stop").out == "guest vm, state stopped\n"
    assert watching.wait(10) == 0, "it goes with the machine"
    watching.stdin.close()
    watching.stdout.close()
    status, _, err = run("set", "tiny", "vm", "pause")
    assert status == 2 and "cannot pause vm: it is stopped, and must be running" in err
    status, _, err = run("console", "tiny", "a")
    assert status == 2 and "a is an emulated guest, no virtual machine; guests of kind qemu are: vm" in err
    status, _, err = run("exec", "tiny", "vm", "--", "ls")
    assert status == 2 and "vm is a virtual machine and runs no programs" in err
    assert run("set", "tiny", "vm", "down").out.startswith("link vm:eth0, state down")


def test_what_was_said_is_printed(run: Run, machines: LabThread) -> None:
    with console() as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == b"hello from the machine\r\n"
        watching.kill()
    with console("--print") as printed:
        assert printed.communicate(timeout=10)[0] == b"hello from the machine\r\n"


def test_a_failure_is_told_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    events = EventLog(Timeline())
    events.listeners.append(_tell_failure)
    events.add("vm", "vm-failed", error="ended with status 3", qemu="", console="Kernel panic / not syncing")
    assert capsys.readouterr().err == "  vm ended with status 3; last it said: Kernel panic / not syncing\n"
