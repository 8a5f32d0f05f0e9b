"""A row between two virtual machines (QEMU, emulating): through vnet, beside QEMU's own hub.

Both pairs run at once, and one sleeps while the other is measured. QEMU's hub is a QEMU without a machine that both guests
are connected to by the same kind of sockets: what people do who want two machines on one wire without root.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import trio

from benchmarks.bed import why_not
from benchmarks.rows import ROUNDS, Row, against_best, interleave, medians
from tests.system import tiny_guest
from vnet.guests.qemu import QemuGuest
from vnet.runtime.lab import Lab, open_lab
from vnet.topology import parse_topology

VNET: Final = "vnet"
HUB: Final = "QEMU hub"
WHAT: Final = "TCP between two virtual machines (TCG), vs QEMU hub"
SECONDS: Final = 3
BOOT: Final = 120.0


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure every row of this group."""
    reason = tiny_guest.why_not() or why_not(("iperf3",))
    if reason:
        return [Row(what=WHAT, gate=1, ambition=1.1, note=reason)]
    with tempfile.TemporaryDirectory(prefix="vb", dir="/tmp") as directory, ExitStack() as stack:
        tiny_guest.make_initrd(Path(directory) / "initrd", "iperf3")
        hub = subprocess.Popen(_hub(directory), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(hub.wait)
        stack.callback(hub.kill)
        measured = trio.run(_measure, directory, rounds)
    return [
        Row(what=WHAT, gate=1, ambition=1.1, ratios=against_best(measured, VNET, (HUB,)),
            figures=medians(measured, "Mbit/s", 1e6))
    ]  # fmt: skip


def _hub(directory: str) -> list[str]:
    words = ["qemu-system-x86_64", "-machine", "none", "-nographic", "-monitor", "none", "-serial", "none"]
    for number in (1, 2):
        words += ["-netdev", f"stream,id=s{number},server=on,addr.type=unix,addr.path={directory}/h{number}"]
        words += ["-netdev", f"hubport,id=p{number},hubid=1,netdev=s{number}"]
    return words


def _topology(directory: str) -> str:
    """Write a lab in which all machines are guests, so that each has a console; only their NICs go different ways."""
    boots = f'kernel: {tiny_guest.KERNEL}, initrd: {directory}/initrd, append: "console=ttyS0 quiet", memory: 192MiB'
    lines = ["name: vms", "networks: {lan: {subnet: 10.0.0.0/24}}", "guests:"]
    for number in (1, 2):
        nic = f"[-netdev, 'stream,id=n0,server=off,addr.type=unix,addr.path={directory}/h{number}',"
        nic += f" -device, 'virtio-net-pci,netdev=n0,mac=52:54:00:00:00:0{number},romfile=']"
        lines.append(f"  vnet{number}: {{kind: qemu, nics: [lan], {boots}}}")
        lines.append(f"  hub{number}: {{kind: qemu, args: {nic}, {boots}}}")
    return "\n".join(lines)


async def _measure(directory: str, rounds: int) -> dict[str, list[float]]:
    async with open_lab(parse_topology(_topology(directory))) as lab:
        await lab.wait_up(BOOT)
        for pair in ("vnet", "hub"):
            for number in (1, 2):
                guest = _machine(lab, f"{pair}{number}")
                await guest.console.wait_for("guest-is-up", BOOT)
                await _run(guest, f"ip addr add 10.0.0.{number}/24 dev eth0; ip link set eth0 up")
            await _run(_machine(lab, f"{pair}1"), "iperf3 -s -D")
            await _run(_machine(lab, f"{pair}2"), "ping -c 3 10.0.0.1")
        contenders = {
            name: partial(trio.from_thread.run, _tcp, _machine(lab, f"{pair}2"))
            for name, pair in ((VNET, "vnet"), (HUB, "hub"))
        }
        return await trio.to_thread.run_sync(interleave, contenders, rounds)


def _machine(lab: Lab, name: str) -> QemuGuest:
    guest = lab.guests[name]
    assert isinstance(guest, QemuGuest)
    return guest


async def _tcp(guest: QemuGuest) -> float:
    """Give what the other machine received, in bit/s."""
    told = await _run(guest, f"iperf3 -c 10.0.0.1 -t {SECONDS} -J </dev/null", SECONDS + BOOT)
    report = json.loads(told[told.index("{") : told.rindex("}") + 1])
    return float(report["end"]["sum_received"]["bits_per_second"])


async def _run(guest: QemuGuest, command: str, timeout: float = BOOT) -> str:
    mark = secrets.token_hex(4)
    since = guest.console.said
    await guest.console.write(f"{command}\necho {mark[:4]}''{mark[4:]}\n".encode())
    return (await guest.console.wait_for(mark, timeout, since)).removesuffix(mark)
