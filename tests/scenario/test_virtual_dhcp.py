"""S12 and S13: an internal network with its virtual DHCP server; exhaustion, wrong files, overlap, restart."""

from pathlib import Path

import pytest
import trio

from vnet.guests.base import PingReply
from vnet.runtime.clock import simulate
from vnet.runtime.opening import open_lab
from vnet.stack.dhcp_states import State
from vnet.topology import check_text, load_topology, parse_topology
from vnet.units import HOUR, SECOND

T6 = "topologies/production-network-vlan16.yaml"
T7 = "topologies/external-network-with-dhcp.yaml"
T8 = "topologies/scripted-network1.yaml"


def with_guests(path: str, names: list[str]) -> str:
    """Give a shipped topology other guests, all of which use DHCP."""
    text = Path(path).read_text()
    network = next(iter(load_topology(path).networks))
    guests = "".join(f"  {name}: {{nics: [{network}]}}\n" for name in names)
    return text[: text.index("\nguests:")] + "\nguests:\n" + guests


def leases(lab) -> dict[str, object]:
    return {guest.name: guest.lease() for guest in lab.guests.values() if guest.lease() is not None}


@pytest.mark.vnet(T6)
async def test_production_network_gives_the_book_s_values(lab):
    lease = next(iter(leases(lab).values()))
    assert str(lease.server) == "10.20.100.2"
    assert str(lease.gateway) == "10.20.100.1"
    assert [str(each) for each in lease.dns] == ["10.20.100.25", "192.168.16.26"]
    assert [str(each) for each in lease.wins] == ["10.20.100.25", "192.168.15.40"]
    assert 128 <= lease.address.ip.packed[3] <= 254 and lease.address.network.prefixlen == 24


@pytest.mark.vnet(T7)
async def test_external_network_gives_the_book_s_values(lab):
    lease = next(iter(leases(lab).values()))
    assert (str(lease.server), str(lease.gateway)) == ("10.100.100.10", "10.100.100.1")
    assert lease.dns == ()
    assert [str(each) for each in lease.wins] == ["192.168.14.10"]
    assert 16 <= lease.address.ip.packed[3] <= 254


@pytest.mark.vnet(T8)
async def test_times_are_36_18_and_27_hours(lab):
    guest, lease = next(iter(leases(lab).items()))
    client = next(iter(lab.guests[guest]._clients.values()))
    bound_at = lease.obtained_at
    states = {}
    lab.switches["switch"].set_enabled(lab.topology.networks["Network1"].dhcp.port.number, False)  # the server is gone
    for name, hours in (("renewing", 18), ("rebinding", 27), ("lost", 36)):
        await trio.sleep((bound_at + hours * HOUR - SECOND - lab.timeline.now) / SECOND)
        before = client.state
        await trio.sleep(2)
        states[name] = (before, client.state)
    assert states["renewing"] == (State.BOUND, State.RENEWING)
    assert states["rebinding"] == (State.RENEWING, State.REBINDING)
    assert states["lost"][0] is State.REBINDING and client.lease is None
    assert lab.guests[guest].address is None


def test_the_eighteenth_client_of_network1_goes_away_empty_until_somebody_leaves():
    topology = parse_topology(with_guests(T8, [f"vm{number}" for number in range(1, 19)]))

    async def main() -> None:
        async with open_lab(topology) as lab:
            await trio.sleep(120)
            served = leases(lab)
            assert len(served) == 17
            assert sorted(lease.address.ip.packed[3] for lease in served.values()) == list(range(16, 33))
            (unlucky,) = set(lab.guests) - set(served)
            assert lab.dhcp["Network1"].counters["no-address-left"] > 0
            lucky = next(iter(served))
            freed = served[lucky].address
            next(iter(lab.guests[lucky]._clients.values())).release()
            await trio.sleep(120)
            assert leases(lab)[unlucky].address == freed

    simulate(main)


def test_a_server_inside_its_pool_is_refused():
    text = Path(T8).read_text().replace("192.168.150.16-192.168.150.32", "192.168.150.1-192.168.150.32")
    topology, problems = check_text(text)
    assert topology is None
    assert any("192.168.150.1" in problem.text and "range" in problem.text for problem in problems)


def test_an_address_that_somebody_uses_already_is_found_out_and_not_given():
    # The overlap with an external pool: a machine holds an address that the pool would give out first.
    text = with_guests(T8, ["client"])
    text += "  squatter: {nics: [{network: Network1, address: 192.168.150.33/24}]}\n"

    async def main() -> None:
        async with open_lab(parse_topology(text)) as lab:
            from ipaddress import IPv4Interface

            squatter = lab.guests["squatter"].host.interfaces["eth0"]
            squatter.add_address(IPv4Interface("192.168.150.16/24"))
            await lab.wait_up()
            assert str(lab.guests["client"].address) == "192.168.150.17"
            conflicts = [event for event in lab.events if "conflict" in event.kind or "decline" in event.kind]
            assert conflicts, "the overlap is on record"
            reply: PingReply = await lab.ping("client", "192.168.150.16")
            assert reply.ok

    simulate(main)


def test_bindings_outlive_the_lab(tmp_path):
    topology = parse_topology(with_guests(T8, ["a", "b", "c"]))

    async def run(names: list[str]) -> dict[str, str]:
        async with open_lab(topology, state=tmp_path) as lab:
            await lab.wait_up()
            return {name: str(lab.guests[name].address) for name in names}

    first = simulate(run, ["a", "b", "c"], seed=1)
    for seed in (2, 3, 4):  # another seed: the clients ask in another order
        assert simulate(run, ["a", "b", "c"], seed=seed) == first


@pytest.mark.vnet(T8)
async def test_a_static_guest_asks_nobody(lab):
    dynamic = [name for name, guest in lab.guests.items() if guest.interfaces()[0].dhcp]
    assert lab.dhcp["Network1"].counters["discover"] == len(dynamic)
