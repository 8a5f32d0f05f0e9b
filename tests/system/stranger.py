"""Machines that a test starts by itself, with a shell on their console: a user's, of whom the lab knows nothing."""

from __future__ import annotations

import os
import re
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from machine import Machine
from tiny_guest import PARAMETERS, unpacked_kernel

BOOT = 90.0
"""Seconds; it takes five where nothing else runs."""

_NUMBERS = count(1)


class Console:
    """A machine whose console, with a shell, is its input and output. What is no terminal, a User-mode Linux minds least."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self.said = ""

    def expect(self, pattern: str, timeout: float = 60.0) -> str:
        """Wait until the console has said this, and forget what was said up to there."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.said)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.said[-2000:]!r}"
            if select.select([self.process.stdout], [], [], left)[0]:
                said = os.read(self.process.stdout.fileno(), 65536)
                assert said, f"it ended with {self.process.wait()}: {self.said[-2000:]!r}"
                self.said += said.decode(errors="replace").replace("\r", "")
        self.said = self.said[found.end() :]
        return found[0]

    def type(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")

    def run(self, command: str, timeout: float = 60.0) -> str:
        """Run a command to its end; give what it printed."""
        mark = secrets.token_hex(4)
        self.type(f"{command}; echo {mark[:4]}''{mark[4:]}")
        return self.expect(rf"(?s).*{mark}(?=\n)", timeout)

    def reaches(self, address: str) -> bool:
        return "rc=0" in self.run(f"ping -c 1 -W 5 {address} >/dev/null; echo rc=$?")

    def close(self) -> None:
        """End it, and what it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


class Vm(Console):
    """A QEMU with a shell on its console; *network* are its network's, whose back end is called n."""

    def __init__(self, host: Machine, initrd: Path, *network: str, nic: str = "") -> None:
        mac = f"02:00:00:00:01:{next(_NUMBERS):02x}"
        words = (
            "qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
            "-machine", "q35,memory-backend=m", "-object", "memory-backend-memfd,id=m,size=256M,share=on", "-m", "256",
            *network, "-device", f"virtio-net-pci,netdev=n,mac={mac},vectors=0{nic}",
            "-kernel", str(unpacked_kernel()), "-initrd", str(initrd), "-append", PARAMETERS,
        )  # fmt: skip
        super().__init__(host.argv(*words))

    def booted(self, address: str, gateway: str) -> Vm:
        self.expect("guest-is-up", BOOT)
        self.run(f"ip link set eth0 up; ip addr add {address}/24 dev eth0; ip route add default via {gateway}")
        return self
