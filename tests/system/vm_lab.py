"""Labs with virtual machines, for tests: a shell in a machine, and how long a loaded computer may take."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import trio
from rig import skip_for
from tiny_guest import PARAMETERS, unpacked_kernel, why_not

import vnet
from vnet.guests.qemu import QemuGuest

BOOT = 60.0
"""Seconds; it takes three to five where nothing else runs."""

needs_qemu = skip_for(why_not())


def booting(initrd: Path, *words: str) -> str:
    """Give the keys of a machine that boots the tiny Linux, which asks for an address with ``vnet.dhcp``."""
    append = " ".join((PARAMETERS, *words))
    return f'kernel: {unpacked_kernel()}, initrd: {initrd}, append: "{append}", memory: 160MiB'


def machine(lab: vnet.Lab, name: str = "vm") -> QemuGuest:
    guest = lab.guests[name]
    assert isinstance(guest, QemuGuest)
    return guest


class Shell:
    """The shell on a machine's console."""

    def __init__(self, machine: vnet.Guest) -> None:
        assert isinstance(machine, QemuGuest)
        self.machine = machine

    async def booted(self) -> Shell:
        await self.machine.console.wait_for("guest-is-up", BOOT)
        await self.run("true")
        return self

    async def run(self, command: str, timeout: float = 60.0, status: int | None = 0) -> str:
        """Type a command, and give what it printed; None as *status* takes any."""
        mark = secrets.token_hex(4)
        since = self.machine.console.said
        await self.machine.console.write(f"{command}\necho {mark[:4]}''{mark[4:]} $?\n".encode())
        said = await self.machine.console.wait_for(rf"{mark} \d+", timeout, since)
        output, _, code = said.rpartition(f"{mark} ")
        assert status is None or int(code) == status, f"{command}: {said}"
        return output.replace("\r", "").partition(f"''{mark[4:]} $?\n")[2] or output.replace("\r", "")

    async def lease(self, interface: str) -> str:
        """Get an address by DHCP, by busybox's own client."""
        said = await self.run(f"ip link set {interface} up; udhcpc -q -n -f -t 20 -i {interface} -s /lease 2>&1")
        found = re.search(rf"leased {interface} (\S+)", said)
        assert found, said
        return found[1]

    async def until(self, command: str, wanted: str, timeout: float = 30.0) -> None:
        """Repeat a command until it prints this."""
        with trio.fail_after(timeout):
            while (await self.run(command, status=None)).strip() != wanted:  # noqa: ASYNC110 - the machine tells nobody
                await trio.sleep(0.1)
