"""Guests on trunks, with sub-interfaces: each VLAN by its own address, DHCP, router and name, over two switches."""

import re
from ipaddress import IPv4Address, IPv6Interface

import pytest
import trio

import vnet
from vnet.errors import HostError, UsageError
from vnet.runtime import views
from vnet.runtime.live import refuse_what_is_not_built
from vnet.runtime.sinks import MemorySink
from vnet.testing import Invariants
from vnet.testing.coverage import exercised
from vnet.topology.graph import cable_graph, draw, network_graph
from vnet.wire.pcapng import Reader

TRUNKS = """
name: trunks
networks:
  home: {vlan: 1, subnet: 10.1.0.0/24}
  office: {vlan: 16, subnet: 10.16.0.0/24, dhcp: {reservations: {server: 10.16.0.99}}}
  voice: {vlan: 20, subnet: 10.20.0.0/24}
routers:
  gate: {interfaces: {office: 10.16.0.1, voice: 10.20.0.1}}
switches: {core: {}, edge: {}}
links: [{between: [core, edge], trunk: all, latency: 1ms}]
guests:
  server: {nics: [{trunk: [16, 20], native: home, address: 10.1.0.9, vlans: {office: {dhcp: true}, 20: 10.20.0.9}}]}
  phone: {switch: edge, nics: [{trunk: [16, 20], vlans: {16: {}, 20: {address: [10.20.0.8, "2001:db8:20::8/64"]}}}]}
  a16: {switch: edge, nics: [office]}
  a20: {nics: [{network: voice, address: [10.20.0.7, "2001:db8:20::7/64"]}]}
  a1: {switch: edge, nics: [{network: home, address: 10.1.0.7}]}
"""


def interfaces(lab, guest):
    return {row["name"]: row for row in next(r for r in views.guests(lab) if r["name"] == guest)["interfaces"]}


@pytest.mark.vnet(TRUNKS)
async def test_who_reaches_whom_is_what_the_rules_say(lab):
    with Invariants(lab):
        await lab.wait_up()
        table = await lab.reachability()
        assert table.unexpected == ()
        assert {pair for pair in table.pairs if "server" in pair} >= {
            ("server", name) for name in ("phone", "a16", "a20", "a1")
        }
        assert table["phone", "a16"] and not table["a16", "a1"]
    assert min(exercised(lab)["networks"].values()) > 0


@pytest.mark.vnet(TRUNKS)
async def test_each_sub_interface_has_its_own_lease_and_gateway(lab):
    await lab.wait_up()
    server = interfaces(lab, "server")
    assert list(server) == ["eth0", "eth0.16", "eth0.20"]
    assert [server[name]["addresses"] for name in server] == [["10.1.0.9/24"], ["10.16.0.99/24"], ["10.20.0.9/24"]]
    assert server["eth0.16"]["dhcp"] == "bound" and server["eth0.16"]["network"] == "office"
    assert len({row["mac"] for row in server.values()}) == 1
    phone = interfaces(lab, "phone")
    assert phone["eth0"]["addresses"] == [], "what is leased to its MAC address is the sub-interface's"
    assert phone["eth0.20"]["gateway"] == "10.20.0.1"
    assert lab.resolve("server") == IPv4Address("10.1.0.9"), "the untagged address comes first"
    assert lab.resolve("phone") == lab.guests["phone"].lease("eth0.16").address.ip, "then the VLANs in file order"
    members = {row["name"]: row["members"] for row in views.networks(lab)}
    assert "server:eth0.20" in members["voice"] and "phone:eth0.16" in members["office"]


@pytest.mark.vnet("""
name: three-leases
networks:
  home: {subnet: 10.1.0.0/24, dhcp: {}}
  office: {subnet: 10.16.0.0/24, dhcp: {}}
  voice: {subnet: 10.20.0.0/24, dhcp: {}}
guests:
  pc: {nics: [{trunk: [office, voice], native: home, dhcp: true, vlans: {office: {}, voice: {}}}]}
  linux: {kind: namespace, nics: [{trunk: [office], vlans: {office: {}}}]}
  a: {nics: [home]}
  b: {nics: [voice]}
  c: {nics: [office]}
""")
async def test_the_untagged_network_and_each_vlan_have_leases_of_their_own(lab):
    with Invariants(lab):
        await lab.wait_up()
        assert [row["addresses"] for row in interfaces(lab, "pc").values()] == [
            ["10.1.0.16/24"], ["10.16.0.16/24"], ["10.20.0.16/24"],
        ]  # fmt: skip
        assert interfaces(lab, "linux")["eth0"]["addresses"] == []
        assert (await lab.reachability()).unexpected == ()
        lab.links["pc:eth0"].up = False
        await trio.sleep(10)
        lab.links["pc:eth0"].up = True
        await lab.advance("40h")
        assert [row["dhcp"] for row in interfaces(lab, "pc").values()] == ["bound"] * 3, "each renews by itself"


