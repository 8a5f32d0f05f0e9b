"""Virtual machines in a simulated lab are stood in for; what a live lab without QEMU says; the words of ``vnet set``."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import vnet
from vnet.errors import HostError, UsageError
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.stand_in import StandIn
from vnet.runtime.change import change
from vnet.runtime.commands import Commands
from vnet.topology import load_topology, parse_topology
from vnet.topology.machines import ResolvedMachine

TEXT = """
name: machines
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {}}}
guests:
  a: {nics: [{network: lan, address: 10.0.0.9/24}]}
  leased: {kind: qemu, nics: [{network: lan, model: tulip}], disk: d.qcow2, iso: /x.iso, memory: 1GiB, start_delay: 30s}
  fixed: {kind: qemu, nics: [{network: lan, address: 10.0.0.5/24}], kernel: vmlinuz, start_order: -1, args: [-vga, std]}
"""


def test_emulated_hosts_stand_in() -> None:
    async def main() -> None:
        async with vnet.open_lab(parse_topology(TEXT)) as lab:
            await lab.wait_up()
            assert all(reply.ok for reply in (await lab.ping_all()).values())
            assert lab.guests["leased"].kind == "emulated"
            assert (await change(lab, "leased", ["pause"]))["state"] == "paused"
            with pytest.raises(UsageError, match="a is an emulated guest, no virtual machine; .* are: fixed, leased"):
                await change(lab, "a", ["pause"])
            with pytest.raises(UsageError, match="an emulated host stands in for leased here, which has no console"):
                Commands(lab).console({"guest": "leased"})
            assert (await change(lab, "leased", ["down"]))["state"] == "down"

    vnet.simulate(main)


@pytest.mark.trio
@pytest.mark.usefixtures("run_directory")
async def test_stand_ins_of_a_live_lab_live_by_the_same_commands() -> None:
    """--emulate: in real time, with trio's own clock."""
    topology = parse_topology(
        """
name: emulated-life
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {}}}
guests:
  a: {nics: [{network: lan, address: 10.0.0.9/24}]}
  vm: {kind: qemu, nics: [{network: lan, address: 10.0.0.5/24}], run: [echo], start_delay: 50ms, stop_action: shutdown}
"""
    )
    async with vnet.open_lab(topology, emulate=True) as lab:
        vm, a = lab.guests["vm"], lab.guests["a"]
        assert isinstance(vm, StandIn) and isinstance(a, EmulatedGuest)
        assert vm.state.value == "stopped"
        with trio.fail_after(10):
            await lab.wait_up(5)
            stream = await a.open_tcp_stream("vm", 7)
            await stream.send_all(b"one")
            assert await stream.receive_some() == b"one"
            for down, up in (("pause", "resume"), ("save", "restore")):
                await change(lab, "vm", [down])
                await stream.send_all(down.encode())
                assert not (await lab.ping("a", "10.0.0.5", timeout=0.05)).ok
                await change(lab, "vm", [up])
                assert await stream.receive_some() == down.encode()
            await change(lab, "vm", ["reset"])
            assert (await lab.ping("a", "vm")).ok
            await stream.send_all(b"lost")
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
            assert [event.kind for event in lab.events if event.node == "vm" and event.kind.startswith("vm-")] == [
                "vm-started", "vm-paused", "vm-resumed", "vm-saved", "vm-restored", "vm-reset",
            ]  # fmt: skip
            with pytest.raises(UsageError, match="cannot resume vm: it is running, and must be paused"):
                await change(lab, "vm", ["resume"])
    assert [event.fields["by"] for event in lab.events if event.kind == "vm-stopped"] == ["guest"]


def test_paths_are_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(TEXT)
    guests = load_topology(tmp_path / "lab.yaml").guests
    assert guests["leased"].machine == ResolvedMachine(
        disk=str(tmp_path / "d.qcow2"), iso="/x.iso", memory=1 << 30, start_delay=30 * 10**9
    )
    assert guests["fixed"].machine == ResolvedMachine(kernel=str(tmp_path / "vmlinuz"), start_order=-1, args=("-vga", "std"))
    assert guests["a"].machine is None
    assert [guests[name].interfaces[0].dhcp for name in ("a", "leased", "fixed")] == [None, None, None]
    assert [guests[name].interfaces[0].model for name in ("a", "leased", "fixed")] == [None, "tulip", "virtio"]


@pytest.mark.trio
@pytest.mark.usefixtures("run_directory")
async def test_what_is_missing_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    topology = parse_topology(TEXT)
    with pytest.raises(HostError, match="guest leased needs qemu-system-x86_64: install qemu-system-x86"):
        async with vnet.open_lab(topology):
            pass
    (tmp_path / "qemu-system-x86_64").write_text("#!/bin/sh\n")
    (tmp_path / "qemu-system-x86_64").chmod(0o755)
    with pytest.raises(HostError, match=r"guest leased: there is no disk d\.qcow2"):
        async with vnet.open_lab(topology):
            pass
    assert not (tmp_path / "run").exists()
    async with vnet.open_lab(topology, emulate=True) as lab:
        assert lab.guests["fixed"].kind == "emulated"
