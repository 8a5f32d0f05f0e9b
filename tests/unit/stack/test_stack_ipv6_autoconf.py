"""Hosts that configure themselves by router advertisements (RFC 4862, RFC 4861 section 6.3)."""

from __future__ import annotations

from ipaddress import IPv6Interface, IPv6Network

import pytest
from ipv6_lan import ROUTER, ROUTER_MAC, ip

from vnet.stack.ipv6.addresses import AddressState
from vnet.stack.ipv6.autoconf import MAX_PREFIXES, MAX_ROUTERS, MAX_SERVERS
from vnet.units import HOUR, SECOND
from vnet.wire import ipv6, ndp
from vnet.wire.describe import describe

PREFIX = ip("2001:db8:a::")
OWN = ip("2001:db8:a::5054:ff:fe00:1")
FAR = ip("2001:db8:ffff::1")


def advertisement(*prefixes: ndp.Prefix, source: bytes = ROUTER, mtu=None, dns=(), **fields) -> bytes:
    options = ndp.Options(source_mac=ROUTER_MAC, prefixes=prefixes, mtu=mtu, dns=dns)
    octets = ndp.encode(ndp.RouterAdvertisement(options=options, **fields)).encode(source, ipv6.ALL_NODES)
    packet = ipv6.build(source, ipv6.ALL_NODES, 58, len(octets), hop_limit=255) + octets
    return b"\x33\x33\0\0\0\1" + ROUTER_MAC + b"\x86\xdd" + packet


def prefix(valid: int = 86400, preferred: int = 14400, **fields) -> ndp.Prefix:
    return ndp.Prefix(PREFIX, 64, valid=valid, preferred=preferred, **fields)


@pytest.fixture
def host(lan):
    host = lan.host(1, None)
    host.interfaces["eth0"].enable_ipv6().configure_itself()
    lan.run(3 * SECOND)
    lan.hub.take()
    return host


def own(host):
    return host.interfaces["eth0"].ipv6.find(OWN)


def asked(lan) -> int:
    return sum("router solicitation, from 52:54:00:00:00:01" in describe(frame) for frame in lan.hub.take())


def test_asks_three_times_for_a_router(lan):
    host = lan.host(1, None)
    host.interfaces["eth0"].enable_ipv6().configure_itself()
    lan.run(60 * SECOND)
    assert asked(lan) == 3
    port = host.interfaces["eth0"].port
    port.set_carrier(False)
    port.set_carrier(True)
    lan.run(5 * SECOND)
    assert asked(lan) in (1, 2), "asks anew with a new cable ..."
    lan.inject(advertisement())
    lan.run(60 * SECOND)
    assert asked(lan) == 0, "... until a router answers"


def test_configures_itself(lan, host):
    servers = (ndp.DnsServers((ip("2001:db8::53"),), 300),)
    lan.inject(advertisement(prefix(), mtu=1400, hop_limit=33, dns=servers, reachable=10_000, retransmit=2000))
    side = host.interfaces["eth0"].ipv6
    assert own(host).state is AddressState.TENTATIVE
    lan.run(3 * SECOND)
    assert own(host).state is AddressState.PREFERRED and host.ipv6.local[OWN] is side
    assert (side.mtu, side.hop_limit, side.retransmit_time, side.base_reachable) == (1400, 33, 2 * SECOND, 10 * SECOND)
    assert [(str(route.network), route.gateway) for route in host.ipv6.routes] == [
        ("2001:db8:a::/64", None), ("::/0", ROUTER),
    ]  # fmt: skip
    assert host.ipv6.route(FAR) == OWN and list(side.autoconf.servers) == [ip("2001:db8::53")]
    lan.hub.take()
    host.udp_bind(both=True, on_datagram=lambda payload, source: None).send_to(b"far", (FAR, 9))
    (frame,) = [frame for frame in lan.hub.take() if frame[20] == 17]
    assert frame[:6] == ROUTER_MAC, "its MAC address came with the advertisement"
    assert frame[21] == 33, "and the hop limit"
    lan.run(301 * SECOND)
    assert not side.autoconf.servers


def test_everything_ends_with_its_lifetime(lan, host):
    lan.inject(advertisement(prefix(valid=100, preferred=50), lifetime=30))
    lan.run(29 * SECOND)
    assert host.ipv6.routes.lookup(FAR) is not None
    lan.run(2 * SECOND)
    assert host.ipv6.routes.lookup(FAR) is None and own(host).state is AddressState.PREFERRED
    lan.run(20 * SECOND)
    assert own(host).state is AddressState.DEPRECATED and OWN in host.ipv6.local
    lan.run(50 * SECOND)
    assert own(host) is None and OWN not in host.ipv6.local
    assert list(host.ipv6.routes) == []


