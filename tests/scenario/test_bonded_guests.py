"""Guests with bonded NICs over two switches: cables are cut, switches cut off; pings, TCP and leases go on."""

import re

import pytest
import trio

import vnet
from vnet.errors import HostError, UsageError
from vnet.runtime import views
from vnet.runtime.filter import compile_filter
from vnet.runtime.live import refuse_what_is_not_built
from vnet.runtime.sinks import MemorySink
from vnet.testing import Invariants
from vnet.topology.graph import cable_graph, draw
from vnet.wire import arp
from vnet.wire.pcapng import Reader

BOND = """
name: bond
networks:
  lan: {vlan: 10, subnet: 10.0.0.0/24, dhcp: {}}
  office: {vlan: 16, subnet: 10.16.0.0/24}
switches: {far: {}, core: {}, edge: {}}
links: [{between: [far, core], latency: 100us}, {between: [far, edge], latency: 100us}]
guests:
  server:
    nics:
      - bond: {members: [core, edge], primary: eth0}
        trunk: [10, 16]
        native: lan
        address: [10.0.0.1/24, "2001:db8::1/64"]
        vlans: {16: 10.16.0.1}
  leased: {nics: [{network: lan, bond: {members: [core, {switch: edge, latency: 1ms}], miimon: 50ms}}]}
  peer: {switch: far, nics: [{network: lan, address: [10.0.0.9/24, "2001:db8::9/64"]}]}
  peer16: {switch: far, nics: [{network: office, address: 10.16.0.9}]}
"""


def active(lab, guest):
    return views.guests(lab)[list(lab.guests).index(guest)]["interfaces"][0]["active"]


async def pings(lab, source, target, results, every=0.01):
    """Ping *target* from now on, each a hundredth of a second after the last; *results* gets (instant, answered)."""
    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(one_ping, lab, source, target, results)
            await trio.sleep(every)


async def one_ping(lab, source, target, results):
    sent_at = lab.now
    results.append((sent_at, (await lab.ping(source, target, timeout=0.009)).ok))


