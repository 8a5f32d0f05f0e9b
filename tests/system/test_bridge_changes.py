"""NICs that go, come and change their names, and networks that change NICs under traffic; what is left at the end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from machine import Machine
from outside import Outside, needs_switch, run
from rig import needs

pytestmark = [pytest.mark.real, needs("ping", "iperf3", "ethtool"), needs_switch]

LAB = """
name: NAME
networks:
  lan: {vlan: 16, subnet: 10.1.0.0/24, adapter: {bridge: {nic: eth1, vlan: 16}}}
guests:
  a: {nics: [{network: lan, address: 10.1.0.5/24, mac: "00:03:ff:00:00:05"}], run: [iperf3]}
  b: {kind: namespace, nics: [{network: lan, address: 10.1.0.6/24, mac: "00:03:ff:00:00:06"}]}
"""
EVERY = 0.02
"""Seconds between the pings that measure how long nothing passes."""


@pytest.fixture
def around(around: Outside) -> Outside:
    around.nic("eth1", "vlan_mode=trunk", "trunks=16,20", mac="02:00:00:00:01:01")
    return around


def state(host: Machine) -> str:
    return str(host.show(host.name, "networks")[0]["state"])


def comes(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def rebind(host: Machine, adapter: str) -> None:
    host.vnet("set", host.name, "network.lan", f"adapter={adapter}")


def counts(told: str) -> tuple[int, int]:
    """Tell how many pings were sent, and how many answered."""
    sent, received = (int(number) for number in re.findall(r"(\d+) (?:packets transmitted|received)", told))
    return sent, received


def unplugged(host: Machine) -> list[float]:
    """Tell for how long the adapter's switch port was without a cable, each time."""
    rows = [row for row in host.show(host.name, "events") if "lan:adapter" in str(row["fields"])]
    downs = [float(str(row["time_s"])) for row in rows if row["event"] == "port-down"]
    ups = [float(str(row["time_s"])) for row in rows if row["event"] == "port-up"][1:]
    return [up - down for down, up in zip(downs, ups, strict=True)]


def test_a_nic_that_is_renamed_goes_on(host: Machine, around: Outside) -> None:
    peer = around.peer("lan", "10.1.0.9/24", "tag=16")
    host.up(LAB)
    assert peer.reaches("10.1.0.5")
    for command in (("set", "eth1", "down"), ("set", "eth1", "name", "lan0"), ("set", "lan0", "up")):
        host.run("ip", "link", *command)
    assert comes(lambda: state(host) == "up") and comes(lambda: peer.reaches("10.1.0.5"))
    assert "nic-renamed" in (told := str(host.show(host.name, "events"))) and "lan0" in told


def test_a_nic_that_is_gone_leaves_the_network_unbound_until_it_is_back(host: Machine, around: Outside) -> None:
    """S11, VS-15, X4: by its name, then by its MAC address under another name; the guests reach each other all the time."""
    peer = around.peer("lan", "10.1.0.9/24", "tag=16")
    host.up(LAB)
    assert peer.reaches("10.1.0.5")
    host.run("ip", "link", "del", "eth1")
    assert state(host) == "unbound: eth1 is gone"
    assert host.vnet("ping", host.name, "a", "10.1.0.6").returncode == 0 and not peer.reaches("10.1.0.5")
    around.configure("del-port", "br0", "p-eth1")
    around.nic("eth1", "vlan_mode=trunk", "trunks=16", mac="02:00:00:00:01:02")  # another one in its place
    assert (
        comes(lambda: state(host) == "up")
        and comes(lambda: peer.reaches("10.1.0.5"))
        and comes(lambda: peer.reaches("10.1.0.6"))
    )
    host.run("ip", "link", "del", "eth1")
    around.nic("usb0", "vlan_mode=trunk", "trunks=16", mac="02:00:00:00:01:02")  # the same in another place
    assert comes(lambda: state(host) == "up") and comes(lambda: peer.reaches("10.1.0.5"))
    host.run("ip", "link", "set", "usb0", "netns", around.space)
    assert comes(lambda: state(host) == "unbound: usb0 is gone")
    run("ip", "-n", around.space, "link", "set", "usb0", "netns", host.name)
    host.run("ip", "link", "set", "usb0", "up")
    assert comes(lambda: state(host) == "up") and comes(lambda: peer.reaches("10.1.0.5"))
    around.nic("eth9", "vlan_mode=trunk", "trunks=16", mac="02:00:00:00:09:09")
    host.run("ip", "link", "del", "usb0")
    assert comes(lambda: state(host) == "unbound: usb0 is gone")
    done = host.vnet("set", host.name, "network.lan", "adapter={bridge: eth8}", check=False)
    assert "there is no interface eth8" in done.stderr and state(host) == "unbound: usb0 is gone"  # and still waited for
    rebind(host, "{bridge: {nic: eth9, vlan: 16}}")
    assert state(host) == "up" and comes(lambda: peer.reaches("10.1.0.5"))


