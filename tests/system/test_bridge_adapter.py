"""The bridge adapter on a machine that is a namespace, beside a switch with VLANs: who reaches whom, what stays inside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Machine, machine
from outside import Outside, outside
from rig import needs

pytestmark = [pytest.mark.real, needs("ping", "iperf3", "tcpdump", "ethtool", "ovs-vswitchd", "ovsdb-server")]

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


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Machine]:
    with machine(tmp_path) as made:
        yield made


@pytest.fixture
def around(host: Machine) -> Iterator[Outside]:
    with outside(host) as made:
        yield made


def test_each_vlan_of_the_trunk_reaches_its_own_peers(host: Machine, around: Outside) -> None:
    around.nic("eth1", "vlan_mode=native-untagged", "tag=1", "trunks=1,16,20")
    office = around.peer("office", "10.16.0.9/24", "tag=16")
    dmz = around.peer("dmz", "10.20.0.9/24", "tag=20")
    plain = around.peer("plain", "10.1.0.9/24", "tag=1")
    lost = around.peer("lost", "10.16.0.8/24", "tag=20")  # of the office by its address, in the wrong VLAN
    host.up(TRUNKED)
    assert office.reaches("10.16.0.5") and dmz.reaches("10.20.0.5") and plain.reaches("10.1.0.5")
    assert not lost.reaches("10.16.0.5")
    assert host.vnet("ping", host.name, "a", office.address).returncode == 0
    assert host.vnet("ping", host.name, "b", lost.address, check=False).returncode == 1
