"""Two rows between virtual machines (QEMU, emulating): through vnet by streams and by datagrams, beside QEMU's own hub.

All pairs run at once, and sleep while another is measured. QEMU's hub is a QEMU without a machine that both guests
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
from vnet.runtime.lab import Lab
from vnet.runtime.opening import open_lab
from vnet.runtime.places import place_of
from vnet.topology import parse_topology

STREAM: Final = "vnet"
DGRAM: Final = "vnet, dgram"
HUB: Final = "QEMU hub"
DGRAM_HUB: Final = "QEMU hub, dgram"
PAIRS: Final = {STREAM: "stream", DGRAM: "dgram", HUB: "hub", DGRAM_HUB: "dgramhub"}
WHAT: Final = {
    STREAM: "TCP between two virtual machines (TCG), vs QEMU hub",
    DGRAM: "The same by -netdev dgram, vs QEMU hub by dgram",
}
PEERS: Final = {STREAM: HUB, DGRAM: DGRAM_HUB}
SECONDS: Final = 3
BOOT: Final = 120.0


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure every row of this group."""
    reason = tiny_guest.why_not() or why_not(("iperf3",))
    if reason:
        return [Row(what=what, gate=1, ambition=1.1, note=reason) for what in WHAT.values()]
    with tempfile.TemporaryDirectory(prefix="vb", dir="/tmp") as directory, ExitStack() as stack:
        tiny_guest.make_initrd(Path(directory) / "initrd", "iperf3")
        hub = subprocess.Popen(_hub(directory), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(hub.wait)
        stack.callback(hub.kill)
        measured = trio.run(_measure, directory, rounds)
    return [
        Row(what=what, gate=1, ambition=1.1, ratios=against_best(measured, name, (PEERS[name],)),
            figures=medians({each: measured[each] for each in (name, PEERS[name])}, "Mbit/s", 1e6))
        for name, what in WHAT.items()
    ]  # fmt: skip


def _hub(directory: str) -> list[str]:
    words = ["qemu-system-x86_64", "-machine", "none", "-nographic", "-monitor", "none", "-serial", "none"]
    for number in (1, 2):
        words += ["-netdev", f"stream,id=s{number},server=on,addr.type=unix,addr.path={directory}/h{number}"]
        words += ["-netdev", f"hubport,id=p{number},hubid=1,netdev=s{number}"]
        words += ["-netdev", f"dgram,id=d{number},{_ends(f'{directory}/d{number}.vm', f'{directory}/d{number}')}"]
        words += ["-netdev", f"hubport,id=q{number},hubid=2,netdev=d{number}"]
    return words


def _ends(remote: str, local: str) -> str:
    return f"local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"


def _topology(directory: str) -> str:
    """Write a lab in which all machines are guests, so that each has a console; only their NICs go different ways.

    Those with datagrams find their plugs where ``_measure`` has them made.
    """
    plugs = place_of("vms").directory
    boots = f'kernel: {tiny_guest.KERNEL}, initrd: {directory}/initrd, append: "console=ttyS0 quiet", memory: 192MiB'
    lines = ["name: vms", "networks: {lan: {subnet: 10.0.0.0/24}}", "guests:"]
    for number in (1, 2):
        networks = {
            "hub": f"stream,id=n0,server=off,addr.type=unix,addr.path={directory}/h{number}",
            "dgram": f"dgram,id=n0,{_ends(f'{plugs}/p{number}.sock', f'{plugs}/p{number}.sock.vm')}",
            "dgramhub": f"dgram,id=n0,{_ends(f'{directory}/d{number}', f'{directory}/d{number}.vm')}",
        }
        lines.append(f"  stream{number}: {{kind: qemu, nics: [lan], {boots}}}")
        for octet, (pair, network) in enumerate(networks.items()):
            nic = f"virtio-net-pci,netdev=n0,mac=52:54:00:00:0{octet}:0{number},romfile="
            lines.append(f"  {pair}{number}: {{kind: qemu, args: [-netdev, '{network}', -device, '{nic}'], {boots}}}")
    return "\n".join(lines)


async def _measure(directory: str, rounds: int) -> dict[str, list[float]]:
    async with open_lab(parse_topology(_topology(directory))) as lab:
        await lab.wait_up(BOOT)
        for _ in range(2):
            await lab.plug("lan", kind="qemu-dgram")
        for octet, pair in enumerate(PAIRS.values()):
            for number in (1, 2):
                guest = _machine(lab, f"{pair}{number}")
                await guest.console.wait_for("guest-is-up", BOOT)
                await _run(guest, f"ip addr add 10.0.{octet}.{number}/24 dev eth0; ip link set eth0 up")
            await _run(_machine(lab, f"{pair}1"), "iperf3 -s -D")
            await _run(_machine(lab, f"{pair}2"), f"ping -c 3 10.0.{octet}.1")
        contenders = {
            name: partial(trio.from_thread.run, _tcp, _machine(lab, f"{pair}2"), f"10.0.{octet}.1")
            for octet, (name, pair) in enumerate(PAIRS.items())
        }
        return await trio.to_thread.run_sync(interleave, contenders, rounds)


def _machine(lab: Lab, name: str) -> QemuGuest:
    guest = lab.guests[name]
    assert isinstance(guest, QemuGuest)
    return guest


async def _tcp(guest: QemuGuest, server: str) -> float:
    """Give what the other machine received, in bit/s."""
    told = await _run(guest, f"iperf3 -c {server} -t {SECONDS} -J </dev/null", SECONDS + BOOT)
    report = json.loads(told[told.index("{") : told.rindex("}") + 1])
    return float(report["end"]["sum_received"]["bits_per_second"])


async def _run(guest: QemuGuest, command: str, timeout: float = BOOT) -> str:
    mark = secrets.token_hex(4)
    since = guest.console.said
    await guest.console.write(f"{command}\necho {mark[:4]}''{mark[4:]}\n".encode())
    return (await guest.console.wait_for(mark, timeout, since)).removesuffix(mark)