def test_a_pulled_cable_is_seen(host: Machine, around: Outside) -> None:
    peer = around.peer("lan", "10.1.0.9/24", "tag=16")
    host.up(LAB)
    assert peer.reaches("10.1.0.5")
    around.cable("eth1", up=False)
    assert comes(lambda: state(host) == "no carrier")
    ports = {row["peer"]: row["state"] for row in host.show(host.name, "ports")}
    assert "down" in str(next(value for key, value in ports.items() if "adapter" in str(key)))
    around.cable("eth1", up=True)
    assert comes(lambda: state(host) == "up") and comes(lambda: peer.reaches("10.1.0.5"))
    with around.watching("eth1", "vlan 16 and rarp") as seen:
        rebind(host, "{bridge: {nic: eth1, vlan: 16, host: false}}")
        time.sleep(2.5)
    for mac in ("00:03:ff:00:00:05", "00:03:ff:00:00:06"):  # six times in two seconds, for switches that need a while
        assert len([line for line in seen if f"{mac} > ff:ff:ff:ff:ff:ff" in line]) >= 6, seen


def test_a_nic_that_is_not_there_is_refused(host: Machine, around: Outside) -> None:
    host.up(LAB)
    done = host.vnet("set", host.name, "network.lan", "adapter={bridge: eth7}", check=False)
    assert done.returncode == 1 and "there is no interface eth7 to bridge with; there are eth1" in done.stderr
    done = host.vnet("set", host.name, "network.lan", "adapter={bridge: lo}", check=False)
    assert done.returncode == 1 and "lo cannot be bridged" in done.stderr
    assert state(host) == "up"


@pytest.mark.alone
def test_connections_outlive_every_change(host: Machine, around: Outside) -> None:
    """S16, S9, VS-14: eth1, eth2, loopback, none and back, with a TCP flow and pings from outside; how long nothing passes.

    The network itself is never without a cable, and guests go on talking. What is lost is what the switch outside takes to
    learn, which is told where the guests are until two seconds after each change.
    """
    around.nic("eth2", "vlan_mode=trunk", "trunks=16", mac="02:00:00:00:01:02")
    peer = around.peer("lan", "10.1.0.9/24", "tag=16")
    host.up(LAB)
    assert peer.reaches("10.1.0.5")
    flow = subprocess.Popen(
        peer.argv("iperf3", "-c", "10.1.0.5", "-t", "14", "-b", "20M", "-J"), stdout=subprocess.PIPE, text=True
    )
    lost = {}
    for name, adapter in (
        ("eth1 to eth2", "{bridge: {nic: eth2, vlan: 16}}"),
        ("and back", "{bridge: {nic: eth1, vlan: 16}}"),
    ):
        ping = ("ping", "-i", str(EVERY), "-w", "3", "-q")
        within = (sys.executable, "-m", "vnet", "exec", host.name, "b", "--", *ping, "10.1.0.5")
        with (
            subprocess.Popen(peer.argv(*ping, "10.1.0.6"), stdout=subprocess.PIPE, text=True) as pings,
            subprocess.Popen(host.argv(*within), stdout=subprocess.PIPE, text=True, env=host.environment) as among,
        ):
            time.sleep(0.5)
            rebind(host, adapter)
            told, said = pings.communicate(timeout=10)[0], among.communicate(timeout=10)[0]
        sent, received = counts(told)
        lost[name] = round((sent - received) * EVERY, 2)
        assert len(set(counts(said))) == 1, said
        slowest = re.search(r"rtt [^=]*= [^/]*/[^/]*/([^/]*)/", said)
        assert slowest is not None and float(slowest[1]) < 300, said  # ms; some 50 where nothing else runs
    assert all(seconds < 0.03 for seconds in unplugged(host)), unplugged(host)  # within a step of one task
    rebind(host, "{loopback: {address: 10.1.0.1/24}}")
    assert host.run("ping", "-c", "1", "-W", "2", "10.1.0.6", check=False).returncode == 0
    rebind(host, "none")
    assert not peer.reaches("10.1.0.5") and host.vnet("ping", host.name, "a", "10.1.0.6").returncode == 0
    rebind(host, "{bridge: {nic: eth2, vlan: 16}}")
    assert comes(lambda: peer.reaches("10.1.0.5"))
    report = json.loads(flow.communicate(timeout=60)[0])
    assert "error" not in report, report["error"]
    assert all(seconds <= 2 for seconds in lost.values()), lost
    assert report["end"]["sum_received"]["bytes"] > 0 and report["intervals"][-1]["sum"]["bytes"] > 0


