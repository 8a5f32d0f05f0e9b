"""What a change does to a network, told by its traffic and by who reaches whom. Short, to be copied."""

import pytest

from vnet.testing import expect, never

BOX = "topologies/infrastructure-in-a-box.yaml"
NAT = """
name: shared
networks: {inside: {subnet: 10.0.0.0/24}, outside: {subnet: 203.0.113.0/24}}
routers:
  gate:
    interfaces: {inside: 10.0.0.1/24, outside: 203.0.113.1/24}
    nat: {outside: outside, inside: [inside], timeouts: {udp: 60s}}
guests:
  pc: {nics: [{network: inside, address: 10.0.0.9/24, gateway: 10.0.0.1}]}
  far: {nics: [{network: outside, address: 203.0.113.9/24}]}
"""


@pytest.mark.vnet(NAT)
async def test_an_answer_that_is_later_than_the_mapping_does_not_come_in(lab):
    client, server = await lab.guests["pc"].open_udp_socket(), await lab.guests["far"].open_udp_socket(53)
    for wait, watch in (("50s", expect), ("70s", never)):
        await client.send_to(b"question", ("203.0.113.9", 53))
        question, seen_from = await server.receive()
        await lab.advance(wait)
        async with watch(lab, "udp src port 53", "pc").within("1s"):
            await server.send_to(b"answer", seen_from)


@pytest.mark.vnet(NAT)
async def test_private_addresses_stay_inside(lab):
    async with never(lab, "ip net 10.0.0.0/8", "far", "gate:outside"), expect(lab, "ip src 203.0.113.1", "far"):
        await lab.ping("pc", "far")
        await lab.sleep_until_idle()


@pytest.mark.vnet(BOX)
async def test_a_web_server_that_crashes_is_missed_and_nothing_else(lab):
    before = await lab.reachability()
    lab.faults.crash("web")
    change = before.compare(await lab.reachability())
    assert change and not change.gained and all("web" in pair for pair in change.lost)
    lab.faults.heal()
    await lab.sleep_until_idle()
    assert not before.compare(await lab.reachability()), "all is as it was"


@pytest.mark.vnet(BOX)
async def test_a_restarted_guest_asks_for_an_address_and_says_that_it_has_it(lab):
    async with expect(lab, "dhcp", "web").within("20s"), expect(lab, "arp", "web").within("20s"):
        lab.faults.restart("web")
    await lab.guests["web"].dhcp()
