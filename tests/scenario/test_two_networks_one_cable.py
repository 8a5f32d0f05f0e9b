"""S4: two networks share one cable. No layer 2 between them; by the router, yes; a VLAN that the trunk lacks is cut off."""

import pytest

from vnet.switch.vlan import trunk
from vnet.topology import check_text

TOPOLOGY = """
name: two-networks
networks:
  segment: {vlan: 10, subnet: 10.100.100.0/24}
  dmz: {vlan: 20, subnet: 172.17.1.0/24}
switches: {server: {}, physical: {}}
links:
  - {between: [server, physical], trunk: all, latency: 10us}
routers:
  between: {switch: physical, interfaces: {segment: 10.100.100.1/24, dmz: 172.17.1.1/24}}
guests:
  web: {switch: server, nics: [{network: segment, address: 10.100.100.124/24}]}
  mail: {switch: server, nics: [{network: dmz, address: 172.17.1.26/24}]}
  peer: {switch: physical, nics: [{network: segment, address: 10.100.100.5/24}]}
"""


@pytest.mark.vnet(TOPOLOGY)
async def test_nothing_passes_between_them_on_layer_2(lab):
    heard = []
    mail = lab.ports["mail:eth0"]
    mail.hook(rx=lambda handler: lambda frame, offload: (heard.append(frame), handler(frame, offload))[1])
    lab.ports["web:eth0"].send(b"\xff" * 6 + lab.guests["web"].interfaces()[0].mac + b"\x88\xb5" + bytes(46), bytes(10))
    await lab.ping("web", "10.100.100.77")  # ARP for nobody
    assert heard == []
    assert (await lab.ping("web", "peer")).ok
    assert heard == []


@pytest.mark.vnet(TOPOLOGY)
async def test_the_router_joins_them(lab):
    reply = await lab.guests["web"].ping("mail")
    assert reply.ok
    hops = await lab.guests["web"].traceroute("mail")
    assert [str(hop.source and ".".join(map(str, hop.source))) for hop in hops][0] == "10.100.100.1"
    assert len(hops) == 2


@pytest.mark.vnet(TOPOLOGY)
async def test_frames_of_both_share_the_cable_with_their_tags(lab):
    vids = set()
    lab.links["server-physical"].a.hook(
        tx=lambda handler: lambda frame, offload: (vids.add(frame[12:16].hex()), handler(frame, offload))[1]
    )
    await lab.ping("web", "mail")
    assert vids == {"8100000a", "81000014"}


@pytest.mark.vnet(TOPOLOGY)
async def test_a_vlan_that_the_switch_does_not_carry_is_unreachable(lab):
    assert (await lab.ping("mail", "172.17.1.1")).ok
    switch = lab.switches["physical"]
    number = next(port.number for port in switch.ports.values() if port.name == "server")
    switch.set_vlan(number, trunk(frozenset((10,))))
    assert not (await lab.ping("mail", "172.17.1.1")).ok
    assert (await lab.ping("web", "10.100.100.1")).ok
    switch.fold()
    assert switch.ports[number].drops["ingress-filter"] > 0


def test_a_file_with_a_vlan_missing_on_the_trunk_is_refused():
    topology, problems = check_text(TOPOLOGY.replace("trunk: all", "trunk: [10]"))
    assert topology is None
    assert any("dmz" in problem.text and "trunk" in problem.text for problem in problems)
