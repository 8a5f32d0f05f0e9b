from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vnet.adapters.netns import cookie
from vnet.adapters.resources import (
    LAB_TOKEN,
    FileId,
    FileResource,
    LinkResource,
    ProcessResource,
    end_all_with_token,
    end_processes,
    processes_with_token,
    start_time,
)
from vnet.guests.process import LabProcesses

SLEEP = [sys.executable, "-IS", "-c", "print('ready', flush=True); input()"]
STUBBORN = [
    sys.executable, "-IS", "-c",
    "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); input()",
]  # fmt: skip


def start(argv: list[str], **environment: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, env={**os.environ, **environment})
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process


def test_an_interface_is_only_looked_for_in_its_own_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    (name, *_) = [name for _, name in socket.if_nameindex()]
    removed: list[object] = []
    monkeypatch.setattr("vnet.adapters.resources.delete_link", removed.append)
    assert LinkResource(name, cookie()).exists() and not LinkResource("vmt-nowhere", cookie()).exists()
    elsewhere = LinkResource(name, cookie() + 1)
    assert not elsewhere.exists() and not elsewhere.remove() and removed == []


def test_a_file_is_removed_only_if_it_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        resource = FileResource(str(path), FileId.of(path.lstat()))
        assert resource.remove() and not path.exists()
        assert not resource.remove()
    path.write_text("somebody else's")
    assert not resource.remove() and path.exists()


def test_a_link_in_the_place_of_a_file_is_left_alone(tmp_path: Path) -> None:
    path, target = tmp_path / "file", tmp_path / "target"
    target.write_text("x")
    resource = FileResource(str(path), FileId.of(target.stat()))
    path.symlink_to(target)
    assert not resource.remove() and path.is_symlink() and target.exists()


def test_a_process_is_ended_only_if_it_is_the_same() -> None:
    with start(SLEEP) as process:
        resource = ProcessResource.of(process.pid)
        assert not ProcessResource(process.pid, resource.started + 1).remove()
        assert process.poll() is None
        assert resource.remove() and process.wait() == -15
        assert not resource.remove()


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    with start(STUBBORN) as process:
        assert end_processes([ProcessResource.of(process.pid)], grace=0.05)
        assert process.wait() == -9


def test_processes_are_found_by_their_token_alone() -> None:
    with start(SLEEP, **{LAB_TOKEN: "one"}) as one, start(SLEEP, **{LAB_TOKEN: "one-more"}) as other:
        assert [process.pid for process in processes_with_token("one")] == [one.pid]
        assert [process.pid for process in end_all_with_token("one")] == [one.pid]
        assert one.wait() == -15 and other.poll() is None
        other.kill()
    assert end_all_with_token("one") == []


def test_a_launcher_is_found_before_it_has_become_the_program() -> None:
    with start([*SLEEP, "--token", "two"]) as launcher:
        assert [process.pid for process in processes_with_token("two")] == [launcher.pid]
        launcher.kill()


def test_a_zombie_does_not_run() -> None:
    process = subprocess.Popen([sys.executable, "-IS", "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(process.pid) is None
    process.wait()
    assert start_time(process.pid) is None
    with pytest.raises(ProcessLookupError):
        ProcessResource.of(process.pid)


def test_two_labs_have_two_tokens() -> None:
    first, second = LabProcesses(), LabProcesses()
    assert first.token != second.token and len(first.token) == 32
    argv = first.argv("/run/netns/lab-pc", ["ls", "-l"], "/run/vnet/lab/pc.resolv.conf")
    assert argv[0] == sys.executable and argv[argv.index("--") + 1 :] == ["ls", "-l"]
