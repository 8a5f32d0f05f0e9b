"""S9, S10, S11, S16: what happens to guests when the way out of their network changes. Outside are emulated guests, too.

The NIC is the cable ``nic``, since in virtual time there is no machine with a real one.
"""

import pytest
import trio

from vnet.guests.emulated import EmulatedGuest
from vnet.topology import load_topology

NETWORK = """
name: production
networks:
  production: {vlan: 16, subnet: 10.20.100.0/24, adapter: {bridge: {nic: eth1, vlan: 16}}}
switches: {machine: {}, outside: {}}
links: [{between: [machine, outside], trunk: [16]}]
guests:
  dc: {switch: machine, nics: [{network: production, address: 10.20.100.25/24}]}
  exchange: {switch: machine, nics: [{network: production, address: 10.20.100.26/24}]}
  client: {switch: outside, nics: [{network: production, address: 10.20.100.130/24}]}
"""


async def echo(stream):
    async for piece in stream:
        await stream.send_all(piece)


async def say(stream, text):
    """Have a text come back, however long that takes."""
    await stream.send_all(text)
    got = b""
    while len(got) < len(text):
        got += await stream.receive_some()
    return got == text


@pytest.mark.vnet(NETWORK)
async def test_s16_connections_outlive_the_change_to_another_nic(lab):
    async with trio.open_nursery() as nursery:
        for guest in ("dc", "exchange"):
            await nursery.start(lab.guests[guest].serve_tcp, echo, 7)
        streams = [await lab.guests["client"].open_tcp_stream(guest, 7) for guest in ("dc", "exchange")]
        before = {name: (guest.interfaces()[0].mac, guest.address) for name, guest in lab.guests.items()}
        assert [await say(stream, b"before") for stream in streams] == [True, True]
        with lab.faults.flap("machine-outside", times=1, period=0.5):
            await lab.networks["production"].rebind("{bridge: {nic: eth2, vlan: 16}}")
            assert [await say(stream, b"during") for stream in streams] == [True, True]
        assert lab.networks["production"].adapter.describe() == "bridge eth2 vlan 16"
        assert {name: (guest.interfaces()[0].mac, guest.address) for name, guest in lab.guests.items()} == before
        nursery.cancel_scope.cancel()


@pytest.mark.vnet(NETWORK)
async def test_s9_a_quick_cut_and_the_machine_comes_instead(lab):
    lab.links["machine", "outside"].up = False
    await lab.networks["production"].rebind("none")
    assert (await lab.ping("dc", "exchange")).ok and not (await lab.ping("dc", "client")).ok
    await lab.networks["production"].rebind("{loopback: {address: 10.20.100.1}}")
    assert (await lab.ping("dc", "host")).ok and (await lab.ping("host", "exchange")).ok
    assert not (await lab.ping("host", "client")).ok


@pytest.mark.vnet(NETWORK)
async def test_s11_guests_reach_each_other_while_the_nic_is_gone(lab):
    assert (await lab.ping("client", "dc")).ok
    with lab.faults.isolate("client"):
        assert not (await lab.ping("client", "dc")).ok
        assert (await lab.ping("dc", "exchange")).ok
        await lab.networks["production"].rebind("{bridge: {nic: eth2, vlan: 16}}")
    assert (await lab.ping("client", "dc")).ok


@pytest.mark.vnet("topologies/hidden-host.yaml")
async def test_s10_a_hidden_host_is_on_no_network(lab):
    """Nobody but the guests has ever sent a frame, and the machine is no guest: it has no loopback adapter."""
    assert (await lab.ping("mail", "files")).ok
    assert "host" not in lab.guests
    macs = {guest.interfaces()[0].mac for guest in lab.guests.values() if isinstance(guest, EmulatedGuest)}
    (switch,) = lab.switches.values()
    assert {entry.mac for entry in switch.fdb} == macs


@pytest.mark.vnet("topologies/classroom-and-office.yaml")
async def test_s1_the_prepared_server_moves_and_the_others_notice_nothing(lab):
    assert not (await lab.ping("pupil", "server")).ok and (await lab.ping("pupil", "teacher")).ok
    await lab.networks["prepared"].rebind("{bridge: eth2}")
    assert (await lab.ping("pupil", "teacher")).ok and not (await lab.ping("pupil", "clerk")).ok


def test_a_vlan_of_the_wire_may_be_another_than_that_of_the_lab():
    network = load_topology("topologies/xen-vlan-45.yaml").networks["vlan45"]
    assert (network.vid, network.adapter.describe()) == (45, "bridge eth0 vlan 45")
