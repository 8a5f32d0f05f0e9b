"""Virtual machines with a QEMU that only pretends: states, what goes wrong, and that nothing of it stays."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

import vnet
from vnet.adapters.resources import start_time
from vnet.errors import LabError, NoAnswer, UsageError
from vnet.guests.qemu import QemuGuest
from vnet.runtime.change import change
from vnet.runtime.matrix import measure
from vnet.runtime.views import show
from vnet.topology import parse_topology

TOPOLOGY = parse_topology(
    """
name: fakes
networks: {lan: {subnet: 10.0.0.0/24}}
guests:
  a: {nics: [{network: lan, address: 10.0.0.9/24}]}
  vm: {kind: qemu, nics: [{network: lan, address: 10.0.0.5/24}, lan]}
"""
)


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {Path(__file__).with_name("fake_qemu.py")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("VNET_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("FAKE_QEMU_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def commands(log: Path) -> list[str]:
    return log.read_text().splitlines()


def machine(lab: vnet.Lab) -> QemuGuest:
    guest = lab.guests["vm"]
    assert isinstance(guest, QemuGuest)
    return guest


@pytest.mark.trio
async def test_a_life(log: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with vnet.open_lab(TOPOLOGY) as lab:
        vm = machine(lab)
        lab.links["vm:eth1"].up = False
        await lab.wait_up(10)
        assert commands(log)[:3] == ["qmp_capabilities", "set_link net1 False", "cont"]
        assert vm.state.value == "running" and all(adapter.is_connected for adapter in vm.adapters)
        await vm.console.wait_for("hello from the machine", 5)
        lab.links["vm:eth1"].up = True
        lab.links["vm:eth0"].up = False
        lab.links["vm:eth0"].up = True
        await trio.testing.wait_all_tasks_blocked()
        await vm.pause()
        assert commands(log)[3:5] == ["set_link net1 True", "stop"], "what changed back is not shown"
        row = next(row for row in show(lab, "guests") if row["name"] == "vm")
        assert row["machine"] == {"state": "paused", "pid": vm.pid, "error": None, "accel": "tcg", "memory": 256 << 20}
        await vm.resume()
        await vm.save("good")
        with pytest.raises(LabError, match="vm: cannot restore it: Snapshot does not exist"):
            await vm.restore("never")
        assert vm.state.value == "running", "QEMU stops for a restore that then cannot be"
        said = len(commands(log))
        await vm.restore("good")
        await vm.pause()
        await vm.resume()
        await trio.testing.wait_all_tasks_blocked(0.05)
        links = [each for each in commands(log)[said:] if "link" in each]
        assert links == ["set_link net0 True", "set_link net1 True"], "what was restored has the carriers of back then"
        pid = vm.pid
        assert pid is not None
        await vm.shutdown(5)
        assert (vm.state.value, vm.pid, start_time(pid)) == ("stopped", None, None)
        assert (await change(lab, "vm", ["start", "pause"]))["state"] == "paused"
        assert vm.pid != pid
    kinds = [event.kind for event in lab.events if event.node == "vm" and event.kind.startswith("vm-")]
    told = "started paused resumed saved restored paused resumed stopped started paused stopped"
    assert kinds == [f"vm-{each}" for each in told.split()]
    assert len(os.listdir("/proc/self/fd")) == before


LEGAL = {
    "stopped": {"start", "stop"},
    "running": {"stop", "shutdown", "reset", "pause", "save=good", "restore=good"},
    "paused": {"stop", "resume", "reset", "save=good", "restore=good"},
    "failed": {"start", "stop"},
}


@pytest.mark.trio
@pytest.mark.parametrize("state", LEGAL)
async def test_only_what_is_legal_is_done(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """VS-82: an illegal call is an error that says how the machine stands, and changes nothing."""
    words = ("start", "stop", "shutdown", "reset", "pause", "resume", "save=good", "restore=good")
    async with vnet.open_lab(TOPOLOGY) as lab:
        vm = machine(lab)
        await lab.wait_up(10)
        for word in words:
            await vm.stop()
            if state == "failed":
                monkeypatch.setenv("FAKE_QEMU", "refuse")
                with pytest.raises(LabError, match="vm did not start: it is too hot"):
                    await vm.start()
                monkeypatch.delenv("FAKE_QEMU")
            elif state != "stopped":
                await vm.start()
                if state == "paused":
                    await vm.pause()
            assert vm.state.value == state
            if word in LEGAL[state]:
                await change(lab, "vm", [word])
            else:
                with pytest.raises(UsageError, match=f"it is {state}, and must be "):
                    await change(lab, "vm", [word])
                assert vm.state.value == state


@pytest.mark.trio
async def test_a_crash_is_told_with_the_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_QEMU", "crash")
    async with vnet.open_lab(TOPOLOGY) as lab:
        vm = machine(lab)
        with trio.fail_after(10):
            await vm.wait_state("failed")
        (failed,) = [event for event in lab.events if event.kind == "vm-failed"]
        assert dict(failed.fields) == {
            "error": "ended with status 3", "console": "hello from the machine", "qemu": "something is broken",
        }  # fmt: skip
        assert (await lab.ping("a", "10.0.0.5", timeout=0.1)).ok is False, "the lab goes on"
        monkeypatch.delenv("FAKE_QEMU")
        await vm.start()
        assert vm.error == "" and vm.state.value == "running"


@pytest.mark.trio
async def test_a_qemu_that_heeds_nothing_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_QEMU", "deaf")
    monkeypatch.setattr("vnet.guests.qemu_process.QUIT_TIMEOUT", 0.2)
    async with vnet.open_lab(TOPOLOGY) as lab:
        await lab.wait_up(10)
        pid = machine(lab).pid
    assert pid is not None and start_time(pid) is None


@pytest.mark.trio
async def test_a_qemu_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_QEMU", "mute,deaf")
    monkeypatch.setattr("vnet.guests.qmp.TIMEOUT", 0.2)
    monkeypatch.setattr("vnet.guests.qemu_process.QUIT_TIMEOUT", 0.2)
    async with vnet.open_lab(TOPOLOGY) as lab:
        with pytest.raises(LabError, match="vm did not start: QEMU does not answer"):
            await lab.wait_up(20)
        assert machine(lab).pid is None


@pytest.mark.trio
async def test_cancelled_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_QEMU", "mute")
    pids: list[int | None] = []
    with trio.move_on_after(20) as scope:
        async with vnet.open_lab(TOPOLOGY) as lab:
            vm = machine(lab)
            while vm.pid is None:  # noqa: ASYNC110 - nobody is told
                await trio.sleep(0.01)
            pids.append(vm.pid)
            scope.deadline = trio.current_time() + 0.1  # while its QMP is waited for
            await trio.sleep_forever()
    assert pids and start_time(pids[0] or 0) is None


@pytest.mark.trio
async def test_nothing_can_be_run_inside() -> None:
    async with vnet.open_lab(TOPOLOGY) as lab:
        await lab.wait_up(10)
        assert "inside a virtual machine" in (await lab.ping("vm", "a")).error
        result = await measure(lab, "icmp", None, 0.1)
        rows = result["matrix"]
        assert isinstance(rows, list)
        assert [(row["from"], row["reached"], row["agrees"]) for row in rows] == [("a", False, False), ("vm", False, None)]
        with pytest.raises(NoAnswer, match="vm got no address by DHCP within"):
            await machine(lab).dhcp(0.05)
