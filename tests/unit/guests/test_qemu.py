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
from vnet.guests.qemu_command import empty_qcow2
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


def machine(lab: vnet.Lab, name: str = "vm") -> QemuGuest:
    guest = lab.guests[name]
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
        assert row["machine"] == {
            "state": "paused", "code": 6, "pid": vm.pid, "error": None, "accel": "tcg", "memory": 256 << 20
        }  # fmt: skip
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
        assert not lab.links["vm:eth0"].b.carrier, "VS-82: its link is up while it runs or is paused"
        assert (await change(lab, "vm", ["start", "pause"]))["state"] == "paused"
        assert vm.pid != pid and lab.links["vm:eth0"].b.carrier
    kinds = [event.kind for event in lab.events if event.node == "vm" and event.kind.startswith("vm-")]
    told = "started paused resumed saved restored paused resumed stopped started paused stopped"
    assert kinds == [f"vm-{each}" for each in told.split()]
    assert len(os.listdir("/proc/self/fd")) == before


LEGAL = {
    "stopped": {"start", "stop"},
    "saved": {"start", "restore", "stop"},
    "running": {"stop", "shutdown", "reset", "pause", "save", "save=good", "restore=good"},
    "paused": {"stop", "resume", "reset", "save", "save=good", "restore=good"},
    "failed": {"start", "stop"},
}
WORDS = ("start", "stop", "shutdown", "reset", "pause", "resume", "save", "restore", "save=good", "restore=good")


@pytest.mark.trio
@pytest.mark.parametrize("state", LEGAL)
async def test_only_what_is_legal_is_done(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """VS-82: an illegal call is an error that says how the machine stands, and changes nothing."""
    async with vnet.open_lab(TOPOLOGY) as lab:
        vm = machine(lab)
        await lab.wait_up(10)
        for word in WORDS:
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
                elif state == "saved":
                    await vm.save()
            assert vm.state.value == state
            if word in LEGAL[state]:
                await change(lab, "vm", [word])
            else:
                with pytest.raises(UsageError, match=f"it is {state}, and must be "):
                    await change(lab, "vm", [word])
                assert vm.state.value == state


@pytest.mark.trio
async def test_what_is_saved_ends_qemu_and_comes_back(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with vnet.open_lab(TOPOLOGY) as lab:
        vm = machine(lab)
        await lab.wait_up(10)
        pid = vm.pid
        assert pid is not None
        monkeypatch.setenv("FAKE_QEMU", "full")  # for the QEMU that is started next
        await vm.save()
        assert (vm.state.value, vm.state.code, vm.pid, start_time(pid)) == ("saved", 2, None, None)
        assert commands(log)[-3:] == ["stop", "human-monitor-command savevm vnet-saved", "quit"]
        lab.links["vm:eth1"].up = False
        with pytest.raises(LabError, match="vm did not start: "):
            await vm.restore()
        assert vm.state.value == "saved", "it may be tried again"
        monkeypatch.delenv("FAKE_QEMU")
        said = len(commands(log))
        assert (await change(lab, "vm", ["restore"]))["state"] == "running"
        assert commands(log)[said:] == [
            "qmp_capabilities", "human-monitor-command loadvm vnet-saved", "human-monitor-command delvm vnet-saved",
            "set_link net0 True", "set_link net1 False", "cont",
        ]  # fmt: skip
        await vm.pause()
        assert (await change(lab, "vm", ["save", "stop", "start"]))["state"] == "running"
        assert "loadvm" not in commands(log)[-3], "what was saved was discarded"
        monkeypatch.setenv("FAKE_QEMU", "full")
        await vm.stop()
        await vm.start()
        with pytest.raises(LabError, match="vm: cannot save it: Snapshot does not exist"):
            await vm.save()
        assert vm.state.value == "running"
    kinds = [event.kind for event in lab.events if event.node == "vm" and event.kind in ("vm-saved", "vm-restored")]
    assert kinds == ["vm-saved", "vm-restored", "vm-saved"]


@pytest.mark.trio
async def test_what_an_earlier_lab_saved_is_gone_on_with(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VS-84: on its own disk; and what is discarded is not there for the next lab."""
    (tmp_path / "d.qcow2").write_bytes(empty_qcow2())
    topology = parse_topology(
        f"{{name: keeps, networks: {{lan: {{}}}}, guests: {{vm: {{kind: qemu, nics: [lan], disk: {tmp_path}/d.qcow2,"
        " stop_action: save}}}"
    )
    async with vnet.open_lab(topology) as lab:
        await lab.wait_up(10)
        assert commands(log) == ["qmp_capabilities", "human-monitor-command info snapshots", "cont"], (
            "none, or a part of one"
        )
        await machine(lab).stop()
    monkeypatch.setenv("FAKE_QEMU", "kept")
    async with vnet.open_lab(topology) as lab:
        vm, said = machine(lab), len(commands(log))
        await lab.wait_up(10)
        assert [each.partition(" ")[2] for each in commands(log)[said + 1 :]] == [
            "info snapshots", "loadvm vnet-saved", "delvm vnet-saved", "net0 True", "",
        ]  # fmt: skip
        await vm.stop()
        await vm.start()
        assert commands(log)[-2:] == ["qmp_capabilities", "cont"], "only as the lab begins"
        await vm.save()
        said = len(commands(log))
        await vm.stop()
        assert commands(log)[said:] == ["qmp_capabilities", "human-monitor-command delvm vnet-saved", "quit"]
        assert (vm.state.value, vm.pid) == ("stopped", None)
        await vm.start()
    kinds = [event.kind for event in lab.events if event.kind.startswith("vm-") and event.kind != "vm-resumed"]
    assert kinds == [f"vm-{each}" for each in ["restored", "stopped", "started", "saved", "stopped", "started", "saved"]]


@pytest.mark.trio
async def test_machines_start_and_end_as_the_file_says(log: Path) -> None:
    """VS-84: never, and at the end of the lab by the power button, saved, or by the switch."""
    topology = parse_topology(
        """
name: ends
networks: {lan: {}}
guests:
  asked: {kind: qemu, nics: [lan], stop_action: shutdown}
  kept: {kind: qemu, nics: [lan], stop_action: save}
  off: {kind: qemu, nics: [lan]}
  idle: {kind: qemu, nics: [lan], start_action: never, stop_action: save}
"""
    )
    async with vnet.open_lab(topology) as lab:
        await lab.wait_up(10)
        assert [machine(lab, name).state.value for name in ("asked", "kept", "off", "idle")] == ["running"] * 3 + ["stopped"]
    told = {event.node: (event.kind, event.fields.get("by")) for event in lab.events if event.kind.startswith("vm-")}
    assert told == {"asked": ("vm-stopped", "guest"), "kept": ("vm-saved", None), "off": ("vm-stopped", "lab")}
    assert commands(log).count("system_powerdown") == 1


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
