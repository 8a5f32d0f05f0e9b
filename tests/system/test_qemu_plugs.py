"""Machines that somebody else starts, by the line that vnet prints, and what an ordinary user can do, by commands."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from somebody import NOBODY, as_somebody, make_directory
from tiny_guest import KERNEL, PARAMETERS
from vm_lab import BOOT, booting, needs_qemu

from vnet.adapters.resources import start_time

pytestmark = [pytest.mark.real, pytest.mark.long, needs_qemu]

MACHINE = ("-accel", "tcg", "-nodefaults", "-display", "none", "-m", "160", "-no-reboot", "-serial", "stdio")

LAB = """
name: plugged
networks:
  lan: {{subnet: 10.0.0.0/24, dhcp: {{}}}}
  dmz: {{vlan: 20, subnet: 10.0.20.0/24}}
guests:
  a: {{nics: [{{network: lan, address: 10.0.0.9/24}}]}}
  b: {{nics: [{{network: dmz, address: 10.0.20.9/24}}]}}
{more}
"""
TWO = """
  vm1: {{kind: qemu, nics: [{{network: lan, dhcp: true}}], {asking}}}
  vm2: {{kind: qemu, nics: [{{network: lan, model: e1000}}], {booting}}}
"""


class User:
    """Somebody without any privilege, with a directory and commands of his own."""

    def __init__(self, directory: Path, initrd: Path) -> None:
        self.directory = directory
        self.initrd = directory / "initrd"
        shutil.copy(initrd, self.initrd)
        self.environment = {**os.environ, "VNET_RUN_DIR": str(directory / "run"), "HOME": str(directory)}

    def argv(self, *words: str) -> list[str]:
        return as_somebody(self.directory, *words)

    def vnet(self, *words: str, check: bool = True) -> str:
        command = self.argv(sys.executable, "-m", "vnet", *words)
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def show(self, what: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.vnet("show", "plugged", what, "--json"))
        return rows

    def up(self, more: str = "") -> int:
        """Start the lab, detached; return its process number."""
        file = self.directory / "lab.yaml"
        file.write_text(LAB.format(more=more.format(booting=booting(self.initrd), asking=booting(self.initrd, "vnet.dhcp"))))
        self.vnet("up", str(file), "--detach", "--timeout", str(BOOT))
        return int((self.directory / "run/plugged/pid").read_text())

    def booting(self) -> list[str]:
        return [*MACHINE, "-kernel", str(KERNEL), "-initrd", str(self.initrd), "-append", PARAMETERS]


@pytest.fixture
def user(initrd: Path) -> Iterator[User]:
    directory = make_directory()
    made = User(directory, initrd)
    try:
        yield made
    finally:
        made.vnet("down", "plugged", check=False)
        shutil.rmtree(directory)


class Terminal:
    """A program on a terminal: what it prints, and keys for it."""

    def __init__(self, user: User, *words: str) -> None:
        self._fd, there = pty.openpty()
        self.process = subprocess.Popen(
            words, stdin=there, stdout=there, stderr=there, env=user.environment, start_new_session=True
        )
        os.close(there)
        self.text = ""

    def expect(self, pattern: str, timeout: float = BOOT) -> str:
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.text[-2000:]!r}"
            try:
                self.text += os.read(self._fd, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"it ended: {self.text[-2000:]}") from None
        self.text = self.text[found.end() :]
        return found[0]

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


def lease_and_ping(terminal: Terminal, nic: str = "eth0") -> str:
    """Have a machine on a terminal get an address and ping guest a; return the address."""
    if nic == "eth0":
        terminal.expect("guest-is-up")
    terminal.press(
        f"ip link set {nic} up; udhcpc -q -n -f -t 20 -i {nic} -s /lease; ping -c 1 -W 9 10.0.0.9; echo rc''=$?\n"
    )
    address = terminal.expect(rf"leased {nic} 10\.0\.0\.\d+(?=\s)").split()[-1]
    assert terminal.expect(r"rc=\d+(?=\s)") == "rc=0"
    return address


def test_the_printed_lines_start_a_machine_that_is_plugged_in(user: User) -> None:
    """One machine with a NIC of each kind: whoever speaks stream also speaks datagrams and the framing of old QEMUs."""
    user.up()
    lines = [
        shlex.split(user.vnet("plug", "plugged", "lan", "--as", kind, "--name", kind, "--model", "e1000"))
        for kind in ("qemu-stream", "qemu-dgram", "qemu-legacy")
    ]
    words = [lines[0][0], *(word for line in lines for word in line[1:])]
    terminal = Terminal(user, *user.argv(*words, *user.booting()))
    try:
        for number, kind in enumerate(("qemu-stream", "qemu-dgram", "qemu-legacy")):
            address = lease_and_ping(terminal, f"eth{number}")
            assert [row["owner"] for row in user.show("leases") if row["address"] == address] == [f"{kind}:eth0"]
            terminal.press(f"ip addr flush dev eth{number}\n")
        plugs = [(row["plug"], row["rx_frames"]) for row in user.show("ports") if row["plug"]]
        assert [plug["problem"] for plug, _ in plugs] == ["", "", ""]
        assert all(received > 3 for _, received in plugs)
        terminal.press("ip addr add 10.0.0.77/24 dev eth0; ping -c 1 -W 9 10.0.0.9 >/dev/null; echo rc''=$?\n")
        assert terminal.expect(r"rc=\d+(?=\s)") == "rc=0"
        user.vnet("unplug", "plugged", "qemu-stream")
        terminal.press("ping -c 1 -W 1 10.0.0.9 >/dev/null; echo rc''=$?; poweroff -f\n")
        assert terminal.expect(r"rc=\d+(?=\s)") == "rc=1"
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()


def test_the_printed_line_of_vhost_user(user: User) -> None:
    """The lab's memory is the machine's; the line brings what that takes."""
    user.up()
    words = shlex.split(user.vnet("plug", "plugged", "lan", "--as", "qemu-vhost-user"))
    booting = user.booting()
    at = booting.index("-m")
    terminal = Terminal(user, *user.argv(*words, *booting[:at], *booting[at + 2 :]))
    try:
        lease_and_ping(terminal)
        terminal.press("poweroff -f\n")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()


def test_vnet_qemu_is_a_machine_for_as_long_as_it_runs(user: User) -> None:
    """On a trunk, so that the guest does its VLANs itself."""
    user.up()
    words = ("-m", "vnet", "qemu", "--trunk", "dmz", "--name", "mine", "plugged", "lan", "--", *user.booting())
    terminal = Terminal(user, *user.argv(sys.executable, *words))
    try:
        lease_and_ping(terminal)
        terminal.press("vconfig add eth0 20; ip addr add 10.0.20.1/24 dev eth0.20; ip link set eth0.20 up\n")
        terminal.press("ping -c 1 -W 9 10.0.20.9; echo rc''=$?\n")
        assert terminal.expect(r"rc=\d+(?=\s)") == "rc=0"
        assert any(row["plug"] for row in user.show("ports"))
        terminal.press("poweroff -f\n")
        assert terminal.process.wait(30) == 0
        until(lambda: not any(row["plug"] for row in user.show("ports")))
    finally:
        terminal.close()


def until(done: Callable[[], bool], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, "it does not come to pass"


def test_two_machines_of_an_ordinary_user(user: User) -> None:
    """No root, no capability, no TAP: and a lab that is killed leaves no machine once it is swept."""
    file = user.directory / "lab.yaml"
    pid = user.up(TWO)
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"Uid:\t{NOBODY}\t{NOBODY}" in status and "CapEff:\t0000000000000000" in status
    machines = {str(row["name"]): row["machine"] for row in user.show("guests") if row["machine"]}
    assert [row["state"] for row in machines.values()] == ["running", "running"]
    pids = [int(row["pid"]) for row in machines.values()]
    assert all(f"Uid:\t{NOBODY}" in Path(f"/proc/{each}/status").read_text() for each in pids)

    (leased,) = [row for row in user.show("leases") if row["owner"] == "vm1:eth0"]
    assert leased["state"] == "bound", "ready has waited for it"
    first = Terminal(user, *user.argv(sys.executable, "-m", "vnet", "console", "plugged", "vm1"))
    second = Terminal(user, *user.argv(sys.executable, "-m", "vnet", "console", "plugged", "vm2"))
    try:
        addresses = [lease_and_ping(terminal) for terminal in (first, second)]
        assert len(set(addresses)) == 2
        first.press(f"ping -c 2 -W 9 {addresses[1]}; echo rc''=$?\n")
        assert first.expect(r"rc=\d+(?=\s)") == "rc=0"
        assert f"{addresses[1]}" in user.vnet("ping", "plugged", "a", "vm2", "-W", "10")
        assert "leased eth0" in user.vnet("console", "plugged", "vm2", "--print")
        first.press("\x1d")
        assert first.process.wait(20) == 0
        assert "state paused" in user.vnet("set", "plugged", "vm1", "pause")
        assert "qemu paused" in user.vnet("show", "plugged", "guests")
    finally:
        first.close()
        second.close()

    os.kill(pid, signal.SIGKILL)
    until(lambda: start_time(pid) is None)
    assert all(start_time(each) is not None for each in pids), "or else the sweep has nothing to show"
    user.vnet("down", "plugged")
    assert [start_time(each) for each in pids] == [None, None]
    assert not (user.directory / "run/plugged").exists()
    assert file.exists()
