"""The loopback adapter on a machine that is a namespace: who reaches whom, changes under traffic, and what is left."""

from __future__ import annotations

import json
import subprocess

import pytest
from machine import Machine
from rig import needs

pytestmark = [pytest.mark.real, needs("ping", "iperf3")]

TOPOLOGY = """
name: NAME
networks:
  office: {subnet: 10.10.10.0/24, adapter: {loopback: {address: 10.10.10.2/24, name: vn0, mac: "00:03:ff:00:10:02"}}}
  lab: {subnet: 10.10.20.0/24, adapter: {loopback: {address: [10.10.20.2/24, "fd20::2/64"]}}}
  far: {subnet: 10.10.30.0/24}
guests:
  a: {kind: namespace, nics: [{network: office, address: 10.10.10.5/24}]}
  b: {nics: [{network: lab, address: [10.10.20.5/24, "fd20::5/64"]}], run: [iperf3]}
  c: {nics: [{network: far, address: 10.10.30.5/24}]}
"""


def reaches(host: Machine, address: str) -> bool:
    return host.run("ping", "-c", "1", "-W", "2", address, check=False).returncode == 0


def test_the_machine_and_the_guests_talk_and_nobody_else(host: Machine) -> None:
    before = host.interfaces()
    lab = host.up(TOPOLOGY)
    assert host.interfaces() - before == {"vn0", "vn-lab"}
    (vn0,) = json.loads(host.run("ip", "-json", "addr", "show", "vn0").stdout)
    assert vn0["address"] == "00:03:ff:00:10:02" and [a["local"] for a in vn0["addr_info"]] == ["10.10.10.2"]
    assert reaches(host, "10.10.10.5") and reaches(host, "10.10.20.5") and reaches(host, "fd20::5")
    assert not reaches(host, "10.10.30.5")
    assert host.vnet("ping", host.name, "a", "10.10.10.2").returncode == 0
    assert host.vnet("ping", host.name, "b", "10.10.10.5", check=False).returncode == 1
    assert host.vnet("down", host.name).returncode == 0 and lab.wait(10) == 0
    assert host.interfaces() == before


def test_a_connection_outlives_the_changes(host: Machine) -> None:
    """iperf3 from the machine: the way out is taken away for a moment, and comes back with another MAC address."""
    host.up(TOPOLOGY)
    client = subprocess.Popen(
        host.argv("iperf3", "-c", "10.10.20.5", "-t", "4", "-J"), stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert reaches(host, "10.10.20.5")
    told = host.vnet("set", host.name, "network.lab", "adapter=none").stdout
    assert "adapter none, state internal" in told
    assert not reaches(host, "10.10.20.5") and "vn-lab" not in host.interfaces()
    host.vnet("set", host.name, "network.lab", "adapter={loopback: {address: 10.10.20.2/24, mac: '00:03:ff:00:20:03'}}")
    assert reaches(host, "10.10.20.5")
    report = json.loads(client.communicate(timeout=30)[0])
    assert "error" not in report
    ends = [each["sum"]["bytes"] for each in report["intervals"]]
    assert ends[0] > 0 and ends[-1] > 0, ends


def test_what_the_machine_shares_is_not_on_its_nic(host: Machine) -> None:
    """S5: much is read from the machine and by it, and the NIC of another network of the lab hears nothing of it."""
    for nic in ("eth1", "far1"):  # what Linux itself would say there
        if nic == "eth1":
            host.run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "far1")
        host.run("ip", "link", "set", nic, "addrgenmode", "none", "arp", "off", "up")
    host.up(TOPOLOGY.replace("far: {subnet: 10.10.30.0/24}", "far: {subnet: 10.10.30.0/24, adapter: {bridge: {nic: eth1}}}"))

    def on_nic() -> tuple[int, int]:
        (link,) = json.loads(host.run("ip", "-json", "-stats", "link", "show", "eth1").stdout)
        return link["stats64"]["rx"]["bytes"], link["stats64"]["tx"]["bytes"]

    assert host.vnet("ping", host.name, "c", "10.10.30.9", check=False).returncode == 1
    before = on_nic()
    assert before[1] > 0, "the NIC works: somebody was asked for there"
    report = json.loads(host.run("iperf3", "-c", "10.10.20.5", "-n", "20M", "-J").stdout)
    assert report["end"]["sum_received"]["bytes"] >= 20 << 20
    assert reaches(host, "10.10.10.5") and on_nic() == before


def test_a_name_that_is_taken_is_refused_and_nothing_changes(host: Machine) -> None:
    host.run("ip", "link", "add", "mine", "type", "veth", "peer", "name", "other")
    host.up(TOPOLOGY)
    done = host.vnet("set", host.name, "network.office", "adapter={loopback: {name: mine}}", check=False)
    assert done.returncode == 1 and "there is an interface called mine already" in done.stderr
    assert reaches(host, "10.10.10.5") and "mine" in host.interfaces()


def test_a_refused_way_out_leaves_the_interface_as_it_is(host: Machine) -> None:
    """It is the same interface afterwards, with what others gave it: an address, for one."""
    host.up(TOPOLOGY)
    host.run("ip", "addr", "add", "10.99.0.1/32", "dev", "vn0")
    (before,) = json.loads(host.run("ip", "-json", "addr", "show", "vn0").stdout)
    for wrong in ("{bridge: none0}", "{pcap: none.pcap}", "{loopback: {address: 10.10.10.5, name: vn0}}"):
        assert host.vnet("set", host.name, "network.office", f"adapter={wrong}", check=False).returncode != 0
    assert json.loads(host.run("ip", "-json", "addr", "show", "vn0").stdout) == [before]
    assert reaches(host, "10.10.10.5")


def test_a_killed_lab_leaves_no_interface(host: Machine) -> None:
    before = host.interfaces()
    lab = host.up(TOPOLOGY)
    lab.kill()
    lab.wait()
    assert host.interfaces() == before
    host.vnet("down", host.name)


def test_somebody_deletes_the_interface(host: Machine) -> None:
    host.up(TOPOLOGY)
    host.run("ip", "link", "del", "vn0")
    state = next(row["state"] for row in host.show(host.name, "networks") if row["name"] == "office")
    assert state == "unbound: interface vn0 is gone"
    host.vnet("set", host.name, "network.office", "adapter={loopback: {address: 10.10.10.2/24, name: vn0}}")
    assert reaches(host, "10.10.10.5")
