"""vhost-user with real QEMUs (TCG): Debian's kernel drives the device whose back-end the lab is."""

from __future__ import annotations

import os
import re
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine import Machine, machine
from rig import needs
from tiny_guest import KERNEL, why_not

pytestmark = [
    pytest.mark.real,
    needs("qemu-system-x86_64"),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run"),
]

LAB = """
name: NAME
networks:
  left: {vlan: 10, subnet: 10.1.0.0/24, adapter: {vhost_user: {socket: DIRECTORY/left}}}
  right: {vlan: 20, subnet: 10.2.0.0/24, adapter: {vhost_user: {socket: DIRECTORY/right, connect: true}}}
routers:
  gw: {interfaces: {left: 10.1.0.1/24, right: 10.2.0.1/24}}
guests:
  a: {nics: [{network: left, address: 10.1.0.5/24, gateway: 10.1.0.1}], run: [echo]}
"""
NO_OFFLOADS = (
    ",csum=off,guest_csum=off,gso=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,host_tso4=off,host_tso6=off"
    ",host_ecn=off,host_ufo=off,mrg_rxbuf=off"
)
BOOT = 90.0
OCTETS = 50 * 1024 * 1024


class Vm:
    """A QEMU with a shell on its console."""

    def __init__(self, host: Machine, initrd: Path, chardev: str, nic: str = "", size: int = 256) -> None:
        device = f"virtio-net-pci,netdev=n,mac=02:00:00:{secrets.token_hex(3)[:2]}:00:{secrets.token_hex(1)},vectors=0"
        words = (
            "qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
            "-machine", "q35,memory-backend=m", "-object", "memory-backend-memfd,id=m,size=256M,share=on", "-m", "256",
            "-chardev", f"socket,id=c,{chardev}", "-netdev", "vhost-user,id=n,chardev=c",
            "-device", f"{device},rx_queue_size={size},tx_queue_size={size}{nic}",
            "-kernel", str(KERNEL), "-initrd", str(initrd), "-append", "console=ttyS0 quiet",
        )  # fmt: skip
        self.process = subprocess.Popen(
            host.argv(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
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

    def booted(self, address: str, gateway: str) -> Vm:
        self.expect("guest-is-up", BOOT)
        self.run(f"ip link set eth0 up; ip addr add {address}/24 dev eth0; ip route add default via {gateway}")
        return self

    def reaches(self, address: str) -> bool:
        return "rc=0" in self.run(f"ping -c 1 -W 5 {address} >/dev/null; echo rc=$?")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout:g} s"
        time.sleep(0.05)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path) as made:
        yield made


@pytest.fixture
def start(host: Machine, initrd: Path) -> Iterator[Callable[..., Vm]]:
    """Start machines that end with the test."""
    started: list[Vm] = []

    def begin(chardev: str, nic: str = "", size: int = 256) -> Vm:
        started.append(Vm(host, initrd, chardev, nic, size))
        return started[-1]

    yield begin
    for each in started:
        each.close()


def topology(tmp_path: Path) -> str:
    return LAB.replace("DIRECTORY", str(tmp_path))


def details(host: Machine, network: str) -> dict[str, object]:
    (row,) = [row for row in host.show(host.name, "networks") if row["name"] == network]
    found = row["details"]
    assert isinstance(found, dict)
    return {**found, "state": row["state"]}


def copy(sender: Vm, receiver: Vm, address: str) -> float:
    """Have one machine send 50 MB to the other, and compare the sums; return Mbit/s."""
    receiver.type("nc -l -p 5000 >/tmp/y; sha256sum </tmp/y; rm /tmp/y; echo got''it")
    sender.run(f"dd if=/dev/urandom of=/tmp/x bs=65536 count={OCTETS // 65536} 2>/dev/null", 120)
    sum_of = re.search(r"[0-9a-f]{64}", sender.run("sha256sum </tmp/x", 120))
    begun = time.monotonic()
    sender.run(f"nc {address} 5000 </tmp/x; rm /tmp/x", 180)
    rate = OCTETS * 8 / (time.monotonic() - begun) / 1e6
    arrived = re.search(r"[0-9a-f]{64}", receiver.expect(r"(?s).*gotit", 120))
    assert sum_of is not None
    assert arrived is not None
    assert arrived[0] == sum_of[0]
    return rate


@pytest.mark.parametrize(
    ("left", "left_size", "right", "right_size"),
    [("", 256, "", 1024), ("", 1024, NO_OFFLOADS, 256)],
    ids=["offloads", "one-without-offloads"],
)
def test_two_machines_copy_both_ways(
    host: Machine, start: Callable[..., Vm], tmp_path: Path, left: str, left_size: int, right: str, right_size: int
) -> None:
    """One dials the lab, the other is dialled; the router between them passes super-frames whole."""
    host.up(topology(tmp_path))
    one = start(f"path={tmp_path}/left", left, left_size)
    two = start(f"path={tmp_path}/right,server=on,wait=on", right, right_size)
    one.booted("10.1.0.2", "10.1.0.1")
    two.booted("10.2.0.2", "10.2.0.1")
    assert details(host, "left")["rings"] == {"receive": left_size, "transmit": left_size}
    assert details(host, "right")["rings"] == {"receive": right_size, "transmit": right_size}
    assert one.reaches("10.1.0.5")
    rates = copy(one, two, "10.2.0.2"), copy(two, one, "10.1.0.2")
    sys.stderr.write(f"{rates[0]:.0f} and back {rates[1]:.0f} Mbit/s\n")
    for network in ("left", "right"):
        assert details(host, network)["state"] == "up"
        assert not set(details(host, network)["drops"]) & {"malformed", "bad-message"}  # type: ignore[call-overload]


def test_a_machine_dies_at_work_and_another_comes(host: Machine, start: Callable[..., Vm], tmp_path: Path) -> None:
    host.up(topology(tmp_path))
    first = start(f"path={tmp_path}/left").booted("10.1.0.2", "10.1.0.1")
    first.type("cat /dev/zero | nc 10.1.0.5 7")
    time.sleep(1)  # of traffic
    first.process.kill()
    wait_until(lambda: str(details(host, "left")["state"]).startswith("unbound: nobody has connected"), "end")
    second = start(f"path={tmp_path}/left").booted("10.1.0.3", "10.1.0.1")
    assert second.reaches("10.1.0.5")


def test_the_lab_dies_and_the_machine_finds_it_again(host: Machine, start: Callable[..., Vm], tmp_path: Path) -> None:
    running = host.up(topology(tmp_path))
    one = start(f"path={tmp_path}/left,reconnect=1").booted("10.1.0.2", "10.1.0.1")
    assert one.reaches("10.1.0.5")
    for _ in range(2):
        running.kill()
        running.wait()
        running = host.up(topology(tmp_path))
        wait_until(lambda: details(host, "left")["state"] == "up", "reconnection")
        assert one.reaches("10.1.0.5")
