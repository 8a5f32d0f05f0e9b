"""Virtual machines in a simulated lab are stood in for; what a live lab without QEMU says; the words of ``vnet set``."""

from __future__ import annotations

from pathlib import Path

import pytest

import vnet
from vnet.errors import HostError, UsageError
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
            with pytest.raises(
                UsageError, match="a is an emulated guest, no virtual machine; .* are: fixed, leased"
            ):
                await change(lab, "a", ["pause"])
            with pytest.raises(UsageError, match="an emulated host stands in for leased here, which has no console"):
                Commands(lab).console({"guest": "leased"})
            assert (await change(lab, "leased", ["down"]))["state"] == "down"

    vnet.simulate(main)


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
