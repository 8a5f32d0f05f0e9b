"""The topologies that come with vnet: valid, without warnings that are not meant, and what their comments say."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from vnet.topology import load_topology
from vnet.topology.resolved import ResolvedDhcp
from vnet.units import HOUR

FOLDER = Path(__file__).parents[3] / "topologies"
MEANT = {"production-network-vlan16": 2, "external-network-with-dhcp": 1}
"""Warnings about gateways that are outside the lab."""


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_it_loads(path: Path) -> None:
    lab = load_topology(path)
    assert lab.name == path.stem
    assert len(lab.warnings) == MEANT.get(path.stem, 0), lab.warnings
    assert path.read_text().startswith("# "), "it says what it is"


def scope(name: str) -> ResolvedDhcp:
    (network,) = load_topology(FOLDER / f"{name}.yaml").networks.values()
    assert network.dhcp is not None
    return network.dhcp


def addresses(*texts: str) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address(text) for text in texts)


def test_samples_of_vs_54() -> None:
    a, b, c = (scope(n) for n in ("external-network-with-dhcp", "production-network-vlan16", "scripted-network1"))
    assert (a.server, a.gateway, a.range_start, a.range_end) == addresses(
        "10.100.100.10", "10.100.100.1", "10.100.100.16", "10.100.100.254"
    )
    assert (a.dns, a.wins) == ((), addresses("192.168.14.10"))
    assert (b.server, b.gateway, b.range_start, b.range_end) == addresses(
        "10.20.100.2", "10.20.100.1", "10.20.100.128", "10.20.100.254"
    )
    assert (b.dns, b.wins) == (addresses("10.20.100.25", "192.168.16.26"), addresses("10.20.100.25", "192.168.15.40"))
    assert (c.server, c.gateway) == (IPv4Address("192.168.150.1"), None)
    assert int(c.range_end) - int(c.range_start) + 1 == 17
    for each in (a, b, c):
        assert (each.lease, each.renew, each.rebind) == (36 * HOUR, 18 * HOUR, 27 * HOUR)


def test_infrastructure_in_a_box() -> None:
    lab = load_topology(FOLDER / "infrastructure-in-a-box.yaml")
    assert [name for name, guest in lab.guests.items() if guest.kind == "namespace"] == ["pc1", "pc2"]
    assert [lab.guests[name].interfaces[0].dhcp for name in ("pc1", "pc2")] == ["vnet", "vnet"]
    assert lab.guests["pc1"].namespace == "infrastructure-in-a-box-pc1"
    assert lab.guests["dc"].gateway == IPv4Address("10.20.100.1")
    trunk = lab.switch_port(lab.links[0].a)
    assert (trunk.members, trunk.admit) == ((16,), "tagged")
    assert not any(network.open_end for network in lab.networks.values())


def test_production_network_uses_the_product_s_addresses() -> None:
    lab = load_topology(FOLDER / "production-network-vlan16.yaml")
    assert lab.networks["Production Network VLAN 16"].vid == 16
    assert lab.guests["EXCH01"].interfaces[0].mac.hex("-").upper() == "00-03-FF-38-A6-6F"
    assert lab.guests["DC01"].interfaces[0].mac.hex("-").startswith("00-03-ff")


def test_xen_cluster() -> None:
    """T22: four hosts on three networks, each of which has a switch of its own."""
    lab = load_topology(FOLDER / "xen-cluster.yaml")
    numbers = {
        name: [str(address) for nic in lab.guests[name].interfaces for address in nic.addresses]
        for name in ("host1", "host2", "host3", "host4")
    }
    assert numbers["host1"] == ["192.168.0.71/24", "10.0.1.71/24"]
    assert numbers["host2"] == ["192.168.0.72/24", "10.0.1.72/24"]
    assert numbers["host3"] == ["192.168.0.73/24", "10.0.1.73/24", "10.0.2.73/24"]
    assert numbers["host4"] == ["192.168.0.74/24", "10.0.1.74/24", "10.0.2.74/24"]
    assert {name for name, guest in lab.guests.items() if guest.run} == set(numbers)
    assert [nic.port.switch for nic in lab.guests["host4"].interfaces] == [
        "public-switch", "interconnect-switch", "heartbeat-switch",
    ]  # fmt: skip
