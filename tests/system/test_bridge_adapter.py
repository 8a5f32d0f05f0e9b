"""The bridge adapter on a machine that is a namespace, beside a switch with VLANs: who reaches whom, what stays inside."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from machine import Machine, machine
from outside import Outside, Peer, needs_switch
from rig import needs

pytestmark = [pytest.mark.real, needs("ping", "iperf3", "tcpdump", "ethtool", "udhcpc"), needs_switch]

TRUNK = ("vlan_mode=native-untagged", "tag=1", "trunks=1,16,20")
TRUNKED = """
name: NAME
networks:
  office: {vlan: 116, subnet: 10.16.0.0/24, adapter: {bridge: {nic: eth1, vlan: 16}}}
  dmz: {subnet: 10.20.0.0/24, adapter: {bridge: {nic: eth1, vlan: 20}}}
  plain: {subnet: 10.1.0.0/24, adapter: {bridge: eth1}}
guests:
  a: {kind: namespace, nics: [{network: office, address: 10.16.0.5/24}]}
  b: {nics: [{network: dmz, address: 10.20.0.5/24}], run: [iperf3]}
  c: {nics: [{network: plain, address: 10.1.0.5/24}]}
"""
FLAT = """
name: NAME
networks:
  lan: {subnet: 10.1.0.0/24, adapter: {bridge: BRIDGE}}
guests:
  a: {nics: [{network: lan, address: 10.1.0.5/24, mac: "00:03:ff:00:00:05"}], run: [iperf3]}
  b: {nics: [{network: lan, address: 10.1.0.6/24, mac: "00:03:ff:00:00:06"}]}
