from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vnet.errors import HostError, UsageError
from vnet.runtime import places
from vnet.runtime.places import SUN_PATH, all_labs, place_of, run_root

HOLD = """
import sys
from pathlib import Path
from vnet.runtime import places
from vnet.runtime.places import place_of
lock = place_of("lab", Path(sys.argv[1])).acquire()
lock.write_pid()
print("ready", flush=True)
input()
"""


def test_the_run_directory_follows_the_environment_and_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_root({"VNET_RUN_DIR": "/x", "XDG_RUNTIME_DIR": "/y"}) == Path("/x")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert run_root({"XDG_RUNTIME_DIR": "/y"}) == Path("/run/vnet")
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert run_root({"XDG_RUNTIME_DIR": "/y"}) == Path("/y/vnet")
    assert run_root({}) == Path("/tmp/vnet-1234")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a b", "x" * 64, "ü"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a lab"):
        place_of(name, tmp_path)


def test_a_path_too_long_for_a_socket_is_refused() -> None:
    root = Path("/" + "r" * (SUN_PATH - len("//lab/control.sock")))
    assert len(str(place_of("lab", root).control)) == SUN_PATH
    with pytest.raises(UsageError, match="longer than 107 octets.*VNET_RUN_DIR"):
        place_of("labs", root)


def test_the_lock_shows_that_a_lab_runs_and_its_end_removes_everything(tmp_path: Path) -> None:
    place = place_of("lab", tmp_path)
    assert not place.is_running() and place.read_pid() is None
    lock = place.acquire()
    lock.write_pid()
    assert place.is_running() and place.read_pid() == os.getpid()
    with pytest.raises(UsageError, match=rf"running already \(process {os.getpid()}\): vnet down lab"):
        place.acquire()
    assert all_labs(tmp_path) == [place]
    lock.release()
    lock.release()
    assert not place.directory.exists() and not place.is_running() and all_labs(tmp_path) == []


def test_a_killed_lab_does_not_run_whatever_its_pid_file_says(tmp_path: Path) -> None:
    place = place_of("lab", tmp_path)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert place.is_running() and place.read_pid() == process.pid
        process.kill()
    assert not place.is_running() and place.directory.exists()
    place.pid.write_text(f"{os.getpid()}\n")  # the number was given out anew
    assert not place.is_running()
    lock = place.acquire()
    lock.release(keep=True)
    assert place.directory.exists() and place.read_pid() is None
    place.acquire().release()


def test_the_directories_are_private(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir(mode=0o755)
    lock = place_of("lab", root).acquire()
    assert root.stat().st_mode & 0o777 == 0o700 == lock.place.directory.stat().st_mode & 0o777
    lock.release()


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(HostError, match="is not a directory of yours"):
        place_of("lab", tmp_path / "link").acquire()
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(HostError, match="is not a directory of yours"):
        place_of("lab", target).acquire()


def test_what_is_no_lab_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    assert [place.name for place in all_labs(tmp_path)] == ["a", "b"]
    assert all_labs(tmp_path / "nowhere") == []


def test_a_child_that_still_holds_the_lock_of_a_dead_lab_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From fork to exec a child has the lock of its parent, who may be killed in between."""
    place = place_of("lab", tmp_path)
    lock = place.acquire()
    lock.write_pid(2**22 + 1)  # above pid_max: it cannot run
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(told, 1)
        os._exit(0)
    os.close(lock._fd)  # we die; the child holds it
    with monkeypatch.context() as patch:
        patch.setattr(places, "ORPHANED_LOCK", 0.02)
        assert place.is_running()
    os.write(tell, b"x")
    again = place.acquire()
    os.waitpid(child, 0)
    again.release()
    os.close(told)
    os.close(tell)


def test_who_only_asks_whether_a_lab_runs_stops_none_from_starting(tmp_path: Path) -> None:
    place = place_of("lab", tmp_path)
    place.directory.mkdir()
    asking = os.open(place.lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(asking, fcntl.LOCK_EX)
    threading.Timer(0.02, os.close, (asking,)).start()
    place.acquire().release()
    assert not place.directory.exists()


def test_a_new_run_does_not_go_by_the_process_number_of_the_last(tmp_path: Path) -> None:
    place = place_of("lab", tmp_path)
    place.directory.mkdir()
    place.pid.write_text("1\n")
    lock = place.acquire()
    assert place.read_pid() is None
    lock.release()
