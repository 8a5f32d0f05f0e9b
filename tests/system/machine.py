"""A network namespace that stands for the machine: labs run in it, so that their adapters touch nothing of the real one."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from waiting import wait_ready

from vnet.adapters import netns


class Machine:
    """A namespace with loopback up, in which commands and labs run. Made by ``machine``."""

    def __init__(self, directory: Path) -> None:
        self.name = f"vt{secrets.token_hex(3)}"
        self.directory = directory
        self.environment = {**os.environ, "VNET_RUN_DIR": str(directory / "run")}
        self.resolv_conf: Path | None = None  # what is to be seen as /etc/resolv.conf; with it, nobody sees what labs mount
        self._labs: list[subprocess.Popen[str]] = []

    @property
    def path(self) -> str:
        return netns.path_of(self.name)

    def argv(self, *words: str) -> list[str]:
        """Give the command line that runs something here; unlike ``ip netns exec`` it sees what others mount."""
        enter = ["nsenter", f"--net={self.path}"]
        if self.resolv_conf is None:
            return [*enter, *words]
        show = f'mount --bind {self.resolv_conf} /etc/resolv.conf && exec "$@"'
        return [*enter, "unshare", "--mount", "sh", "-c", show, "sh", *words]

    def run(self, *words: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        done = subprocess.run(
            self.argv(*words), env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done

    def vnet(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Type a vnet command."""
        return self.run(sys.executable, "-m", "vnet", *words, check=check)

    def inside(self, lab: subprocess.Popen[str], guest: str, *words: str, timeout: float = 60) -> str:
        """Run a program in a namespace guest to its end, with the guest's own resolv.conf; return what it printed.

        Where the lab mounted its guests' namespaces only its own processes see them.
        """
        enter = ["nsenter", "--target", str(lab.pid), "--mount", "--net", sys.executable, "-m", "vnet", "exec"]
        done = subprocess.run(
            [*enter, self.name, guest, "--", *words],
            env=self.environment, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def show(self, lab: str, what: str) -> list[dict[str, Any]]:
        """Ask a lab for a view."""
        rows: list[dict[str, Any]] = json.loads(self.vnet("show", lab, what, "--json").stdout)
        return rows

    def interfaces(self) -> set[str]:
        """Name the machine's interfaces."""
        return {each["ifname"] for each in json.loads(self.run("ip", "-json", "link").stdout)}

    def up(self, topology: str, *options: str) -> subprocess.Popen[str]:
        """Start a lab, whose name in the text is NAME and becomes the machine's own; wait until it is ready."""
        file = self.directory / f"{self.name}.yaml"
        file.write_text(topology.replace("NAME", self.name))
        command = self.argv(sys.executable, "-m", "vnet", "up", str(file), *options)
        lab = subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._labs.append(lab)
        wait_ready(lab)
        return lab

    def close(self) -> None:
        """End the labs that were started here, by whatever means."""
        for lab in self._labs:
            lab.kill()
            lab.wait()
            assert lab.stdout is not None
            lab.stdout.close()
        self.vnet("down", self.name, check=False)


@contextmanager
def machine(directory: Path) -> Iterator[Machine]:
    """Make a machine for the length of the block."""
    made = Machine(directory)
    subprocess.run(["ip", "netns", "add", made.name], check=True)
    try:
        made.run("ip", "link", "set", "lo", "up")
        yield made
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            made.close()
        subprocess.run(["ip", "netns", "del", made.name], check=True)
