"""Router advertisements: when they come, what hosts make of them, and how a router ends (RFC 4861, section 6.2)."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Interface

import pytest

from tests.unit.stack.conftest import Lan
from vnet.fabric.rng import RandomStreams
from vnet.services.router.advertisements import (
    INITIAL,
    INITIAL_INTERVAL,
    LIFETIME,
    MAX_DELAY,
    MAX_INTERVAL,
    MIN_DELAY,
    MIN_INTERVAL,
    Advertiser,
    RouterAdvertisements,
)
from vnet.stack.host import Host
from vnet.stack.ipv6.addresses import AddressState
from vnet.units import HOUR, SECOND
from vnet.wire import icmpv6, ipv6, ndp
from vnet.wire.describe import describe

PREFIX, ROUTER = IPv6Address("fd00:6::").packed, IPv6Address("fd00:6::1").packed
MESSAGE = ndp.RouterAdvertisement(
    lifetime=LIFETIME,
    options=ndp.Options(prefixes=(ndp.Prefix(PREFIX, 64),), dns=(ndp.DnsServers((ROUTER,), LIFETIME),)),
)


@pytest.fixture
def lan() -> Lan:
    return Lan()


def router(lan: Lan, number: int = 1) -> tuple[Host, RouterAdvertisements]:
    host = lan.host(number, None)
    side = host.interfaces["eth0"].enable_ipv6()
    side.add_address(IPv6Interface((ROUTER, 64)))
    return host, RouterAdvertisements(side, MESSAGE)


def guest(lan: Lan, number: int = 5) -> Host:
    host = lan.host(number, None)
    host.interfaces["eth0"].enable_ipv6().configure_itself()
    return host


def advertised(lan: Lan) -> list[str]:
    return [text for frame in lan.hub.take() if "router advertisement" in (text := describe(frame))]


def schedule(advertiser: Advertiser, count: int) -> list[int]:
    """Run the next *count* advertisements; return when they were."""
    found = []
    for _ in range(count):
        assert advertiser.next_deadline is not None
        now = advertiser.next_deadline
        assert not advertiser.expire(now - 1) and advertiser.expire(now)
        found.append(now)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_often_at_first_and_seldom_later(seed: int) -> None:
    advertiser = Advertiser(RandomStreams(seed).stream("r", "ra"))
    advertiser.start(5 * SECOND)
    times = schedule(advertiser, 9)
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert times[0] == 5 * SECOND and gaps[: INITIAL - 1] == [INITIAL_INTERVAL] * (INITIAL - 1)
    assert all(MIN_INTERVAL <= gap <= MAX_INTERVAL for gap in gaps[INITIAL - 1 :])


@pytest.mark.parametrize("seed", range(20))
def test_whoever_asks_is_answered_soon_and_a_crowd_by_one(seed: int) -> None:
    advertiser = Advertiser(RandomStreams(seed).stream("r", "ra"))
    advertiser.solicited(0)
    assert advertiser.next_deadline is None, "it does not advertise yet"
    advertiser.start(0)
    last = schedule(advertiser, 6)[-1]
    advertiser.solicited(last + 60 * SECOND)
    (answer,) = schedule(advertiser, 1)
    assert 0 <= answer - last - 60 * SECOND <= MAX_DELAY
    for number in range(100):
        advertiser.solicited(answer + number)
    (again,) = schedule(advertiser, 1)
    assert MIN_DELAY <= again - answer <= MIN_DELAY + MAX_DELAY
    advertiser.start(again + 1)
    assert advertiser.next_deadline == again + MIN_DELAY, "nor does a new beginning come sooner"
    advertiser.stop()
    assert advertiser.next_deadline is None and not advertiser.expire(again + HOUR)


def test_hosts_configure_themselves(lan: Lan) -> None:
    gate, _ = router(lan)
    host = guest(lan)
    lan.run(8 * SECOND)
    side = host.interfaces["eth0"].ipv6
    assert side is not None and side.autoconf is not None
    own = PREFIX[:8] + ipv6.interface_id(side.mac)
    assert own in host.use_ipv6().local and list(side.autoconf.servers) == [ROUTER]
    assert side.autoconf.routers == (ipv6.link_local(gate.interfaces["eth0"].mac),)
    results: list[bool] = []
    host.ping(ROUTER, on_result=lambda result: results.append(result.ok))
    lan.run()
    assert results == [True]


def test_a_host_that_comes_later_is_answered_when_it_asks(lan: Lan) -> None:
    _, advertising = router(lan)
    lan.run(HOUR)
    sent = advertising.sent
    host = guest(lan)
    lan.run(8 * SECOND)
    assert (
        advertising.sent in (sent + 1, sent + 2)
        and host.use_ipv6().routes.lookup(IPv6Address("2001:db8::1").packed) is not None
    )


def test_it_says_that_it_is_a_router_when_it_is_asked_for_its_address(lan: Lan) -> None:
    """Else hosts would take it for one that is none any more (RFC 4861, section 7.3.3)."""
    gate, _ = router(lan)
    host = guest(lan)
    lan.run(8 * SECOND)
    host.interfaces["eth0"].neighbors.flush()
    side = host.interfaces["eth0"].ipv6
    assert side is not None and side.autoconf is not None
    link_local = ipv6.link_local(gate.interfaces["eth0"].mac)
    side.neighbors.flush()
    lan.hub.take()
    host.ping(link_local, on_result=lambda result: None)
    lan.run()
    answers = [frame for frame in lan.hub.take() if frame[20] == 58 and frame[54] == icmpv6.NEIGHBOR_ADVERTISEMENT]
    assert answers and all(frame[58] & 0x80 for frame in answers if frame[6:12] == gate.interfaces["eth0"].mac)
    assert side.autoconf.routers == (link_local,)
    gate.interfaces["eth0"].announce_addresses()
    lan.run()
    assert side.autoconf.routers == (link_local,)


def test_the_end_is_told(lan: Lan) -> None:
    _, advertising = router(lan)
    host = guest(lan)
    lan.run(8 * SECOND)
    lan.hub.take()
    advertising.cease()
    lan.run(HOUR)
    side = host.interfaces["eth0"].ipv6
    assert side is not None and side.autoconf is not None
    assert len(advertised(lan)) == 1 and side.autoconf.routers == () and not side.autoconf.servers
    own = side.find(PREFIX[:8] + ipv6.interface_id(side.mac))
    assert own is not None and own.state is AddressState.DEPRECATED
    lan.run(HOUR + SECOND)
    assert side.find(own.address) is None, "and is gone two hours later"
    advertising.cease()
    assert not advertised(lan)


def test_a_change_is_told_soon(lan: Lan) -> None:
    _, advertising = router(lan)
    host = guest(lan)
    lan.run(HOUR // 60)
    advertising.change(ndp.RouterAdvertisement(hop_limit=9, options=MESSAGE.options))
    lan.run(4 * SECOND)
    side = host.interfaces["eth0"].ipv6
    assert side is not None and side.hop_limit == 9


def test_it_is_silent_while_the_cable_is_out_and_begins_anew(lan: Lan) -> None:
    gate, advertising = router(lan)
    lan.run(60 * SECOND)
    port = gate.interfaces["eth0"].port
    port.set_carrier(False)
    sent = advertising.sent
    lan.run(2 * HOUR)
    assert advertising.sent == sent
    port.set_carrier(True)
    lan.run(60 * SECOND)
    assert advertising.sent == sent + INITIAL


def test_who_is_no_router_does_not_answer(lan: Lan) -> None:
    lan.host(1, None).interfaces["eth0"].enable_ipv6().join(ipv6.ALL_ROUTERS)
    guest(lan)
    lan.run(30 * SECOND)
    assert not advertised(lan)


@pytest.mark.parametrize("mac", [None, bytes(6), b"\xff" * 6, bytes.fromhex("525400000009")])
def test_a_solicitation_from_nobody_or_a_group_leaves_no_trace(lan: Lan, mac: bytes | None) -> None:
    gate, _ = router(lan)
    lan.run(60 * SECOND)
    side = gate.interfaces["eth0"].ipv6
    assert side is not None
    for source in (ipv6.ANY, IPv6Address("fe80::9").packed):
        octets = ndp.encode(ndp.RouterSolicitation(ndp.Options(source_mac=mac))).encode(source, ipv6.ALL_ROUTERS)
        head = ipv6.build(source, ipv6.ALL_ROUTERS, 58, len(octets), hop_limit=255)
        lan.inject(b"\x33\x33\0\0\0\2" + bytes.fromhex("525400000009") + b"\x86\xdd" + head + octets)
    known = IPv6Address("fe80::9").packed in side.neighbors.entries
    assert known == (mac is not None and not mac[0] & 1 and mac != bytes(6)) and ipv6.ANY not in side.neighbors.entries