def test_an_infinite_lifetime(lan, host):
    lan.inject(advertisement(prefix(ndp.INFINITE, ndp.INFINITE)))
    lan.run(10_000 * HOUR)
    assert own(host).state is AddressState.PREFERRED and PREFIX[:8] == host.ipv6.routes.lookup(OWN).network[0].packed[:8]


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [(86400, 100, 7200), (3600, 100, 3600), (3600, 5000, 5000), (86400, 10_000, 10_000), (100, 200, 200)],
)
def test_a_stranger_cannot_cut_a_lifetime_below_two_hours(lan, host, first, second, left):
    lan.inject(advertisement(prefix(first, 50)))
    lan.inject(advertisement(prefix(second, 50)))
    assert own(host).valid_until == lan.timeline.now + left * SECOND


def test_a_router_that_leaves(lan, host):
    lan.inject(advertisement(prefix()))
    lan.inject(advertisement(prefix(valid=0, preferred=0), lifetime=0))
    assert list(host.ipv6.routes) == []
    lan.run(3 * SECOND)
    assert own(host).state is AddressState.DEPRECATED and own(host).valid_until - lan.timeline.now <= 2 * HOUR


def test_a_router_that_turns_into_a_host(lan, host):
    lan.inject(advertisement(prefix()))
    lan.run(3 * SECOND)
    answer = ndp.NeighborAdvertisement(ROUTER, False, False, True, ndp.Options(target_mac=ROUTER_MAC))
    octets = ndp.encode(answer).encode(ROUTER, ipv6.ALL_NODES)
    head = ipv6.build(ROUTER, ipv6.ALL_NODES, 58, len(octets), hop_limit=255)
    lan.inject(b"\x33\x33\0\0\0\1" + ROUTER_MAC + b"\x86\xdd" + head + octets)
    assert host.ipv6.routes.lookup(FAR) is None


def test_a_router_that_does_not_answer_gives_way_to_another(lan, host):
    other = ip("fe80::99")
    for source in (ROUTER, other):
        lan.inject(advertisement(prefix(), source=source))
    lan.run(3 * SECOND)
    assert host.ipv6.routes.lookup(FAR).gateway == ROUTER
    socket = host.udp_bind(both=True, on_datagram=lambda payload, source: None)
    socket.send_to(b"x", (FAR, 9))
    lan.run(12 * SECOND)
    assert host.ipv6.routes.lookup(FAR).gateway == other
    assert host.interfaces["eth0"].ipv6.autoconf.routers == (other, ROUTER)


def test_what_is_not_taken(lan, host):
    side = host.interfaces["eth0"].ipv6
    lan.inject(advertisement(ndp.Prefix(PREFIX, 63), ndp.Prefix(ip("fe80::"), 64), ndp.Prefix(ip("ff00::"), 64), mtu=1279))
    lan.inject(advertisement(prefix(10, 20, on_link=False), mtu=1501))
    assert len(side.addresses) == 1 and side.mtu == 1500
    assert [str(route.network) for route in host.ipv6.routes] == ["2001:db8:a::/63", "::/0"]
    lan.inject(advertisement(source=ip("2001:db8::1")))
    assert host.drops == {"ndp-malformed": 1}


def test_who_does_not_configure_itself_ignores_routers(lan):
    host = lan.host(1, None)
    side = host.interfaces["eth0"].enable_ipv6()
    side.add_address(IPv6Interface("2001:db8::1/64"))
    lan.run(60 * SECOND)
    assert asked(lan) == 0
    lan.inject(advertisement(prefix(), mtu=1400))
    assert side.mtu == 1500 and [route.network for route in host.ipv6.routes] == [IPv6Network("2001:db8::/64")]


def test_a_static_address_outlives_its_prefix(lan, host):
    side = host.interfaces["eth0"].ipv6
    lan.inject(advertisement(prefix(100, 50)))
    side.add_address(IPv6Interface((OWN, 64)))
    lan.run(200 * SECOND)
    assert own(host).state is AddressState.PREFERRED
    assert [(str(route.network), route.metric) for route in host.ipv6.routes][0] == ("2001:db8:a::/64", 0)


def test_a_flood_of_advertisements_is_bounded(lan, host):
    side = host.interfaces["eth0"].ipv6
    for number in range(200):
        one = ndp.Prefix(ip(f"2001:db8:{number:x}::"), 64)
        servers = (ndp.DnsServers((ip(f"2001:db8::{number:x}"),), 300),)
        lan.inject(advertisement(one, source=ip(f"fe80::{number + 1:x}"), dns=servers))
    assert len(side.autoconf.routers) == MAX_ROUTERS and len(side.autoconf.servers) == MAX_SERVERS
    assert len(side.addresses) == 1 + MAX_PREFIXES
    assert len(list(host.ipv6.routes)) == MAX_ROUTERS + MAX_PREFIXES
    lan.run(5 * SECOND)
    assert all(each.usable for each in side.addresses)
