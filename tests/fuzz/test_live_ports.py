"""Frames of every sort out of a real namespace into a live lab, and into its TAPs: the lab goes on, and so does Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from draws import Place
from frames import FrameSource

import vnet
from vnet.runtime.lab import Lab
from vnet.topology import parse_topology

FRAMES = int(os.environ.get("VNET_FUZZ_FRAMES", "10000"))
THROWER = Path(__file__).with_name("throw_packets.py")
LAB = f"""
name: fuzz{os.getpid()}
networks:
  left: {{subnet: 10.66.1.0/24, dhcp: {{}}}}
  right: {{subnet: 10.66.2.0/24}}
routers:
  between: {{interfaces: {{left: 10.66.1.1/24, right: 10.66.2.1/24}}, nat: {{outside: right, inside: [left]}}}}
guests:
  a: {{kind: namespace, nics: [{{network: left, address: 10.66.1.10/24, gateway: 10.66.1.1}}]}}
  b: {{kind: namespace, nics: [{{network: right, address: 10.66.2.20/24, gateway: 10.66.2.1}}]}}
  e: {{nics: [left]}}
"""

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("iperf3") is None, reason="needs iperf3"),
]


async def inside(lab: Lab, guest: str, *command: str, timeout: float = 60) -> str:
    """Run a program in a namespace and return what it prints; it must succeed."""
    namespace = lab.topology.guests[guest].namespace
    with trio.fail_after(timeout):
        result = await trio.run_process(
            ["ip", "netns", "exec", str(namespace), *command], capture_stdout=True, capture_stderr=True, check=False
        )
    assert result.returncode == 0, (command, result.stdout[-500:], result.stderr[-500:])
    return result.stdout.decode()


async def check_programs(lab: Lab) -> None:
    """See that real programs still talk through the fabric."""
    assert "0% packet loss" in await inside(lab, "a", "ping", "-c", "3", "-i", "0.2", "-W", "2", "10.66.2.20")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(inside, lab, "b", "iperf3", "-s", "-1"))
        await trio.sleep(0.5)
        report = await inside(lab, "a", "iperf3", "-c", "10.66.2.20", "-n", "20M")
        assert "receiver" in report
    assert (await lab.ping("e", "10.66.1.10", timeout=5)).ok


async def pings(lab: Lab) -> bool:
    """Tell whether a ping gets through, within a second."""
    namespace = lab.topology.guests["a"].namespace
    command = ["ip", "netns", "exec", str(namespace), "ping", "-c", "1", "-W", "1", "10.66.2.20"]
    result = await trio.run_process(command, capture_stdout=True, check=False)
    return result.returncode == 0 and (await lab.ping("e", "10.66.1.10")).ok


def internal_errors(lab: Lab) -> list[str]:
    return [str(event) for event in lab.events if event.kind == "internal-error"]


def test_frames_by_af_packet_and_into_taps():
    async def main() -> None:
        async with vnet.open_lab(parse_topology(LAB)) as lab:
            await lab.wait_up()
            await check_programs(lab)
            stations = [
                (interface.mac, address.ip.packed)
                for _, interface in lab.topology.endpoints()
                for address in interface.addresses
            ]
            names = [f"{mac.hex()}/{'.'.join(map(str, address))}" for mac, address in stations]
            for guest, seed in (("a", 1), ("b", 2)):
                output = await inside(
                    lab, guest, sys.executable, str(THROWER), "eth0", str(seed), str(FRAMES // 2), *names, timeout=120
                )
                plain, headed = map(int, output.split())
                assert plain > FRAMES // 8 and headed > FRAMES // 16, "the kernel took enough of them"
                assert not internal_errors(lab)
            # and the other way: what the switch might hand to a TAP, with true and false virtio-net headers
            source = FrameSource(3, Place(stations, [address for _, address in stations], (1, 16)))
            taps = [lab.ports[f"{guest}:eth0"] for guest in ("a", "b")]
            for number in range(FRAMES):
                source.one(taps).receive(*source.draw())
                if number % 50 == 0:
                    await trio.lowlevel.checkpoint()
            assert not internal_errors(lab)
            for switch in lab.switches.values():
                switch.flush()  # what the frames said of who is where
            for guest in ("a", "b"):
                await inside(lab, guest, "ip", "neigh", "flush", "all")
            for _ in range(60):  # a poisoned neighbor of the router is found out when it does not answer
                if await pings(lab):
                    break
            await check_programs(lab)
            assert not internal_errors(lab)

    before = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    trio.run(main)
    after = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert f"fuzz{os.getpid()}" not in before + after