def test_a_killed_lab_leaves_the_nic_as_it_was(host: Machine, around: Outside) -> None:
    def told() -> dict[str, object]:
        (link,) = json.loads(host.run("ip", "-json", "-details", "link", "show", "eth1").stdout)
        return {key: link[key] for key in ("promiscuity", "allmulti", "flags", "mtu", "address")}

    before = told()
    lab = host.up(LAB)
    assert told()["promiscuity"] == 1
    lab.kill()
    lab.wait()
    assert told() == before
    host.vnet("down", host.name)


def test_a_lab_killed_in_the_middle_of_a_change_is_swept(host: Machine, around: Outside) -> None:
    """Devices that outlive the process are written down before they are there, whenever it is killed."""
    before = host.interfaces()
    for delay in (0.15, 0.2, 0.25, 0.3, 0.4):  # seconds; the command itself takes some 0.2 to arrive
        lab = host.up(LAB)
        words = ("set", host.name, "network.lan", "adapter={bridge: {nic: eth1, mode: macvtap}}")
        command = subprocess.Popen(
            host.argv(sys.executable, "-m", "vnet", *words), env={**os.environ, "VNET_RUN_DIR": str(host.directory / "run")},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(delay)
        lab.kill()
        lab.wait()
        command.wait(20)
        host.vnet("down", host.name)
        assert host.interfaces() == before, delay


CYCLES = """
import os
from functools import partial
from vnet.adapters.base import AdapterContext
from vnet.adapters.registry import open_adapter
from vnet.adapters.resources import NoLedger
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.ports import Port
from vnet.runtime.shell import Shell
from vnet.topology.adapter_kinds.bridge import BridgeSpec
from vnet.topology.adapter_kinds.tap import TapSpec

timeline = Timeline()
shell = Shell(timeline)
streams = RandomStreams(int.from_bytes(os.urandom(8), "big"))


def cycle(spec):
    port = Port("lan:adapter", lambda frame, offload: None)
    context = AdapterContext(
        port=port, poller=shell, scheduler=timeline, streams=partial(streams.stream, port.name),
        report=lambda kind, **fields: None, ledger=NoLedger(), directory="/tmp",
    )
    adapter = open_adapter(spec, context)
    adapter.start()
    shell._turn()
    adapter.stop()
    adapter.close()
    assert adapter.problem == ""


spec = SPEC
cycle(spec)
before = len(os.listdir("/proc/self/fd"))
for _ in range(200):
    cycle(spec)
assert len(os.listdir("/proc/self/fd")) == before
"""
CYCLED = (
    'BridgeSpec(nic="eth1", vlan=16)', 'BridgeSpec(nic="eth1", mode="wifi", host=False)',
    'BridgeSpec(nic="eth1", mode="macvtap", host=False)', 'TapSpec(name="tapx")',
)  # fmt: skip


def test_two_hundred_times_up_and_down_leave_nothing(host: Machine, around: Outside) -> None:
    """All kinds at once: most of the time is the kernel's, which waits before it lets a device or a socket go."""
    before = host.interfaces()
    scripts = [CYCLES.replace("SPEC", spec) for spec in CYCLED]
    with ThreadPoolExecutor(len(scripts)) as all_at_once:
        running = [all_at_once.submit(host.run, sys.executable, "-c", script, timeout=120) for script in scripts]
    assert all(each.result().returncode == 0 for each in running)
    assert host.interfaces() == before
    (link,) = json.loads(host.run("ip", "-json", "-details", "link", "show", "eth1").stdout)
    assert link["promiscuity"] == 0
