"""Machines that somebody else starts, by the line that vnet prints, and what an ordinary user can do, by commands."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ordinary import TWO, Terminal, User, lease_and_ping, ordinary
from somebody import NOBODY
from vm_lab import needs_qemu

from vnet.adapters.resources import start_time

pytestmark = [pytest.mark.real, pytest.mark.long, needs_qemu]


@pytest.fixture
def user(initrd: Path) -> Iterator[User]:
    with ordinary(initrd) as made:
        yield made


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
