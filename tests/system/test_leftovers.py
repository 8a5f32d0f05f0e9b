"""What a lab leaves on the host: nothing, or after kill -9 only until the next run sweeps it."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import make_guests, needs, running

from vnet.adapters import _linux, netns
from vnet.adapters.resources import start_time
from vnet.errors import HostError, UsageError
from vnet.guests.namespace import create_all, remove_all
from vnet.guests.process import LabProcesses
from vnet.runtime.journal import begin, read_journal, sweep
from vnet.runtime.places import LabPlace, place_of

pytestmark = [pytest.mark.real, needs("ip")]

LAB = """
import sys, time, trio
from pathlib import Path
from rig import make_guests
from vnet.guests.namespace import create_all, remove_all
from vnet.guests.process import LabProcesses
from vnet.runtime.journal import begin
from vnet.runtime.places import place_of

place = place_of("lab", Path(sys.argv[1]))
lock = place.acquire()
lock.write_pid()
journal, swept = begin(lock, "token-" + sys.argv[2])
processes = LabProcesses(journal, journal.token)
guests = make_guests(place.directory, 20, sys.argv[2])
for guest in guests:
    guest._ledger, guest._processes = journal, processes
create_all(guests)

async def main():
    with trio.open_signal_receiver(__import__("signal").SIGINT, __import__("signal").SIGTERM) as signals:
        child = await processes.spawn(guests[0].exec_argv(["sleep", "1000"]))
        # a daemon: it gives up its parent, its session and its terminal
        script = "setsid sleep 1000 >/dev/null 2>&1 & echo $! >" + sys.argv[1] + "/daemon"
        await processes.run(guests[1].exec_argv(["sh", "-c", script]))
        print("ready", child.pid, flush=True)
        async for _ in signals:
            break
    processes.stop()

