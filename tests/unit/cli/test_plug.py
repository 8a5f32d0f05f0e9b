"""``vnet plug``, ``vnet unplug`` and ``vnet qemu``: a lab in a thread, and a program that only says how it was called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import LabThread, Run


def test_plug_prints_a_line_to_copy(run: Run, lab: LabThread) -> None:
    status, out, err = run("plug", "tiny", "lan", "--mac", "52:54:00:00:00:77")
    assert status == 0 and out.startswith("qemu-system-x86_64 -netdev stream,id=vm1,server=off,addr.type=unix,addr.path=/")
    assert out.endswith("/p1.sock -device virtio-net-pci,netdev=vm1,mac=52:54:00:00:00:77\n")
    assert "port core:1001 of tiny is for vm1; vnet unplug tiny vm1 takes it away" in err
    assert "core:1001  vm1:eth0 (qemu-stream, nobody there)" in run("show", "tiny", "ports").out
    data = json.loads(
        run("plug", "tiny", "-", "--trunk", "10,20-21,pool", "--native", "1", "--as", "qemu-dgram", "--json").out
    )
    assert (data["name"], data["kind"], data["argv"][0]) == ("vm2", "qemu-dgram", "qemu-system-x86_64")
    (row,) = [row for row in json.loads(run("show", "tiny", "ports", "--json").out) if row["port"] == 1002]
    assert (row["pvid"], row["tagged"], row["untagged"]) == (1, [10, 20, 21, 30], [1])
    assert run("unplug", "tiny", "vm1").status == 0
    assert "vm1" not in run("show", "tiny", "ports").out
    status, _, err = run("unplug", "tiny", "vm1")
    assert status == 2 and "nothing called 'vm1' is plugged in; there are: vm2" in err


def test_qemu_is_run_with_a_port_that_goes_with_it(run: Run, lab: LabThread, tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    program.chmod(0o755)
    status, out, _ = run("qemu", "--program", program, "--model", "e1000", "tiny", "lan", "--", "-m", "256", "disk.qcow2")
    words = out.splitlines()
    assert status == 7 and words[0] == "-netdev" and words[3].startswith("e1000,netdev=vm1,mac=52:54:00:")
    assert words[4:] == ["-m", "256", "disk.qcow2"]
    path = words[1].rpartition("addr.path=")[2]
    looks = [run("show", "tiny", "ports").out for _ in range(50) if Path(path).exists()]
    assert len(looks) < 50, "the port goes as soon as the lab sees the connection end"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    assert run("qemu", "--program", program, "tiny", "lan").status == 137
    assert run("qemu", "--program", tmp_path / "none", "tiny", "lan").status == 1
    status, _, err = run("qemu", "tiny", "lann", "--", "-m", "1")
    assert status == 2 and "no network lann" in err
