"""vhost-user with real QEMUs (TCG): Debian's kernel drives the device whose back-end the lab is."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from machine import Machine
from rig import needs, skip_for
from stranger import Vm
from tiny_guest import why_not
from waiting import wait_until

pytestmark = [
    pytest.mark.real,
    pytest.mark.long,
    needs("qemu-system-x86_64"),
    skip_for(why_not()),
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
OCTETS = 50 * 1024 * 1024


@pytest.fixture
def start(host: Machine, initrd: Path) -> Iterator[Callable[..., Vm]]:
    """Start machines that end with the test."""
    started: list[Vm] = []

    def begin(chardev: str, nic: str = "", size: int = 256) -> Vm:
        words = ("-chardev", f"socket,id=c,{chardev}", "-netdev", "vhost-user,id=n,chardev=c")
        started.append(Vm(host, initrd, *words, nic=f",rx_queue_size={size},tx_queue_size={size}{nic}"))
        return started[-1]

    yield begin
    for each in started:
        each.close()


def topology(tmp_path: Path) -> str:
    return LAB.replace("DIRECTORY", str(tmp_path))


def details(host: Machine, network: str) -> dict[str, Any]:
    (row,) = [row for row in host.show(host.name, "networks") if row["name"] == network]
    return {**row["details"], "state": row["state"]}


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
        assert not set(details(host, network)["drops"]) & {"malformed", "bad-message"}


def test_a_machine_dies_at_work_and_another_comes(host: Machine, start: Callable[..., Vm], tmp_path: Path) -> None:
    host.up(topology(tmp_path))
    first = start(f"path={tmp_path}/left").booted("10.1.0.2", "10.1.0.1")
    first.type("cat /dev/zero | nc 10.1.0.5 7")
    time.sleep(1)  # of traffic
    first.process.kill()
    wait_until(lambda: str(details(host, "left")["state"]).startswith("unbound: nobody has connected"), "end", 30)
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
        wait_until(lambda: details(host, "left")["state"] == "up", "reconnection", 30)
        assert one.reaches("10.1.0.5")