@pytest.mark.vnet(BOND)
@pytest.mark.parametrize("target", ["10.0.0.1", "2001:db8::1"])
async def test_pings_lose_no_more_than_miimon_says(lab, target):
    with Invariants(lab):
        await lab.wait_up()
        for guest in ("server", "peer"):
            await lab.guests[guest].settle()
        assert (await lab.ping("peer", target)).ok
        results = []
        sink = MemorySink()
        capture = lab.captures.start(sink, ["peer:eth0"], compile_filter("arp"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pings, lab, "peer", target, results)
            await trio.sleep(1.033 - lab.now % 1)
            cut_at = lab.now
            lab.links["server:eth0"].up = False
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        lost = [at for at, ok in results if not ok]
        assert lost and cut_at - 0.01 <= lost[0] and lost[-1] < cut_at + 0.1, "miimon is 100 ms"
        assert active(lab, "server") == "eth1"
        capture.finish()
        announced = [arp.decode(packet.frame) for packet in Reader().feed(sink.octets())]
        own = bytes((10, 0, 0, 1))
        assert [packet.target for packet in announced if packet.sender == own == packet.target] == [own], "once"
        mac = lab.guests["server"].interfaces()[0].mac
        assert lab.switches["far"].fdb.lookup(10, mac) is not None
        ways = {row["switch"]: row["peer"] for row in views.fdb(lab) if row["owner"] == "server:bond0" and row["vlan"] == 10}
        assert ways["far"] == "edge", "the peer's switch has learned the new way"


@pytest.mark.vnet(BOND)
async def test_an_open_tcp_connection_goes_on_there_and_back(lab):
    with Invariants(lab):
        await lab.wait_up()
        sent, got, done = bytes(range(256)) * 8000, bytearray(), trio.Event()

        async def keep(stream):
            async for part in stream:
                got.extend(part)
            done.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(lab.guests["server"].serve_tcp, keep, 7000)
            stream = await lab.guests["peer"].open_tcp_stream("10.0.0.1", 7000)
            for number, part in enumerate(sent[at : at + 100_000] for at in range(0, len(sent), 100_000)):
                if number in (3, 8):
                    lab.at(0.0001, setattr, lab.links["server:eth0"], "up", number == 8)
                await stream.send_all(part)
                await trio.sleep(0.3)
                assert active(lab, "server") == ("eth1" if 3 <= number < 8 else "eth0"), "the primary, whenever it can"
            await stream.aclose()
            await done.wait()
            nursery.cancel_scope.cancel()
        assert bytes(got) == sent


@pytest.mark.vnet(BOND)
async def test_a_lease_is_kept_and_renewed_by_the_other_member(lab):
    await lab.wait_up()
    guest = lab.guests["leased"]
    lease, bound = guest.lease("bond0"), len([event for event in lab.events if event.kind == "dhcp-bound"])
    lab.links["leased:eth0"].up = False
    await trio.sleep(1)
    assert active(lab, "leased") == "eth1" and guest.interfaces()[0].up
    assert (await lab.ping("peer", "leased")).ok
    await lab.advance("20 h")
    assert guest.lease("bond0").address == lease.address and guest.interfaces()[0].dhcp == "bound"
    assert len([event for event in lab.events if event.kind == "dhcp-bound"]) == bound
    lab.links["leased:eth0"].up = True
    await trio.sleep(1)
    assert active(lab, "leased") == "eth1", "there is no primary"


@pytest.mark.vnet(BOND)
async def test_vlans_on_a_bond_fail_over_with_it(lab):
    with Invariants(lab):
        await lab.wait_up()
        assert (await lab.ping("peer16", "10.16.0.1")).ok
        lab.links["server:eth0"].up = False
        await trio.sleep(0.2)
        assert (await lab.ping("peer16", "10.16.0.1")).ok
        lab.links["server:eth1"].up = False
        await trio.sleep(0.2)
        assert [row["state"] for row in views.guests(lab)[0]["interfaces"]] == ["down", "down"]
        lab.links["server:eth1"].up = True
        await trio.sleep(0.2)
        assert (await lab.ping("peer16", "10.16.0.1")).ok


@pytest.mark.vnet(BOND)
async def test_crashes_partitions_and_branches_know_bonds(lab):
    with Invariants(lab):
        await lab.wait_up()
        with lab.faults.partition("server", "peer"):
            assert not (await lab.ping("peer", "10.0.0.1")).ok and (await lab.ping("peer16", "10.16.0.1")).ok
            lab.links["server:eth0"].up = False
            await trio.sleep(0.2)
            assert not (await lab.ping("peer", "10.0.0.1")).ok and (await lab.ping("peer16", "10.16.0.1")).ok
        with lab.faults.crash("server"):
            assert not (await lab.ping("peer", "10.0.0.1")).ok
        assert active(lab, "server") == "eth1" and (await lab.ping("peer", "10.0.0.1", timeout=3)).ok

        async def mended(lab):
            lab.links["server:eth0"].up = True
            await trio.sleep(0.2)
            return active(lab, "server"), (await lab.ping("peer", "10.0.0.1")).ok

        assert await lab.branch(mended) == ("eth0", True)
        assert active(lab, "server") == "eth1"
        assert (await lab.reachability()).unexpected == ()


BEYOND = BOND.replace(
    "{members: [core, edge], primary: eth0}",
    """
          members: [core, edge]
          arp_interval: 100ms
          arp_ip_target: 10.0.0.9
          arp_validate: active""",
)


@pytest.mark.vnet(BEYOND)
async def test_arp_monitoring_notices_what_fails_behind_the_first_switch(lab):
    with Invariants(lab):
        await lab.wait_up()
        await trio.sleep(2)
        assert active(lab, "server") == "eth0" and (await lab.ping("peer", "10.0.0.1")).ok
        lab.links["far-core"].up = False
        await trio.sleep(1)
        assert active(lab, "server") == "eth1" and (await lab.ping("peer", "10.0.0.1")).ok
        assert lab.links["server:eth0"].up, "its own cable is as good as ever"


@pytest.mark.vnet(BOND)
async def test_miimon_does_not_notice_what_fails_behind_the_first_switch(lab):
    await lab.wait_up()
    lab.links["far-core"].up = False
    await trio.sleep(5)
    assert active(lab, "server") == "eth0" and not (await lab.ping("peer", "10.0.0.1")).ok


@pytest.mark.vnet(BOND)
async def test_an_idle_lab_with_bonds_is_idle(lab):
    await lab.wait_up()
    with pytest.raises(UsageError, match="it is a bond: capture server:eth0 server:eth1"):
        lab.captures.start(MemorySink(), ["server:bond0"])
    await lab.sleep_until_idle("30 s")


def test_drawings_and_names_know_the_members():
    topology = vnet.parse_topology(BOND)
    assert [cable.name for cable in topology.guests["server"].interfaces[0].cables] == ["eth0", "eth1"]
    assert set(cable_graph(topology)["server"]) == {"core", "edge"}
    assert re.search(r"leased +DHCP +core:\d, edge:\d", draw(topology, "text"))
    assert "bond0 at core:" in draw(topology)
    assert [port.name for port in topology.switches["edge"].ports] == ["far", "server:eth1", "leased:eth1"]


def test_members_are_counted_among_the_nics():
    topology = vnet.parse_topology("""
name: counted
networks: {lan: {}, dmz: {}}
guests:
  a: {nics: [lan, {network: dmz, bond: {members: [{}, {name: spare}]}}, lan, {network: lan, bond: {members: [{}, {}]}}]}
""")
    names = [(interface.name, [cable.name for cable in interface.cables]) for interface in topology.guests["a"].interfaces]
    assert names == [
        ("eth0", ["eth0"]), ("bond0", ["eth1", "spare"]), ("eth3", ["eth3"]), ("bond1", ["eth4", "eth5"]),
    ]  # fmt: skip


def test_namespaces_have_bonds_in_simulated_labs_only():
    topology = vnet.parse_topology(BOND.replace("leased: {nics", "leased: {kind: namespace, nics"))
    with pytest.raises(HostError, match=r"leased: bond0 is a bond.*--emulate"):
        refuse_what_is_not_built(topology, emulate=False)

    async def main():
        async with vnet.open_lab(topology) as lab:
            await lab.wait_up()
            return (await lab.ping("peer", "leased")).ok

    assert vnet.simulate(main)