trio.run(main)
remove_all(guests)
journal.close()
lock.release()
"""


@pytest.fixture
def prefix() -> str:
    return f"vt{secrets.token_hex(3)}"


class Lab:
    """A lab in a process of its own: 20 namespaces, a child and a daemon in them."""

    def __init__(self, root: Path, prefix: str) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}"}
        argv = [sys.executable, "-c", LAB, str(root), prefix]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment)
        self.place: LabPlace = place_of("lab", root)
        self.prefix = prefix
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        assert words[:1] == [b"ready"], "the lab did not start"
        self.children = [int(words[1]), int((root / "daemon").read_text())]
        # the launchers become what they launch: wait until they did
        wait_for(lambda: all(b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.children))

    def namespaces(self) -> list[str]:
        return [name for name in os.listdir(netns.NETNS_DIRECTORY) if name.startswith(f"{self.prefix}-g")]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def children_left(self) -> list[int]:
        return [pid for pid in self.children if start_time(pid) is not None]


def wait_for(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def lab(tmp_path: Path, prefix: str) -> Iterator[Lab]:
    lab = Lab(tmp_path, prefix)
    yield lab
    lab.kill()
    sweep(lab.place.acquire())


def test_a_killed_lab_is_swept_and_nothing_else(lab: Lab) -> None:
    assert len(lab.namespaces()) == 20
    similar = [f"{lab.prefix}-g21", f"{lab.prefix}", f"{lab.prefix}-g1x"]
    for name in similar:
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        lab.kill()
        assert len(lab.namespaces()) == 22 and lab.children_left() == lab.children
        # somebody replaces one of ours by his own, of the same name
        subprocess.run(["ip", "netns", "del", f"{lab.prefix}-g7"], check=True)
        subprocess.run(["ip", "netns", "add", f"{lab.prefix}-g7"], check=True)
        similar.append(f"{lab.prefix}-g7")
        lock = lab.place.acquire()
        swept = sweep(lock)
        assert len(swept) == 21  # 19 namespaces, 2 processes
        assert sorted(lab.namespaces()) == sorted(name for name in similar if "-g" in name)
        assert os.path.exists(netns.path_of(lab.prefix))
        assert lab.children_left() == []
        assert sweep(lock) == []  # again: nothing to do
        lock.release()
        assert not lab.place.directory.exists()
    finally:
        for name in similar:
            subprocess.run(["ip", "netns", "del", name], check=True)


def test_a_lab_that_runs_is_not_swept(lab: Lab) -> None:
    assert lab.place.is_running() and lab.place.read_pid() == lab.process.pid
    with pytest.raises(UsageError, match=f"lab lab is running already .process {lab.process.pid}."):
        lab.place.acquire()
    lab.kill()
    assert not lab.place.is_running()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(lab: Lab, number: signal.Signals) -> None:
    lab.process.send_signal(number)
    assert lab.process.wait(10) == 0
    assert lab.namespaces() == [] and lab.children_left() == [] and not lab.place.directory.exists()


def test_a_sweep_that_is_killed_half_way_is_taken_up_again(lab: Lab) -> None:
    lab.kill()
    left = read_journal(lab.place.journal)
    for resource in left.resources[5:12]:
        resource.remove()
    lock = lab.place.acquire()
    sweep(lock)
    assert lab.namespaces() == [] and lab.children_left() == []
    lock.release()


def test_a_death_between_name_and_mount_is_swept(tmp_path: Path, prefix: str) -> None:
    """The file has its name, the namespace is not mounted on it yet."""
    lock = place_of("lab", tmp_path).acquire()
    journal, _ = begin(lock, "token")
    (guest,) = make_guests(tmp_path, 1, prefix)
    guest._ledger = journal
    create_all([guest])
    _linux.unmount(guest.path)
    assert sweep(lock) == [f"namespace {guest.path}"] and not os.path.exists(guest.path)
    remove_all([guest])
    lock.release()


def test_a_foreign_namespace_of_the_same_name_is_refused_and_left_alone(tmp_path: Path, prefix: str) -> None:
    subprocess.run(["ip", "netns", "add", f"{prefix}-g2"], check=True)
    try:
        cookie = netns.cookie_of(netns.path_of(f"{prefix}-g2"))
        with pytest.raises(HostError, match=f"ip netns del {prefix}-g2"):
            create_all(make_guests(tmp_path, 3, prefix))
        assert netns.cookie_of(netns.path_of(f"{prefix}-g2")) == cookie is not None
        assert not netns.exists(f"{prefix}-g1") and not netns.exists(f"{prefix}-g3")
    finally:
        subprocess.run(["ip", "netns", "del", f"{prefix}-g2"], check=True)


@pytest.mark.alone
def test_descriptors_and_threads_do_not_grow(tmp_path: Path) -> None:
    with running(make_guests(tmp_path, 2)):
        pass
    before = sorted(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(50):
        with running(make_guests(tmp_path, 2)):
            pass
    assert (sorted(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_the_main_thread_stays_in_its_namespace(tmp_path: Path) -> None:
    before = os.readlink("/proc/self/ns/net"), netns.cookie()
    with running(make_guests(tmp_path, 1)) as (guest,):
        assert netns.cookie_of(guest.path) != before[1]
        assert (os.readlink("/proc/self/ns/net"), netns.cookie()) == before


@pytest.mark.trio
async def test_programs_report_how_they_ended(tmp_path: Path) -> None:
    processes = LabProcesses()
    with running(make_guests(tmp_path, 1)) as (guest,):
        done = await guest.exec("sh", "-c", "cat; echo bad >&2; exit 3", input=b"hello")
        assert (done.status, done.output, done.errors) == (3, b"hello", b"bad\n")
        missing = await guest.exec("no-such-program")
        assert missing.status == 127 and b"command not found" in missing.errors
        nowhere = ["--net", "/run/netns/no-such-lab-guest", "--or", "/run/netns/no-such-lab-guest", "--identity", "0:0"]
        gone = await processes.run(processes.argv(nowhere, ["true"]))
        assert gone.status == 125 and b"cannot enter" in gone.errors
        assert (await guest.exec("ls", "/sys/class/net")).output.split() == [b"eth0", b"lo"]


@pytest.mark.parametrize("seen", [1, 7, 19])
def test_a_lab_killed_while_it_starts_is_swept(tmp_path: Path, prefix: str, seen: int) -> None:
    place = place_of("lab", tmp_path)
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}"}
    process = subprocess.Popen([sys.executable, "-c", LAB, str(tmp_path), prefix], stdout=subprocess.PIPE, env=environment)
    try:
        wait_for(lambda: len(names_with(prefix)) >= seen)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert len(names_with(prefix)) >= seen
    lock = place.acquire()
    sweep(lock)
    lock.release()
    assert names_with(prefix) == []


def names_with(prefix: str) -> list[str]:
    return [name for name in os.listdir(netns.NETNS_DIRECTORY) if name.startswith(prefix)]


def test_a_file_system_without_nameless_files_will_do(tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain_open = os.open

    def old_open(path: str, flags: int, *rest: int, **options: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return plain_open(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", old_open)
    with running(make_guests(tmp_path, 2, prefix)):
        assert len(names_with(prefix)) == 2
        with pytest.raises(HostError, match="already"):
            create_all(make_guests(tmp_path, 1, prefix))
    assert names_with(prefix) == []


@needs("unshare")
def test_the_first_use_on_a_machine_makes_the_directory(tmp_path: Path) -> None:
    """Beneath an empty /run, as after booting; ``ip netns`` must find what we made, and remove it for everybody."""
    script = """
import subprocess, sys
from pathlib import Path
from rig import make_guests, running
assert not Path("/run/netns").exists()
with running(make_guests(Path(sys.argv[1]), 1, "vtfirst")):
    assert "vtfirst-g1" in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    # the last one: the /run of before is still there, beneath
    assert " shared:" in [line for line in open("/proc/self/mountinfo") if " /run/netns " in line][-1]
assert not list(Path("/run/netns").iterdir())
"""
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}"}
    command = 'mount -t tmpfs none /run && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", command, "sh", sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