@pytest.mark.vnet(TRUNKS)
async def test_programs_talk_tcp_and_ipv6_by_the_vlan_that_the_address_is_on(lab):
    await lab.wait_up()
    sink = MemorySink()
    capture = lab.captures.start(sink, ["phone:eth0"])
    server, phone, a20 = lab.guests["server"], lab.guests["phone"], lab.guests["a20"]
    sent = bytes(range(256)) * 4000
    got, done = bytearray(), trio.Event()

    async def keep(stream):
        async for part in stream:
            got.extend(part)
        done.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_tcp, keep, 7000)
        async with await phone.open_tcp_stream("10.20.0.9", 7000) as stream:
            await stream.send_all(sent)
        await done.wait()
        nursery.cancel_scope.cancel()
    assert got == sent
    assert (await a20.ping("2001:db8:20::8")).ok
    assert IPv6Interface("2001:db8:20::8/64") in phone.addresses
    capture.finish()
    frames = [packet.frame for packet in Reader().feed(sink.octets())]
    assert len(frames) > 700 and max(map(len, frames)) == 1518, "captures show frames as on a wire, with the tag"
    assert {frame[12:16].hex() for frame in frames} <= {"81000010", "81000014"}
    with pytest.raises(UsageError, match="a VLAN sub-interface: capture phone:eth0 with the filter 'vlan 20'"):
        lab.captures.start(MemorySink(), ["phone:eth0.20"])


@pytest.mark.vnet(TRUNKS)
async def test_cables_crashes_and_partitions_concern_the_sub_interfaces_too(lab):
    with Invariants(lab):
        await lab.wait_up()
        lab.links["phone:eth0"].up = False
        assert {row["state"] for row in interfaces(lab, "phone").values()} == {"down"}
        assert not (await lab.ping("a20", "10.20.0.8")).ok
        lab.links["phone:eth0"].up = True
        assert (await lab.ping("a20", "10.20.0.8", timeout=5)).ok
        with lab.faults.partition("server", "a20"):
            assert not (await lab.ping("a20", "10.20.0.9")).ok
            assert not (await lab.ping("a20", "10.16.0.99")).ok, "nor by the router"
            assert (await lab.ping("a16", "10.16.0.99")).ok
        with lab.faults.crash("server"):
            assert not (await lab.ping("a20", "10.20.0.9")).ok
        await lab.guests["server"].wait_up()
        await lab.guests["server"].dhcp()
        assert (await lab.ping("a20", "10.20.0.9")).ok and (await lab.ping("a16", "10.16.0.99")).ok


@pytest.mark.vnet(TRUNKS)
async def test_a_branch_has_them_as_well(lab):
    await lab.wait_up()

    async def cut(lab):
        lab.links["core-edge"].up = False
        return (await lab.ping("a20", "10.20.0.8")).ok, (await lab.ping("a20", "10.20.0.9")).ok

    assert await lab.branch(cut) == (False, True)
    assert (await lab.ping("a20", "10.20.0.8")).ok


@pytest.mark.vnet("""
name: static
networks: {voice: {vlan: 20, subnet: 10.20.0.0/24}}
guests: {pc: {nics: [{trunk: [voice], vlans: {voice: 10.20.0.1}}]}}
""")
async def test_a_trunk_without_untagged_network_is_not_asked_for_a_lease(lab):
    await lab.guests["pc"].wait_up()
    with pytest.raises(UsageError, match="no interface that could use DHCP"):
        await lab.guests["pc"].dhcp()


def test_graphs_have_an_edge_for_each_vlan_and_one_cable():
    topology = vnet.parse_topology(TRUNKS)
    assert sorted(network_graph(topology)["guest server"]) == ["network home", "network office", "network voice"]
    assert list(cable_graph(topology)["server"]) == ["core"]
    text = draw(topology, "text")
    assert re.search(r"server +10\.20\.0\.9 ", text) and "server:eth0  trunk: home, office, voice, native home" in text
    assert draw(topology, "dot").count('"server" -- "network voice" [label="10.20.0.9"]') == 1
    for form in ("svg", "mermaid"):
        assert "10.20.0.9" in draw(topology, form)


def test_namespaces_have_them_in_simulated_labs_only():
    topology = vnet.parse_topology(TRUNKS.replace("server: {nics", "server: {kind: namespace, nics"))
    with pytest.raises(HostError, match=r"server: eth0\.16 is a VLAN sub-interface.*--emulate"):
        refuse_what_is_not_built(topology, emulate=False)
    refuse_what_is_not_built(topology, emulate=True)

    async def main():
        async with vnet.open_lab(topology) as lab:
            await lab.wait_up()
            return (await lab.ping("a16", "10.16.0.99")).ok

    assert vnet.simulate(main)