"""


def flat(bridge: str) -> str:
    return FLAT.replace("BRIDGE", bridge)


def state(host: Machine, network: str = "lan") -> str:
    return next(str(row["state"]) for row in host.show(host.name, "networks") if row["name"] == network)


def sources(lines: list[str]) -> set[str]:
    """The source MAC addresses in what tcpdump has printed."""
    return {match[1] for line in lines if (match := re.match(r"\S+ (\S+) >", line))}


def transfer(peer: Peer, address: str, *words: str) -> float:
    """Move data by TCP for a second; return Mbit/s."""
    report = json.loads(peer.run("iperf3", "-c", address, "-t", "1", "-J", *words))
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6


def test_each_vlan_of_the_trunk_reaches_its_own_peers(host: Machine, around: Outside) -> None:
    around.nic("eth1", *TRUNK)
    office = around.peer("office", "10.16.0.9/24", "tag=16")
    dmz = around.peer("dmz", "10.20.0.9/24", "tag=20")
    plain = around.peer("plain", "10.1.0.9/24", "tag=1")
    lost = around.peer("lost", "10.16.0.8/24", "tag=20")  # of the office by its address, in the wrong VLAN
    host.up(TRUNKED)
    assert office.reaches("10.16.0.5") and dmz.reaches("10.20.0.5") and plain.reaches("10.1.0.5")
    assert not lost.reaches("10.16.0.5")
    assert host.vnet("ping", host.name, "a", office.address).returncode == 0
    assert host.vnet("ping", host.name, "b", lost.address, check=False).returncode == 1
    # the NIC has no offloads, tags and all: the kernel cuts what the guest hands over whole
    assert transfer(dmz, "10.20.0.5") > 10 and transfer(dmz, "10.20.0.5", "-R") > 10
    assert not [row for row in host.show(host.name, "networks") if row["name"] == "dmz" and "malformed" in str(row)]


def test_super_frames_pass_whole_both_ways(host: Machine, around: Outside) -> None:
    peer = around.wire("eth1", "10.1.0.9/24")
    host.up(flat("eth1"))
    assert peer.reaches("10.1.0.5")
    for source, words in (("10.1.0.9", ()), ("10.1.0.5", ("-R",))):
        argv = peer.argv("tcpdump", "-n", "-i", "eth0", "-c", "20", f"src {source} and tcp and greater 9000")
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as large:
            assert large.stderr is not None
            while "listening on" not in large.stderr.readline():
                pass
            assert transfer(peer, "10.1.0.5", *words) > 50
            assert large.communicate(timeout=10)[0].count(" IP ") == 20


def test_guests_reach_the_machine_and_the_machine_them(host: Machine, around: Outside) -> None:
    """VS-04: guest, wire and machine by one NIC; and the wire does not see what is for the machine."""
    around.nic("eth1")
    peer = around.peer("lan", "10.1.0.9/24")
    host.run("ip", "addr", "add", "10.1.0.1/24", "dev", "eth1")
    topology = flat("eth1").replace("guests:", "  same: {adapter: {bridge: eth1}}\nguests:")
    host.up(topology + "  c: {nics: [{network: same, address: 10.1.0.7/24}]}\n")
    assert host.vnet("ping", host.name, "a", "10.1.0.1").returncode == 0
    assert host.run("ping", "-c", "2", "-W", "2", "10.1.0.6", check=False).returncode == 0
    assert peer.reaches("10.1.0.1") and peer.reaches("10.1.0.5")
    report = json.loads(host.run("iperf3", "-c", "10.1.0.5", "-t", "1", "-J").stdout)
    assert report["end"]["sum_received"]["bits_per_second"] > 50e6
    with around.watching("eth1", "icmp") as seen:
        assert host.vnet("ping", host.name, "a", "10.1.0.1").returncode == 0
    assert not [line for line in seen if "echo request" in line]
    with around.watching("eth1", "arp") as seen:  # with two networks on the NIC it hears a question once
        assert host.vnet("ping", host.name, "c", "10.1.0.1").returncode == 0
    assert len([line for line in seen if "Reply 10.1.0.1 is-at" in line]) == 1, seen
    host.vnet("set", host.name, "network.lan", "adapter={bridge: {nic: eth1, host: false}}")
    assert host.vnet("ping", host.name, "a", "10.1.0.1", check=False).returncode == 1 and peer.reaches("10.1.0.5")


def test_a_hidden_host_is_silent(host: Machine, around: Outside) -> None:
    """S10, VS-20: the machine has addresses elsewhere and none here; it is asked for them, and says nothing."""
    around.nic("eth1")
    peer = around.peer("lan", "10.1.0.9/24")
    host.run("ip", "link", "set", "eth1", "arp", "off")
    host.run("ip", "addr", "add", "10.1.0.77/32", "dev", "lo")
    host.up(flat("{nic: eth1, host: false}"))
    with around.watching("eth1") as seen:
        assert peer.reaches("10.1.0.5") and not peer.reaches("10.1.0.77")
        assert host.vnet("ping", host.name, "b", "10.1.0.9").returncode == 0
        host.run("ping", "-c", "1", "-W", "1", "10.1.0.9", check=False)
    assert {"00:03:ff:00:00:05", "00:03:ff:00:00:06"} <= sources(seen)
    own = json.loads(host.run("ip", "-json", "link", "show", "eth1").stdout)[0]["address"]
    assert own not in sources(seen)


def test_dhcp_of_the_lab_stays_inside_unless_meant(host: Machine, around: Outside) -> None:
    """VS-57: neither who is out there gets a lease, nor do guests' questions leave."""
    around.nic("eth1")
    peer = around.peer("lan", "10.9.9.9/24")
    topology = flat("eth1").replace("10.1.0.0/24,", "10.1.0.0/24, dhcp: {server: 10.1.0.2},")
    topology += "  d: {nics: [lan]}\n"
    ask = ("udhcpc", "-i", "eth0", "-n", "-q", "-t", "2", "-T", "1", "-f", "-s", "/bin/true")
    with around.watching("eth1", "udp port 67 or udp port 68") as seen:
        host.up(topology)
        assert subprocess.run(peer.argv(*ask), capture_output=True, check=False).returncode != 0
    own = json.loads(peer.run("ip", "-json", "link", "show", "eth0"))[0]["address"]
    assert sources(seen) == {own}
    host.vnet("set", host.name, "network.lan", "adapter={bridge: {nic: eth1, dhcp: true}}")
    assert subprocess.run(peer.argv(*ask), capture_output=True, check=False).returncode == 0


