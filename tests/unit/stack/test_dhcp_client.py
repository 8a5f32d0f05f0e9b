"""Clients and servers on one hub in virtual time."""

import time
import tracemalloc
from ipaddress import IPv4Interface

import pytest
from dhcp_bed import SAMPLE_A, SAMPLE_B, SAMPLE_C, Bed, config

from vnet.stack.dhcp_client import DEFAULT_NETWORK, DhcpClient
from vnet.stack.dhcp_states import State
from vnet.units import DAY, HOUR, MINUTE, SECOND

SMALL = config("10.0.0.0/24", "10.0.0.10", "10.0.0.12", "10.0.0.2", "10.0.0.1", dns=["10.0.0.3"], domain="lab.example")


@pytest.fixture
def bed():
    return Bed()


def default_gateways(client: DhcpClient) -> list[str]:
    routes = client._interface.host.routes
    return [".".join(map(str, route.gateway)) for route in routes if route.network == DEFAULT_NETWORK]


@pytest.mark.parametrize(
    ("settings", "address", "gateway", "dns", "wins"),
    [
        (SAMPLE_A, "10.100.100.16/24", ["10.100.100.1"], [], ["192.168.14.10"]),
        (
            SAMPLE_B,
            "10.20.100.128/24",
            ["10.20.100.1"],
            ["10.20.100.25", "192.168.16.26"],
            ["10.20.100.25", "192.168.15.40"],
        ),
        (SAMPLE_C, "192.168.150.16/24", [], [], []),
    ],
)
def test_a_client_on_each_sample_gets_exactly_its_values(bed, settings, address, gateway, dns, wins):
    """VS-54."""
    bed.server(settings)
    client = bed.client("pc")
    bound = []
    client.on_bound.append(bound.append)
    bed.run()
    lease = client.lease
    assert bound == [lease] and client.state is State.BOUND
    assert str(lease.address) == address and [str(each) for each in client._interface.addresses] == [address]
    assert default_gateways(client) == gateway
    assert [str(each) for each in lease.dns] == dns and [str(each) for each in lease.wins] == wins
    assert (lease.duration, lease.t1, lease.t2) == (36 * HOUR, 18 * HOUR, 27 * HOUR)
    assert str(lease.server) == str(settings.server)


def test_the_instants_of_a_lease_on_the_wire(bed):
    """VS-52: unicast at 18 h, broadcast at 27 h, address lost at 36 h."""
    node = bed.server(SMALL)
    client = bed.client("pc")
    bed.run()
    node.serves = lambda mac: False  # it still answers ARP
    bed.said.clear()
    lost = []
    client.on_lost.append(lambda lease: lost.append(bed.now))
    bed.run(36 * HOUR)
    requests = [said for said in bed.said if said.kind == "REQUEST"]
    unicast = [said for said in requests if said.to_ip == "10.0.0.2"]
    broadcast = [said for said in requests if said.to_ip == "255.255.255.255"]
    assert unicast[0].at == 18 * HOUR and unicast[0].to_mac == node.interface.mac and unicast[-1].at < 27 * HOUR
    assert broadcast[0].at == 27 * HOUR and broadcast[0].from_ip == "10.0.0.10" and broadcast[0].to_mac == b"\xff" * 6
    assert lost == [36 * HOUR] and client.lease is None and client._interface.addresses == ()
    assert default_gateways(client) == [] and client.state is State.SELECTING
    discovers = [said.at for said in bed.said if said.kind == "DISCOVER"]
    assert discovers[0] == 36 * HOUR


