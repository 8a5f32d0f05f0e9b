"""udhcpc, dhclient and dhcpcd in a live lab: lease, options and times, renewal, release, the same address again."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
from rig import needs

from vnet import Lab, open_lab

pytestmark = [pytest.mark.real, needs("ip", "unshare")]

LAB = """
name: {name}
networks:
  lan:
    subnet: 10.77.0.0/24
    dhcp:
      range: 10.77.0.50-10.77.0.60
      server: 10.77.0.2
      gateway: 10.77.0.1
      dns: [10.77.0.53, 192.0.2.53]
      wins: [10.77.0.44]
      domain: lab.example
      lease: 60s
      renew: 4s
      rebind: 45s
guests:
  pc: {{kind: namespace, nics: [lan]}}
"""

# both programs that leave the configuring to a script tell it what they got by its environment
SCRIPT = """#!/bin/sh
env >> {seen}
echo "did=${{reason:-$1}}" >> {seen}
case "${{reason:-$1}}" in
    PREINIT) ip link set eth0 up ;;
    bound|renew|BOUND|RENEW|REBOOT)
        address="${{new_ip_address:-$ip}}/24"
        ip address replace "$address" dev eth0
        ip route replace default via 10.77.0.1 ;;
    deconfig|EXPIRE|RELEASE|STOP) ip address flush dev eth0 ;;
esac
"""

CONFIGURATION = """
request subnet-mask, routers, domain-name, domain-name-servers, netbios-name-servers,
    dhcp-renewal-time, dhcp-rebinding-time;
"""


class Program:
    """One DHCP client: how it is started, told to renew, told to release, and what it calls the things it got."""

    name = ""
    command: list[str]
    renewed_by: int | None = None
    """The signal that asks for a renewal; None: it comes by itself at T1."""
    released_by: int | None = None
    """The signal that asks for a release; None: a command does."""
    release_command: list[str] = []

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen = folder / "seen"
        self.script = folder / "script"
        self.script.write_text(SCRIPT.format(seen=self.seen))
        self.script.chmod(0o755)

    def environment(self) -> dict[str, str]:
        """What the script was told, the latest word on each."""
        lines = self.seen.read_text().splitlines() if self.seen.exists() else []
        return dict(line.split("=", 1) for line in lines if "=" in line)


class Udhcpc(Program):
    name = "udhcpc"
    renewed_by = signal.SIGUSR1
    released_by = signal.SIGUSR2

    @property
    def command(self) -> list[str]:
        return ["udhcpc", "-f", "-i", "eth0", "-s", str(self.script), "-O", "wins", "-O", "58", "-O", "59"]

    def told(self) -> dict[str, str]:
        got = self.environment()
        times = {"t1": str(int(got["opt58"], 16)), "t2": str(int(got["opt59"], 16))}
        names = {"mask": "subnet", "router": "router", "dns": "dns", "domain": "domain", "wins": "wins", "lease": "lease"}
        return {**times, **{ours: got[theirs] for ours, theirs in names.items()}, "server": got["serverid"]}


class NewNames(Program):
    """dhclient and dhcpcd name what they got alike."""

    def told(self) -> dict[str, str]:
        got = self.environment()
        names = {
            "mask": "subnet_mask", "router": "routers", "dns": "domain_name_servers", "domain": "domain_name",
            "wins": "netbios_name_servers", "lease": "dhcp_lease_time", "t1": "dhcp_renewal_time",
            "t2": "dhcp_rebinding_time", "server": "dhcp_server_identifier",
        }  # fmt: skip
        return {ours: got[f"new_{theirs}"] for ours, theirs in names.items()}


class Dhclient(NewNames):
    name = "dhclient"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "conf").write_text(CONFIGURATION)
        (folder / "leases").touch()

    @property
    def command(self) -> list[str]:
        files = {"-sf": self.script, "-cf": "conf", "-lf": "leases", "-pf": "pid"}
        return [
            "dhclient",
            "-d",
            *(word for option, file in files.items() for word in (option, str(self.folder / file))),
            "eth0",
        ]

    @property
    def release_command(self) -> list[str]:
        return [*(word for word in self.command if word not in ("-d", "eth0")), "-r", "eth0"]


class Dhcpcd(NewNames):
    name = "dhcpcd"
    released_by = signal.SIGALRM

    @property
    def command(self) -> list[str]:
        # it keeps leases and its process number at fixed places: give it such places of its own
        options = ["-B", "-4", "-A", "-f", "/dev/null", "-c", str(self.script), "-o", "netbios_name_servers", "eth0"]
        options[-1:] = ["-o", "domain_name_servers", "-o", "domain_name", "-o", "dhcp_lease_time", "eth0"]
        hide = "for place in /var/lib/dhcpcd /run/dhcpcd; do mkdir -p $place; mount -t tmpfs none $place; done; exec "
        return ["unshare", "-m", "sh", "-c", hide + shlex.join(["dhcpcd", *options])]


@contextmanager
def inside(namespace: str, command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the namespace of a guest; at the end nothing runs there any more."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *command], stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)  # dhcpcd leaves its helpers behind


async def until(condition: Callable[[], bool], seconds: float = 25) -> None:
    """Look again and again: what is awaited happens in programs that tell nobody."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - only asking tells
            await trio.sleep(0.02)


