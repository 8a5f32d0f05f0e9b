"""Routes and the choice of next hop and source address."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network

import pytest

from vnet.addresses import BROADCAST
from vnet.errors import UsageError
from vnet.stack.neighbor import State

DEFAULT = IPv4Network("0.0.0.0/0")
ROUTER = bytes((10, 0, 0, 254))


def octets(text):
    return bytes(map(int, text.split(".")))


@pytest.fixture
def two_legged(lan):
    host = lan.host(1)
    other = host.add_interface("eth1", bytes((0x52, 0x54, 0, 0, 1, 1)))
    other.add_address(IPv4Interface("192.168.0.1/16"))
    return host


def next_hop(host, text):
    hop = host.next_hop(octets(text))
    return None if hop is None else (hop[0].name, ".".join(map(str, hop[1].address)))


def test_the_longest_prefix_wins_then_the_metric_then_the_older(two_legged):
    host, (eth0, eth1) = two_legged, two_legged.interfaces.values()
    assert next_hop(host, "8.8.8.8") is None
    host.routes.add(DEFAULT, ROUTER)
    host.routes.add(IPv4Network("8.0.0.0/8"), octets("192.168.0.9"), metric=5)
    host.routes.add(IPv4Network("8.0.0.0/8"), octets("192.168.0.8"), metric=5)
    assert next_hop(host, "9.9.9.9") == ("eth0", "10.0.0.254")
    assert next_hop(host, "8.8.8.8") == ("eth1", "192.168.0.9")
    better = host.routes.add(IPv4Network("8.0.0.0/8"), None, eth0, metric=1)
    assert next_hop(host, "8.8.8.8") == ("eth0", "8.8.8.8")
    host.routes.remove(better)
    host.routes.remove(better)
    assert next_hop(host, "8.8.8.8") == ("eth1", "192.168.0.9")
    assert host.routes.lookup(octets("8.8.8.8"), eth0).network == DEFAULT
    assert host.routes.lookup(octets("10.0.0.9"), eth1) is None
    assert [str(route.network) for route in host.routes] == [
        "10.0.0.0/24", "192.168.0.0/16", "8.0.0.0/8", "8.0.0.0/8", "0.0.0.0/0",
    ]  # fmt: skip


def test_a_gateway_must_be_on_a_connected_network(two_legged):
    host = two_legged
    host.routes.add(DEFAULT, ROUTER)
    with pytest.raises(UsageError, match=r"172\.16\.0\.0/12"):
        host.routes.add(IPv4Network("172.16.0.0/12"), octets("172.31.0.1"))
    with pytest.raises(UsageError):
        host.routes.add(IPv4Network("172.16.0.0/12"))


def test_routes_go_with_the_last_address(two_legged):
    host, eth0 = two_legged, two_legged.interfaces["eth0"]
    host.routes.add(DEFAULT, ROUTER)
    second = IPv4Interface("10.0.0.7/24")
    eth0.add_address(second)
    eth0.remove_address(IPv4Interface("10.0.0.1/24"))
    assert next_hop(host, "10.0.0.9") == ("eth0", "10.0.0.9"), "the other address still connects the network"
    assert next_hop(host, "8.8.8.8") == ("eth0", "10.0.0.254")
    eth0.remove_address(second)
    assert next_hop(host, "10.0.0.9") is None
    assert next_hop(host, "8.8.8.8") is None
    assert eth0.address is None and eth0.watched.keys() == eth0.neighbors.entries.keys()


def test_a_second_network_goes_with_its_address(two_legged):
    host, eth0 = two_legged, two_legged.interfaces["eth0"]
    eth0.add_address(IPv4Interface("10.9.0.1/24"))
    assert next_hop(host, "10.9.0.5") == ("eth0", "10.9.0.5")
    eth0.remove_address(IPv4Interface("10.9.0.1/24"))
    assert next_hop(host, "10.9.0.5") is None
    assert next_hop(host, "10.0.0.5") == ("eth0", "10.0.0.5")


def test_broadcast_and_groups_need_no_arp(two_legged):
    for text, mac in (
        ("255.255.255.255", BROADCAST),
        ("10.0.0.255", BROADCAST),
        ("192.168.255.255", BROADCAST),
        ("224.0.0.251", bytes.fromhex("01005e0000fb")),
    ):
        interface, entry = two_legged.next_hop(octets(text))
        assert entry.header == mac + interface.mac + b"\x08\x00"
        assert entry.state is State.PERMANENT


def test_the_source_address_suits_the_next_hop(two_legged):
    host = two_legged
    host.interfaces["eth0"].add_address(IPv4Interface("10.5.0.1/24"))
    host.routes.add(DEFAULT, octets("10.5.0.9"))
    assert host.source_for(octets("192.168.7.7")) == octets("192.168.0.1")
    assert host.source_for(octets("8.8.8.8")) == octets("10.5.0.1")
    assert host.source_for(octets("10.0.0.9")) == octets("10.0.0.1")
    assert host.source_for(octets("10.0.0.1")) == octets("10.0.0.1")


def test_changes_are_told(two_legged):
    told = []
    two_legged.on_change = lambda: told.append(1)
    route = two_legged.routes.add(DEFAULT, ROUTER)
    two_legged.routes.add(DEFAULT, ROUTER)
    assert len(told) == 1
    two_legged.routes.remove(route)
    assert len(told) == 2
    two_legged.interfaces["eth0"].port.set_carrier(False)
    assert len(told) == 3


def test_interface_names_are_unique(two_legged):
    with pytest.raises(UsageError, match="eth1"):
        two_legged.add_interface("eth1", bytes(6))