def test_renewals_are_unicast_both_ways_and_keep_the_address(bed):
    bed.server(SMALL)
    client = bed.client("pc")
    bound = []
    client.on_bound.append(lambda lease: bound.append(bed.now))
    bed.run()
    bed.said.clear()
    bed.run(5 * DAY)
    assert [(said.kind, said.at // HOUR) for said in bed.said] == [
        (kind, at) for at in (18, 36, 54, 72, 90, 108) for kind in ("REQUEST", "ACK")
    ]
    assert all(said.to_ip in ("10.0.0.2", "10.0.0.10") for said in bed.said) and len(bound) == 7


def test_the_eighteenth_client_gets_nothing_until_one_gives_up(bed):
    """VS-56."""
    node = bed.server(SAMPLE_C)
    clients = [bed.client(f"pc{n}") for n in range(17)]
    bed.run()
    assert sorted(client.lease.address.ip.packed[3] for client in clients) == list(range(16, 33))
    late = bed.client("pc17")
    bed.run(10 * MINUTE)
    assert late.lease is None and late.state is State.SELECTING and late._interface.addresses == ()
    assert node.counters["no-address-left"] > 5 and len(bed.of("dhcp-exhausted")) == 1
    clients[4].release()
    bed.run(2 * MINUTE)
    assert str(late.lease.address.ip) == bed.of("dhcp-released")[0]["address"]


def test_release_and_start_give_the_same_address_back(bed):
    node = bed.server(SMALL)
    client = bed.client("pc")
    bed.run()
    address = client.lease.address
    client.release()
    bed.run(SECOND)
    assert client.state is State.OFF and client._interface.addresses == () and node.counters["release"] == 1
    client.start()
    bed.run()
    assert client.lease.address == address
    assert bed.kinds() == ["DISCOVER", "OFFER", "REQUEST", "ACK", "RELEASE", "DISCOVER", "OFFER", "REQUEST", "ACK"]


def test_a_cable_that_comes_back_makes_the_client_verify(bed):
    bed.server(SMALL)
    client = bed.client("pc")
    bed.run()
    bed.said.clear()
    bed.unplug(client._interface.port)
    bed.run(HOUR)
    bed.plug(client._interface.port)
    bed.run()
    assert bed.kinds() == ["REQUEST", "ACK"] and client.lease.obtained_at > HOUR


def test_another_network_gives_another_address(bed):
    bed.server(SMALL)
    client = bed.client("pc")
    bed.run()
    other = Bed()
    other.timeline = bed.timeline
    other.server(SAMPLE_A)
    bed.unplug(client._interface.port)
    other.plug(client._interface.port)
    bed.run(MINUTE)
    assert str(client.lease.address) == "10.100.100.16/24" and default_gateways(client) == ["10.100.100.1"]
    assert [str(each) for each in client._interface.addresses] == ["10.100.100.16/24"]
    assert other.kinds()[:2] == ["REQUEST", "NAK"]


def test_a_client_that_starts_before_its_cable(bed):
    bed.server(SMALL)
    interface = bed.host("pc")
    client = DhcpClient(interface)
    client.start()
    client.start()
    bed.run(MINUTE)
    assert client.state is State.OFF
    bed.plug(interface.port)
    bed.run()
    assert client.lease is not None


def test_an_address_in_use_is_declined_and_another_one_taken(bed):
    """The server's own look is switched off: the client finds out by itself."""
    node = bed.server(config("10.0.0.0/24", "10.0.0.10", "10.0.0.12", "10.0.0.2", probe=False))
    squatter = bed.host("squatter")
    squatter.add_address(IPv4Interface("10.0.0.10/24"))
    bed.plug(squatter.port)
    client = bed.client("pc")
    bed.run(MINUTE)
    assert str(client.lease.address.ip) == "10.0.0.11"
    assert bed.kinds().count("DECLINE") == node.counters["decline"] == 1
    assert bed.of("address-taken")[0]["address"] == "10.0.0.10"


def test_clients_that_draw_alike_do_not_take_each_others_lease(bed):
    """Clones draw the same transaction ids; the hardware address tells them apart."""
    bed.server(SMALL)
    clients = [bed.client("clone", mac=b"\x52\x54\0\0\0" + bytes((n,))) for n in (1, 2, 3)]
    bed.run(MINUTE)
    assert len({said.message.xid for said in bed.said if said.kind == "DISCOVER"}) == 1
    assert len({client.lease.address for client in clients}) == 3


def test_two_servers_coexist(bed):
    """VS-58: pools that do not overlap."""
    servers = [
        bed.server(SMALL, name="one"),
        bed.server(config("10.0.0.0/24", "10.0.0.100", "10.0.0.199", "10.0.0.3"), name="two"),
    ]
    clients = [bed.client(f"pc{n}") for n in range(6)]
    bed.run(5 * DAY)
    assert len({client.lease.address for client in clients}) == 6
    assert sum(node.counters["nak"] for node in servers) == 0 and bed.of("dhcp-conflict") == []


def test_malformed_messages_are_counted(bed):
    client = bed.client("pc")
    for payload in (b"", bytes(300)):
        client._datagram(payload, (b"\1\2\3\4", 67))
    assert client.malformed == 2


def test_the_same_seed_says_the_same(bed):
    runs = []
    for _ in range(2):
        bed = Bed(seed=9)
        bed.server(SMALL)
        for n in range(4):
            bed.client(f"pc{n}")
        bed.run(3 * DAY)
        runs.append((bed.frames, bed.events))
    assert runs[0] == runs[1] and len(runs[0][0]) > 100


def test_a_day_of_fifty_clients_is_cheap(bed):
    """Leases of an hour: 50 clients renew 48 times a day each."""
    bed.server(
        config("10.0.0.0/24", "10.0.0.10", "10.0.0.99", "10.0.0.2", lease=HOUR, renew=HOUR // 2, rebind=HOUR * 3 // 4)
    )
    clients = [bed.client(f"pc{n}") for n in range(50)]
    began = time.perf_counter()
    bed.run(DAY)
    assert time.perf_counter() - began < 8, "about 1 s; the hub floods every frame to all 50"
    assert all(client.state is State.BOUND for client in clients)


def test_a_client_costs_little_memory(bed):
    bed.server(SMALL)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    clients = []
    for n in range(100):
        interface = bed.host(f"pc{n}", mac=b"\x02\0\0\0\0" + bytes((n,)))
        client = DhcpClient(interface)
        client.start()
        clients.append(client)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert (after - before) / 100 < 12 * 1024, "host, interface and client, idle"