async def event(lab: Lab, kind: str, count: int) -> list[dict[str, object]]:
    """Wait for the *count*-th event of a kind."""

    def found() -> list[dict[str, object]]:
        return [dict(each.fields) for each in lab.events if each.kind == kind]

    await until(lambda: len(found()) >= count)
    return found()


def ip(namespace: str, *words: str) -> str:
    return subprocess.run(["ip", "-n", namespace, *words], capture_output=True, text=True, check=True).stdout


@pytest.mark.trio
@pytest.mark.parametrize(
    "kind", [pytest.param(each, id=each.name, marks=needs(each.name)) for each in (Udhcpc, Dhclient, Dhcpcd)]
)
async def test_a_program_that_nobody_here_wrote(kind: type[Program], tmp_path: Path) -> None:
    name = f"vt{secrets.token_hex(3)}"
    file = tmp_path / "lab.yaml"
    file.write_text(LAB.format(name=name))
    namespace = f"{name}-pc"
    async with open_lab(file, state=tmp_path / "state") as lab:
        program = kind(tmp_path)
        log = tmp_path / "log"
        with inside(namespace, program.command, log) as client:
            await event(lab, "dhcp-bound", 1)
            await until(lambda: program.environment().get("did", "").lower() == "bound")
            await until(lambda: "10.77.0.50/24" in ip(namespace, "-4", "address", "show", "eth0"))
            told = program.told()
            assert told == {
                "mask": "255.255.255.0", "router": "10.77.0.1", "dns": "10.77.0.53 192.0.2.53", "domain": "lab.example",
                "wins": "10.77.0.44", "lease": "60", "t1": "4", "t2": "45", "server": "10.77.0.2",
            }, log.read_text()  # fmt: skip
            if program.renewed_by is not None:
                client.send_signal(program.renewed_by)
            await event(lab, "dhcp-renewed", 1)
            # dhcpcd is deaf while its script runs
            await until(lambda: program.environment().get("did", "").lower() == "renew")
            await trio.sleep(0.1)
            if program.released_by is not None:
                client.send_signal(program.released_by)
            else:
                client.kill()
                await trio.to_thread.run_sync(
                    lambda: subprocess.run(
                        ["ip", "netns", "exec", namespace, *program.release_command], check=True, capture_output=True
                    )
                )
            (released,) = await event(lab, "dhcp-released", 1)
            assert released["address"] == "10.77.0.50"
        ip(namespace, "address", "flush", "dev", "eth0")
        with inside(namespace, program.command, log):
            found = await event(lab, "dhcp-bound", 2)
        assert [each["address"] for each in found] == ["10.77.0.50"] * 2
        assert lab.dhcp["lan"].counters["malformed"] == 0 and lab.dhcp["lan"].counters["nak"] == 0
