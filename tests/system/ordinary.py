"""What somebody without any privilege does: a lab of their own, and programs on terminals, such as virtual machines."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from somebody import as_somebody, make_directory
from tiny_guest import KERNEL, PARAMETERS
from vm_lab import BOOT, booting

MACHINE = ("-accel", "tcg", "-nodefaults", "-display", "none", "-m", "160", "-no-reboot", "-serial", "stdio")

LAB = """
name: plugged
networks:
  lan: {{subnet: 10.0.0.0/24, dhcp: {{}}}}
  dmz: {{vlan: 20, subnet: 10.0.20.0/24}}
guests:
  a: {{nics: [{{network: lan, address: 10.0.0.9/24}}]}}
  b: {{nics: [{{network: dmz, address: 10.0.20.9/24}}]}}
{more}
"""
TWO = """
  vm1: {{kind: qemu, nics: [{{network: lan, dhcp: true}}], {asking}}}
  vm2: {{kind: qemu, nics: [{{network: lan, model: e1000}}], {booting}}}
"""


class User:
    """Somebody without any privilege, with a directory and commands of his own."""

    def __init__(self, directory: Path, initrd: Path) -> None:
        self.directory = directory
        self.initrd = directory / "initrd"
        shutil.copy(initrd, self.initrd)
        self.environment = {**os.environ, "VNET_RUN_DIR": str(directory / "run"), "HOME": str(directory)}

    def argv(self, *words: str) -> list[str]:
        return as_somebody(self.directory, *words)

    def vnet(self, *words: str, check: bool = True) -> str:
        command = self.argv(sys.executable, "-m", "vnet", *words)
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def show(self, what: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.vnet("show", "plugged", what, "--json"))
        return rows

    def up(self, more: str = "") -> int:
        """Start the lab, detached; return its process number."""
        file = self.directory / "lab.yaml"
        file.write_text(LAB.format(more=more.format(booting=booting(self.initrd), asking=booting(self.initrd, "vnet.dhcp"))))
        self.vnet("up", str(file), "--detach", "--timeout", str(BOOT))
        return int((self.directory / "run/plugged/pid").read_text())

    def booting(self) -> list[str]:
        return [*MACHINE, "-kernel", str(KERNEL), "-initrd", str(self.initrd), "-append", PARAMETERS]


@contextmanager
def ordinary(initrd: Path) -> Iterator[User]:
    """Be somebody for the length of the block; machines boot *initrd*."""
    directory = make_directory()
    made = User(directory, initrd)
    try:
        yield made
    finally:
        made.vnet("down", "plugged", check=False)
        shutil.rmtree(directory)


class Terminal:
    """A program on a terminal: what it prints, and keys for it."""

    def __init__(self, user: User, *words: str) -> None:
        self._fd, there = pty.openpty()
        self.process = subprocess.Popen(
            words, stdin=there, stdout=there, stderr=there, env=user.environment, start_new_session=True
        )
        os.close(there)
        self.text = ""

    def expect(self, pattern: str, timeout: float = BOOT) -> str:
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.text[-2000:]!r}"
            try:
                self.text += os.read(self._fd, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"it ended: {self.text[-2000:]}") from None
        self.text = self.text[found.end() :]
        return found[0]

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


def lease_and_ping(terminal: Terminal, nic: str = "eth0") -> str:
    """Have a machine on a terminal get an address and ping guest a; return the address."""
    if nic == "eth0":
        terminal.expect("guest-is-up")
    terminal.press(
        f"ip link set {nic} up; udhcpc -q -n -f -t 20 -i {nic} -s /lease; ping -c 1 -W 9 10.0.0.9; echo rc''=$?\n"
    )
    address = terminal.expect(rf"leased {nic} 10\.0\.0\.\d+(?=\s)").split()[-1]
    assert terminal.expect(r"rc=\d+(?=\s)") == "rc=0"
    return address