def test_guests_get_leases_from_a_server_out_there(host: Machine, around: Outside, tmp_path: Path) -> None:
    """VS-60: the server is that of another machine's lab, which serves who is outside."""
    (tmp_path / "other").mkdir()
    with machine(tmp_path / "other") as other:
        around.nic("eth1")
        around.nic("eth5", machine=other)
        other.up(
            "name: NAME\nnetworks: {lan: {subnet: 10.1.0.0/24, dhcp: {range: 10.1.0.70-10.1.0.79},"
            " adapter: {bridge: {nic: eth5, dhcp: true}}}}\nguests: {x: {nics: [lan]}}\n"
        )
        host.up(flat("eth1") + "  c: {nics: [{network: lan, dhcp: true, mac: '00:03:ff:00:00:07'}]}\n")
        assert host.vnet("ping", host.name, "c", "10.1.0.5").returncode == 0
        (leased,) = [row for row in other.show(other.name, "leases") if row["mac"] == "00:03:ff:00:00:07"]
        assert str(leased["address"]).startswith("10.1.0.7")


def test_behind_a_wireless_nic_there_is_one_address(host: Machine, around: Outside) -> None:
    """VS-25: what an access point would take is all that leaves, and both guests are reached."""
    around.nic("eth1")
    peer = around.peer("lan", "10.1.0.9/24")
    own = json.loads(host.run("ip", "-json", "link", "show", "eth1").stdout)[0]["address"]
    with around.watching("eth1") as seen:
        host.up(flat("{nic: eth1, mode: wifi}").replace("10.1.0.6/24,", "[10.1.0.6/24, 'fd01::6/64'],"))
        peer.run("ip", "addr", "add", "fd01::9/64", "dev", "eth0", "nodad")
        assert peer.reaches("fd01::6") and host.vnet("ping", host.name, "b", "fd01::9").returncode == 0
        assert peer.reaches("10.1.0.5") and peer.reaches("10.1.0.6")
        peer.run("ip", "neigh", "flush", "all")
        assert host.vnet("ping", host.name, "a", "10.1.0.9").returncode == 0
        assert transfer(peer, "10.1.0.5") > 10
    far = json.loads(peer.run("ip", "-json", "link", "show", "eth0"))[0]["address"]
    assert sources(seen) == {own, far}


def test_two_labs_on_one_nic_do_not_see_each_other(host: Machine, around: Outside) -> None:
    """Each is on the wire with all its addresses; only one of them has it by macvtap."""
    peer = around.wire("eth1", "10.1.0.9/24")
    host.up(flat("eth1"))
    other = f"{host.name}o"
    file = host.directory / "other.yaml"
    text = flat("eth1").replace("NAME", other).replace(":ff:", ":fe:")
    file.write_text(text.replace("10.1.0.5", "10.1.0.7").replace("10.1.0.6", "10.1.0.8"))
    host.vnet("up", str(file), "--detach")
    try:
        assert all(peer.reaches(f"10.1.0.{number}") for number in (5, 6, 7, 8))
        for lab, guest, beyond in ((host.name, "a", "10.1.0.7"), (other, "b", "10.1.0.6")):
            assert host.vnet("ping", lab, guest, peer.address).returncode == 0
            assert host.vnet("ping", lab, guest, beyond, check=False).returncode == 1
        change = ("network.lan", "adapter={bridge: {nic: eth1, mode: macvtap}}")
        host.vnet("set", host.name, *change)
        told = host.vnet("set", other, *change, check=False)
        assert told.returncode != 0 and "eth1 is in use: macvtap needs one without" in told.stderr
        assert peer.reaches("10.1.0.5") and peer.reaches("10.1.0.7")
    finally:
        host.vnet("down", other, check=False)


def test_a_macvtap_device_has_the_nic_to_itself(host: Machine, around: Outside) -> None:
    peer = around.wire("eth1", "10.1.0.9/24")
    before = host.interfaces()
    lab = host.up(flat("{nic: eth1, mode: macvtap}"))
    (device,) = host.interfaces() - before
    assert device.startswith("vmt-")
    assert peer.reaches("10.1.0.5") and peer.reaches("10.1.0.6") and transfer(peer, "10.1.0.5") > 50
    done = host.vnet("set", host.name, "network.lan", "adapter=none")
    assert done.returncode == 0 and host.interfaces() == before
    host.vnet("set", host.name, "network.lan", "adapter={bridge: {nic: eth1, mode: macvtap}}")
    assert peer.reaches("10.1.0.5")
    lab.kill()
    lab.wait()
    assert host.interfaces() != before
    told = host.vnet("down", host.name)
    assert "removed interface vmt-" in told.stdout + told.stderr and host.interfaces() == before
