"""QEMU's command line, word by word."""

from __future__ import annotations

from pathlib import Path

import pytest

from vnet.guests.qemu_command import Lines, MachineNic, command_line, empty_qcow2
from vnet.topology.machines import ResolvedMachine

LINES = Lines(qmp=5, console=6, state_file="/run/l,b/v0.qcow2")
NIC = MachineNic(name="eth0", mac=bytes.fromhex("525400010203"), model="virtio", path="/run/l,b/v0.n0")


def words(machine: ResolvedMachine, *nics: MachineNic) -> list[str]:
    return command_line("lab.vm", machine, nics, LINES)


def test_a_machine_with_a_kernel() -> None:
    machine = ResolvedMachine(
        kernel="/k", initrd="/i", append="console=ttyS0 quiet", cpus=2, memory=1 << 30, args=("-vga", "std")
    )
    assert words(machine, NIC) == [
        "qemu-system-x86_64", "-name", "guest=lab.vm", "-nodefaults", "-no-user-config", "-display", "none", "-S",
        "-accel", "tcg", "-machine", "pc,graphics=off", "-m", "1024M", "-smp", "2",
        "-chardev", "socket,id=qmp,fd=5", "-mon", "chardev=qmp,mode=control",
        "-chardev", "socket,id=console,fd=6", "-serial", "chardev:console",
        "-kernel", "/k", "-initrd", "/i", "-append", "console=ttyS0 quiet",
        "-drive", "if=none,id=vmstate,format=qcow2,file=/run/l,,b/v0.qcow2",
        "-netdev", "stream,id=net0,server=on,addr.type=unix,addr.path=/run/l,,b/v0.n0",
        "-device", "virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:01:02:03,romfile=",
        "-vga", "std",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "order"), [({}, "n"), ({"disk": "/d"}, "cn"), ({"iso": "/c"}, "dn"), ({"disk": "/d", "iso": "/c"}, "cdn")]
)
def test_what_boots(files: dict[str, str], order: str) -> None:
    line = words(ResolvedMachine(console=False, **files), NIC)
    assert line[line.index("-boot") + 1] == f"order={order}" and "-serial" not in line
    assert not any("romfile" in word for word in line), "a network to boot from needs the NIC's ROM"


def test_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(empty_qcow2())
    (tmp_path / "b").write_bytes(bytes(1024))
    for name, kind in (("a", "qcow2"), ("b", "raw"), ("none", "raw")):
        line = words(ResolvedMachine(disk=str(tmp_path / name)))
        assert f"if=virtio,id=disk,format={kind},file={tmp_path / name}" in line
        assert any("id=vmstate" in word for word in line) == (kind != "qcow2"), "states are on its own disk if that can be"
    line = words(ResolvedMachine(accel="kvm"), MachineNic(name="x", mac=bytes(6), model="virtio", path="/p", mtu=9000))
    assert line[line.index("-cpu") + 1] == "host" and line[-1].endswith(",host_mtu=9000")
