"""``vnet doctor``: what it finds, and how it reads when things are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vnet.cli import doctor

if TYPE_CHECKING:
    from .conftest import Run

NAMES = [
    "privileges", "kernel", "/dev/net/tun", "network namespaces", "TAP", "checksum offload", "TCP offload (TSO)",
    "UDP offload (USO)", "user namespaces", "nested user namespaces", "open files", "ping sockets", "run directory",
    "iproute2", "DHCP client", "tshark", "QEMU", "/dev/kvm",
]  # fmt: skip


def test_looks_at_everything_and_always_succeeds(run: Run) -> None:
    status, out, err = run("doctor")
    assert (status, err) == (0, "")
    for name in NAMES:
        assert f"  {name}" in out
    assert "simulated labs: yes" in out
    findings = json.loads(run("doctor", "--json").out)
    assert [each["name"] for each in findings] == NAMES
    for each in findings:
        assert isinstance(each["ok"], bool)
        assert each["found"] and each["enables"] and each["how"]


def test_a_machine_that_can_do_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "capabilities", lambda: 0)
    monkeypatch.setattr(doctor, "probe", lambda way: {"namespace": "Operation not permitted"})
    monkeypatch.setattr(doctor.shutil, "which", lambda program: None)
    monkeypatch.setattr(doctor.os.path, "exists", lambda path: False)
    status, out, _ = run("doctor")
    assert status == 0
    lines = out.splitlines()
    assert lines[-1] == "live labs with namespace guests: no, for lack of privileges, /dev/net/tun, network namespaces, TAP"
    at = next(number for number, line in enumerate(lines) if "network namespaces" in line)
    assert lines[at].startswith("no ") and lines[at].endswith("Operation not permitted")
    assert "how: run vnet as root" in lines[at + 2]


@pytest.mark.parametrize(
    ("says", "ok", "found"),
    [
        ("echo QEMU emulator version 7.2.22 '(Debian 1:7.2)'", True, "version 7.2.22"),
        ("echo QEMU emulator version 10.0", True, "version 10.0"),
        ("echo QEMU emulator version 6.9.1", False, "version 6.9.1"),
        ("echo something else", False, "of an unknown version"),
        ("exit 1", False, "does not run: CalledProcessError"),
    ],
)
def test_a_qemu_is_asked_how_old_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, ok: bool, found: str
) -> None:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    finding = doctor._qemu()
    assert finding.ok == ok and found in finding.found and str(program) in finding.found


def test_a_probe_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PROBE", "/nonexistent")
    assert doctor.probe("root") == {"namespace": "the probe failed: CalledProcessError"}


def test_capabilities_are_read_from_the_kernel() -> None:
    assert doctor.capabilities() >= 0
