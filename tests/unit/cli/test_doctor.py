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
        assert each["found"] and each["enables"] and (each["how"] or each["found"] == "not tried")


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


WORKS = {"namespace": "", "tap": "", "csum": "", "tso": "", "uso": "", "nested": ""}
REFUSED = {"namespace": "Operation not permitted"}


@pytest.mark.parametrize(("device", "as_user", "summary"), [
    (True, WORKS, "yes, in user namespaces, without root"),
    (False, {"namespace": "", "tap": "Permission denied", "nested": ""},
     "no, for lack of /dev/net/tun (chmod 666 /dev/net/tun, as root)"),
    (True, REFUSED, "no, for lack of privileges, network namespaces, TAP"),
])  # fmt: skip
def test_an_ordinary_user_is_told_what_is_in_the_way_and_nothing_else(
    run: Run, monkeypatch: pytest.MonkeyPatch, device: bool, as_user: dict[str, str], summary: str
) -> None:
    """What was not tried is no lack, and has no remedy; a closed device is not the fault of user namespaces."""
    monkeypatch.setattr(doctor, "capabilities", lambda: 0)
    monkeypatch.setattr(doctor, "probe", lambda way: REFUSED if way == "root" else as_user)
    monkeypatch.setattr(doctor.os.path, "exists", lambda path: True)
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: device or path != "/dev/net/tun")
    out = run("doctor").out
    assert out.splitlines()[-1] == f"live labs with namespace guests: {summary}"
    found = {each["name"]: each for each in json.loads(run("doctor", "--json").out)}
    assert found["user namespaces"]["ok"] == (as_user is not REFUSED)
    assert all(each["how"] == "" for each in found.values() if each["found"] == "not tried")
    if as_user is WORKS:
        assert found["TAP"]["found"] == found["TCP offload (TSO)"]["found"] == "works, in a user namespace"


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
