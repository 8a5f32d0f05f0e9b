"""Shipped topologies with ways out, live on a machine that is a namespace with the NICs they name.

In virtual time every shipped topology runs in tests/scenario/test_shipped_labs.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from machine import Machine
from rig import needs

pytestmark = [pytest.mark.real, needs("ping")]

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
NICS = ("eth0", "eth1", "eth2", "eth3")
ALL_UP = {
    "test-networks": {"D": "up"},
    "host-to-guest-share": {"share": "up", "second-group": "up"},
    "multi-nic-host": {"production": "up", "test": "up", "backup": "up"},
    "hidden-host": {"lan": "up"},
    "classroom-and-office": {"prepared": "up", "classroom": "up", "office": "up"},
    "xen-two-bridges": {"xenbr0": "up", "xenbr1": "up"},
    "xen-management-apart": {"xen-br0": "up", "xen-br1": "up"},
    "xen-vlan-45": {"vlan45": "up"},
    "vmware-host": {"VMnet0": "up", "VMnet1": "up", "VMnet8": "up"},
    "esx-host": {"VM Network": "up", "FH_Network": "up", "Network0": "up", "host-only": "up"},
}
"""T2, T4, T9, T10, T11, T16, T17, T18, T27 in two parts: the networks with a way out, and how that stands."""


@pytest.mark.parametrize("stem", ALL_UP)
def test_everybody_reaches_whom_the_rules_say(host: Machine, stem: str) -> None:
    for nic in NICS:
        host.run("ip", "link", "add", nic, "type", "veth", "peer", "name", f"far-{nic}")
        for end in (nic, f"far-{nic}"):
            host.run("ip", "link", "set", end, "up")
    before = host.interfaces()
    text = (TOPOLOGIES / f"{stem}.yaml").read_text().replace(f"name: {stem}\n", "name: NAME\n")
    lines = [line for line in text.splitlines() if not line.startswith("  dom0:")]  # which is the machine, live
    lab = host.up("\n".join(lines) + "\n")
    states = {row["name"]: row["state"] for row in host.show(host.name, "networks")}
    assert {name: states[name] for name in ALL_UP[stem]} == ALL_UP[stem]
    told = json.loads(host.vnet("pingall", host.name, "--json").stdout)
    assert told["differences"] == 0 and any(row["reached"] for row in told["matrix"]) == (len(told["guests"]) > 1)
    if stem == "host-to-guest-share":
        assert host.interfaces() - before == {"vn-share", "vn-second-group"}
        for address in ("10.10.10.11", "10.10.10.12", "10.10.11.11"):
            host.run("ping", "-c", "1", "-W", "2", address)
        for guest, address in (("guest1", "10.10.10.2"), ("guest3", "10.10.11.2")):
            assert host.vnet("ping", host.name, guest, address).returncode == 0
        assert host.vnet("ping", host.name, "guest1", "10.10.11.11", check=False).returncode == 1
    assert host.vnet("down", host.name).returncode == 0 and lab.wait(10) == 0
    assert host.interfaces() == before
