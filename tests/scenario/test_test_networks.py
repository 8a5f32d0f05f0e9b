"""S3: networks A to D on one host (T2); and S15: a machine moves to another host, where its network may be another."""

from __future__ import annotations

from pathlib import Path

import pytest

import vnet
from vnet.errors import TopologyError
from vnet.guests.base import Verdict

TOPOLOGY = str(Path(__file__).parents[2] / "topologies/test-networks.yaml")
GROUPS = {"A": {"sms", "client1", "client2"}, "B": {"dc", "web"}, "C": {"browser1", "browser2"}, "D": {"erp", "mail"}}


def within(*groups):
    """Every pair of two guests of one group."""
    return {(one, other) for name in groups for one in GROUPS[name] for other in GROUPS[name] if one != other}


async def reached(lab):
    return {pair for pair, reply in (await lab.ping_all()).items() if reply.ok}


@pytest.mark.vnet(TOPOLOGY)
async def test_s3_only_the_firewall_joins_two_networks(lab):
    outward = {(one, other) for one in GROUPS["B"] for other in GROUPS["C"]}
    assert await reached(lab) == within("A", "B", "C", "D") | outward
    browser = lab.guests["browser1"]
    assert (await browser.tcp_probe("10.60.3.1", 80)).verdict is Verdict.CLOSED  # the web server's own answer, through NAT
    assert (await browser.tcp_probe("10.60.3.1", 81)).verdict is Verdict.SILENT
    assert (await browser.tcp_probe("10.60.2.10", 80, timeout=2)).verdict is not Verdict.OPEN


@pytest.mark.vnet(TOPOLOGY)
async def test_s3_what_happens_to_the_others_is_nothing_to_production(lab):
    before = await lab.reachability()
    for name in (*GROUPS["A"], *GROUPS["B"], *GROUPS["C"]):
        lab.faults.isolate(name)
    assert await reached(lab) == within("D")
    lab.faults.heal()
    assert not before.compare(await lab.reachability())


MACHINE = "{nics: [{network: NETWORK, address: 10.60.4.10/24, mac: 00:03:ff:00:00:27}]}"


def other_host(network: str) -> str:
    """Write another host's lab, onto which the machine is put with its file as it is, but for the network's name."""
    return f"""
name: second-host
networks: {{production: {{subnet: 10.60.4.0/24}}}}
guests:
  erp: {MACHINE.replace("NETWORK", network)}
  mail: {{nics: [{{network: production, address: 10.60.4.11/24}}]}}
"""


def test_s15_a_machine_that_moved_has_to_be_connected_again():
    with pytest.raises(TopologyError, match="there is no network 'D'"):
        vnet.parse_topology(other_host("D"))


@pytest.mark.vnet(other_host("production"))
async def test_s15_once_mapped_it_is_the_same_machine(lab):
    assert lab.guests["erp"].interfaces()[0].mac == bytes.fromhex("0003ff000027")
    assert (await lab.ping("mail", "erp")).ok
