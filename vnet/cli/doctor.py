"""``vnet doctor``: what this machine can do for a lab, what each thing is good for, and how to get what is missing."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, final

import click

from vnet.adapters.plug_kinds import QEMU
from vnet.adapters.user.echo import may_ping
from vnet.cli.output import print_json
from vnet.runtime.places import run_root

_PROBE: Final = str(Path(__file__).with_name("_probe.py"))
_PROBE_TIMEOUT: Final = 20.0
_CAP_NET_ADMIN: Final = 12
_CAP_SYS_ADMIN: Final = 21
_QEMU_WANTED: Final = (7, 2)
_FILES_WANTED: Final = 4096
_NOT_TRIED: Final = "not tried"
_KERNEL_WANTED: Final = (5, 14)
"""The first with SO_NETNS_COOKIE, by which a lab recognises its own namespaces after a crash."""


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: whether it is there, what it is good for, and how to get it.

    ``how`` is empty for what was not tried, because something else stood before it.
    """

    name: str
    ok: bool
    found: str
    enables: str
    how: str


def capabilities() -> int:
    """Read the effective capabilities of this process as a bit set; 0 where there is no /proc."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    except (OSError, ValueError):
        pass
    return 0


def probe(way: str) -> dict[str, str]:
    """Run the probe in a child; a child that fails altogether counts as a refused namespace."""
    command = [sys.executable, "-IS", _PROBE, way]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT, check=True)
        answer = json.loads(result.stdout)
        return {str(name): str(text) for name, text in answer.items()}
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return {"namespace": f"the probe failed: {type(error).__name__}"}


def examine() -> Iterator[Finding]:
    """Look at everything, one after the other."""
    held = capabilities()
    missing = [name for bit, name in ((_CAP_NET_ADMIN, "NET_ADMIN"), (_CAP_SYS_ADMIN, "SYS_ADMIN")) if not held >> bit & 1]
    yield Finding(
        "privileges", not missing,
        "CAP_NET_ADMIN and CAP_SYS_ADMIN" if not missing else f"without CAP_{' and CAP_'.join(missing)}",
        "live labs with namespace guests", "run vnet as root (sudo), or the lab with --simulate, which needs no privilege",
    )  # fmt: skip
    yield _kernel()
    yield _device(
        "/dev/net/tun", "TAP devices", "modprobe tun; in a container: --device /dev/net/tun --cap-add NET_ADMIN",
        "chmod 666 /dev/net/tun, as root",
    )  # fmt: skip
    as_user = probe("user")
    yield from _namespaces(probe("root"), as_user)
    yield from _user_namespaces(as_user)
    yield _open_files()
    yield _ping_sockets()
    yield _run_directory()
    yield _program("iproute2", ("ip",), "a look into namespace guests from outside: ip netns exec", "iproute2")
    yield _program(
        "DHCP client", ("udhcpc", "dhclient", "dhcpcd"), "namespace guests that ask for their address themselves "
        "(otherwise: dhcp: vnet)", "isc-dhcp-client",
    )  # fmt: skip
    yield _program("tshark", ("tshark", "wireshark"), "a look into captures: vnet capture LAB | tshark -i -", "tshark")
    yield _qemu()
    yield _device(
        "/dev/kvm", "QEMU guests at full speed, where a guest says accel: kvm (it was not tried)",
        "turn virtualisation on in the firmware", "join the group kvm",
    )  # fmt: skip


def _kernel() -> Finding:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    return Finding(
        "kernel", platform.system() == "Linux" and numbers >= _KERNEL_WANTED, f"{platform.system()} {release}",
        "live labs that clean up after a crash", "Linux 5.14 or newer",
    )  # fmt: skip


def _device(path: str, enables: str, how: str, how_to_open: str) -> Finding:
    if not os.path.exists(path):
        return Finding(path, False, "not there", enables, how)
    usable = os.access(path, os.R_OK | os.W_OK)
    return Finding(path, usable, "usable" if usable else "there, but not for this user", enables, how_to_open)


def _finding(answers: dict[str, str], key: str, name: str, enables: str, how: str, works: str = "works") -> Finding:
    refused = answers.get(key, _NOT_TRIED)
    return Finding(name, not refused, refused or works, enables, "" if refused == _NOT_TRIED else how)


def _namespaces(as_root: dict[str, str], as_user: dict[str, str]) -> Iterator[Finding]:
    """Tell of namespaces for root, and of TAP devices in them, or in a user namespace where only that can be had."""
    root = "run vnet as root; in a container: --cap-add SYS_ADMIN --cap-add NET_ADMIN"
    yield _finding(as_root, "namespace", "network namespaces", "guests of kind namespace", root)
    answers, works = as_root, "works"
    how = root + " --device /dev/net/tun"
    if as_root.get("namespace", _NOT_TRIED) and not as_user.get("namespace", _NOT_TRIED):
        answers, works = as_user, "works, in a user namespace"
        how = "make /dev/net/tun usable"
    yield _finding(answers, "tap", "TAP", "guests of kind namespace", how, works)
    for key, name, enables, how in (
        ("csum", "checksum offload", "fast TAP devices", "a kernel with IFF_VNET_HDR"),
        ("tso", "TCP offload (TSO)", "TCP several times as fast", "a kernel with TUN_F_TSO4 and TUN_F_TSO6"),
        ("uso", "UDP offload (USO)", "fast UDP for programs that use UDP_SEGMENT", "Linux 6.2 or newer"),
    ):
        yield _finding(answers, key, name, enables, how, works)


def _user_namespaces(answers: dict[str, str]) -> Iterator[Finding]:
    how = "sysctl user.max_user_namespaces=15000 kernel.apparmor_restrict_unprivileged_userns=0"
    yield _finding(answers, "namespace", "user namespaces", "namespace guests without root", how)
    yield _finding(answers, "nested", "nested user namespaces", "sandboxes and containers inside a guest", how)


def _namespace_guests(findings: list[Finding]) -> str:
    """Sum up whether there can be guests of kind namespace, and what stands in the way: what one cannot do without."""
    found = {finding.name: finding for finding in findings}

    def lacking(*names: str) -> list[Finding]:
        return [found[name] for name in names if not found[name].ok]

    as_root = lacking("privileges", "kernel", "/dev/net/tun", "network namespaces", "TAP")
    if not as_root:
        return "yes" + ("" if os.geteuid() else ", as root")
    if not found["user namespaces"].ok:
        return f"no, for lack of {', '.join(each.name for each in as_root)}"
    rootless = lacking("kernel", "/dev/net/tun") or lacking("TAP")
    if not rootless:
        return "yes, in user namespaces, without root"
    return f"no, for lack of {', '.join(f'{each.name} ({each.how})' for each in rootless)}"


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shown = ["unlimited" if limit == resource.RLIM_INFINITY else str(limit) for limit in (soft, hard)]
    return Finding(
        "open files", soft == resource.RLIM_INFINITY or soft >= _FILES_WANTED, f"{shown[0]}, at most {shown[1]}",
        "live labs with hundreds of namespace guests", f"ulimit -n {_FILES_WANTED}",
    )  # fmt: skip


def _ping_sockets() -> Finding:
    allowed = may_ping()
    return Finding(
        "ping sockets", allowed, "usable" if allowed else "not for this user",
        "guests that ping the outside by adapter: user", "sysctl net.ipv4.ping_group_range='0 2147483647'",
    )  # fmt: skip


def _run_directory() -> Finding:
    root = run_root()
    existing = root
    while not existing.exists():
        existing = existing.parent
    usable = os.access(existing, os.W_OK | os.X_OK)
    return Finding(
        "run directory", usable, f"{root}" + ("" if usable else " cannot be written"),
        "running labs (their lock and control socket)", "set VNET_RUN_DIR to a directory of yours",
    )  # fmt: skip


def _program(name: str, programs: tuple[str, ...], enables: str, package: str) -> Finding:
    found = [path for program in programs if (path := shutil.which(program))]
    return Finding(name, bool(found), ", ".join(found) or "not found", enables, f"install {package}")


def _qemu() -> Finding:
    """Ask QEMU for its version: -netdev stream and dgram came with 7.2."""
    enables, how = "guests of kind qemu, vnet qemu, vnet plug", "install qemu-system-x86"
    path = shutil.which(QEMU)
    if path is None:
        return Finding("QEMU", False, "not found", enables, how)
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_PROBE_TIMEOUT, check=True).stdout
        found = re.search(r"version (\d+)\.(\d+)(?:\.\d+)*", told)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("QEMU", False, f"{path} does not run: {type(error).__name__}", enables, how)
    if found is None or (int(found[1]), int(found[2])) < _QEMU_WANTED:
        old = f"{path}, {found[0] if found else 'of an unknown version'}"
        return Finding("QEMU", False, old, enables, "QEMU 7.2 or newer; older ones: vnet plug --as qemu-legacy")
    return Finding("QEMU", True, f"{path}, {found[0]}", enables, how)


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor_command(as_json: bool) -> None:
    """Say what this machine can do, what each thing enables, and how to get what is missing.

    Simulated labs need nothing of it (vnet up FILE --simulate), live labs of emulated guests very little (--emulate). The
    exit status is always 0.
    """
    findings = list(examine())
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    width = max(len(finding.name) for finding in findings)
    echo: Callable[[str], None] = click.echo
    for finding in findings:
        mark = click.style("yes", fg="green") if finding.ok else click.style("no ", fg="yellow")
        echo(f"{mark}  {finding.name.ljust(width)}  {finding.found}")
        echo(f"     {' ' * width}  for {finding.enables}")
        if not finding.ok and finding.how:
            echo(f"     {' ' * width}  how: {finding.how}")
    echo("")
    run_directory = next(finding for finding in findings if finding.name == "run directory")
    echo("simulated labs: yes")
    emulated = "yes" if run_directory.ok else "no, for lack of a run directory"
    echo(f"live labs of emulated guests (vnet up --emulate): {emulated}")
    echo(f"live labs with namespace guests: {_namespace_guests(findings)}")
