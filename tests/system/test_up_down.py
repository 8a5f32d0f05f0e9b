"""The commands as a user types them: up, exec, down, and what a kill in between leaves."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import needs
from waiting import wait_ready

from vnet.adapters import netns
from vnet.adapters.resources import start_time
from vnet.runtime.places import place_of

pytestmark = [pytest.mark.real, needs("ping")]

TOPOLOGY = """
name: {name}
networks:
  lan: {{subnet: 10.77.0.0/24}}
guests:
  a: {{kind: namespace, nics: [{{network: lan, address: 10.77.0.10/24}}]}}
  b: {{kind: namespace, nics: [{{network: lan, address: 10.77.0.11/24}}]}}
  c: {{nics: [{{network: lan, address: 10.77.0.12/24}}]}}
"""


class User:
    """Types commands, with labs of his own."""

    def __init__(self, directory: Path) -> None:
        self.name = f"vt{secrets.token_hex(3)}"
        self.place = place_of(self.name, directory / "run")
        self.file = directory / "lab.yaml"
        self.file.write_text(TOPOLOGY.format(name=self.name))
        self._environment = {**os.environ, "VNET_RUN_DIR": str(directory / "run")}
        self.labs: list[subprocess.Popen[str]] = []

    def type(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "vnet", *words]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=60)

    def up(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "vnet", "up", str(self.file)]
        lab = subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.labs.append(lab)
        wait_ready(lab)
        return lab

    def left(self) -> list[str]:
        return sorted(name for name in os.listdir(netns.NETNS_DIRECTORY) if name.startswith(self.name))


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    user = User(tmp_path)
    yield user
    for lab in user.labs:
        lab.kill()
        lab.wait()
        assert lab.stdout is not None
        lab.stdout.close()
    user.type("down", user.name)
    assert user.left() == []


def test_a_lab_comes_up_talks_and_goes(user: User) -> None:
    lab = user.up()
    assert user.left() == [f"{user.name}-a", f"{user.name}-b"]
    for target in ("10.77.0.11", "10.77.0.12"):
        done = user.type("exec", user.name, "a", "--", "ping", "-c", "1", "-W", "2", target)
        assert done.returncode == 0 and "1 received" in done.stdout
    assert user.type("exec", user.name, "a", "--", "sh", "-c", "exit 7").returncode == 7
    assert user.type("down", user.name).returncode == 0
    assert lab.wait(10) == 0
    assert user.left() == [] and not user.place.directory.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_what_runs_in_it(user: User, number: signal.Signals) -> None:
    lab = user.up()
    daemon = user.type("exec", user.name, "b", "--", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
    lab.send_signal(number)
    lab.wait(10)
    assert user.left() == [] and not user.place.directory.exists()
    assert start_time(int(daemon.stdout)) is None


@pytest.mark.parametrize("how", ["down", "up"])
def test_after_a_kill_the_next_command_cleans_up(user: User, how: str) -> None:
    lab = user.up()
    daemon = int(user.type("exec", user.name, "b", "--", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!").stdout)
    cookies = {name: netns.cookie_of(netns.path_of(name)) for name in user.left()}
    foreign = f"{user.name}-foreign"
    subprocess.run(["ip", "netns", "add", foreign], check=True)
    try:
        lab.kill()
        lab.wait()
        assert len(user.left()) == 3 and start_time(daemon) is not None
        if how == "down":
            assert user.type("down", user.name).returncode == 0
            assert user.left() == [foreign]
        else:
            user.up()
            assert len(user.left()) == 3
            assert all(netns.cookie_of(netns.path_of(name)) != old for name, old in cookies.items())
        assert start_time(daemon) is None
    finally:
        subprocess.run(["ip", "netns", "del", foreign], check=True)
