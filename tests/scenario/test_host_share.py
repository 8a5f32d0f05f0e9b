"""S5 and S6: the machine shares something with its guests over loopback adapters, and its NIC hears nothing of that.

The NIC is the cable ``nic``, since in virtual time there is no machine with a real one.
"""

from pathlib import Path

import pytest
import trio

from vnet.topology import parse_topology

SHARE = "".join(f"line {number}\n" for number in range(20_000)).encode()
MACHINE, MACHINE_OF_SECOND_GROUP = "10.10.10.2", "10.10.11.2"
SHIPPED = Path(__file__).parents[2] / "topologies/host-to-guest-share.yaml"
SWITCHES = "switches: {inside: {}, outside: {}}\nlinks: [{between: [inside, outside], trunk: [16]}]\n"
PRODUCTION = """
  production: {vlan: 16, subnet: 10.20.100.0/24, adapter: {bridge: {nic: eth1}}}
guests:
  server: {switch: inside, nics: [{network: production, address: 10.20.100.25/24}]}
  client: {switch: outside, nics: [{network: production, address: 10.20.100.130/24}]}"""
BESIDE_A_NIC = parse_topology(SWITCHES + SHIPPED.read_text().replace("\nguests:", PRODUCTION, 1), source="beside a NIC")


async def give(stream):
    await stream.send_all(SHARE)


async def fetch(guest, address):
    got = b""
    async with await guest.open_tcp_stream(address, 445) as stream:
        async for piece in stream:
            got += piece
    return got


@pytest.mark.vnet(BESIDE_A_NIC)
async def test_s5_a_share_is_read_with_no_octet_on_the_nic(lab):
    nic = lab.links["inside", "outside"]
    async with trio.open_nursery() as nursery:
        await nursery.start(lab.guests["host"].serve_tcp, give, 445)
        assert (await lab.ping("server", "client")).ok  # the NIC works
        await lab.sleep_until_idle()
        before = nic.forward.octets, nic.backward.octets
        for guest in ("guest1", "guest2"):
            assert await fetch(lab.guests[guest], MACHINE) == SHARE
        assert (nic.forward.octets, nic.backward.octets) == before
        assert min(before) > 0
        nursery.cancel_scope.cancel()


@pytest.mark.vnet(BESIDE_A_NIC)
async def test_s6_each_group_has_an_address_of_the_machine_and_not_the_other_group(lab):
    async with trio.open_nursery() as nursery:
        await nursery.start(lab.guests["host"].serve_tcp, give, 445)
        for guest, address in (("guest1", MACHINE), ("guest3", MACHINE_OF_SECOND_GROUP)):
            assert await fetch(lab.guests[guest], address) == SHARE
        for guest, address in (("guest1", MACHINE_OF_SECOND_GROUP), ("guest3", MACHINE)):
            with pytest.raises(OSError):
                await fetch(lab.guests[guest], address)
        pairs = (await lab.reachability()).pairs
        assert {pair for pair in pairs if "guest1" in pair} - {("guest1", "host"), ("host", "guest1")} == {
            ("guest1", "guest2"), ("guest2", "guest1"),
        }  # fmt: skip
        assert {pair for pair in pairs if "guest3" in pair} == {("host", "guest3")}  # its name is the address of group one
        nursery.cancel_scope.cancel()
