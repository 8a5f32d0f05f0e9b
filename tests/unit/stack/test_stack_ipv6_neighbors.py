"""The IPv6 neighbors of emulated hosts."""

from __future__ import annotations

import pytest
from ipv6_lan import LINK2, ONE, ROUTER_MAC, STRANGER, TWO, discovery, ip, mac, pair, pings, side, texts

from vnet.stack.neighbor import State
from vnet.units import MINUTE, SECOND
from vnet.wire import ipv6, ndp


def test_ping_finds_the_neighbor_and_remembers_it(lan):
    one, two = pair(lan)
    result = pings(lan, one, TWO)
    assert result.ok and result.source == TWO and result.ttl == 64
    entry = side(one).neighbors.entries[TWO]
    assert entry.state is State.REACHABLE and entry.mac == mac(2)
    assert side(two).neighbors.entries[ONE].state is State.REACHABLE, "it was probed when it had been used for 5 s"
    said = texts(lan)
    assert said[0] == (
        "IPv6 2001:db8::1 > ff02::1:ff00:2, ICMPv6 neighbor solicitation, target 2001:db8::2, "
        "from 52:54:00:00:00:01, length 32"
    )
    assert said[1] == (
        "IPv6 2001:db8::2 > 2001:db8::1, ICMPv6 neighbor advertisement, target 2001:db8::2, solicited override, "
        "is-at 52:54:00:00:00:02, length 32"
    )
    assert pings(lan, one, LINK2).ok and pings(lan, one, ONE).ok, "link-local, and itself"
    assert pings(lan, one, ipv6.ALL_NODES).source == LINK2
    assert pings(lan, one, ipv6.LOOPBACK).source == ipv6.LOOPBACK


def test_a_neighbor_that_is_not_there(lan):
    one, _ = pair(lan)
    result = pings(lan, one, STRANGER)
    assert (result.ok, result.error, result.rtt) == (False, "address unreachable", 3 * SECOND)
    assert sum("target 2001:db8::63" in line for line in texts(lan)) == 3
    assert STRANGER not in side(one).neighbors.entries


def test_stale_entries_are_probed_by_unicast(lan):
    one, two = pair(lan)
    assert pings(lan, one, TWO).ok
    lan.run(MINUTE)
    entry = side(one).neighbors.entries[TWO]
    assert entry.state is State.STALE and entry.header is None
    lan.hub.take()
    assert pings(lan, one, TWO, seconds=4).ok
    assert entry.state is State.DELAY
    lan.run(6 * SECOND)
    assert entry.state is State.REACHABLE
    assert any("IPv6 2001:db8::1 > 2001:db8::2, ICMPv6 neighbor solicitation" in line for line in texts(lan))
    two.interfaces["eth0"].port.unplug()
    lan.run(2 * MINUTE)
    one.ping(TWO, on_result=lambda result: None)
    lan.run(10 * SECOND)
    assert entry.state is State.FAILED and TWO not in side(one).neighbors.entries


@pytest.mark.parametrize(
    ("solicited", "override", "state", "moved"),
    [
        (False, False, State.STALE, False),
        (True, False, State.STALE, False),
        (False, True, State.STALE, True),
        (True, True, State.REACHABLE, True),
    ],
)
def test_an_advertisement_with_another_mac(lan, solicited, override, state, moved):
    one, _ = pair(lan)
    assert pings(lan, one, TWO, seconds=4).ok
    entry = side(one).neighbors.entries[TWO]
    assert entry.state is State.REACHABLE
    message = ndp.NeighborAdvertisement(TWO, False, solicited, override, ndp.Options(target_mac=ROUTER_MAC))
    lan.inject(discovery(message, TWO, ONE if solicited else ipv6.ALL_NODES))
    assert entry.state is state and entry.mac == (ROUTER_MAC if moved else mac(2))
    assert any(kind == "neighbor-moved" for _, kind, _ in lan.events) is moved


def test_an_advertisement_that_nobody_asked_for_makes_no_entry(lan):
    one, _ = pair(lan)
    message = ndp.NeighborAdvertisement(STRANGER, False, False, True, ndp.Options(target_mac=ROUTER_MAC))
    lan.inject(discovery(message, STRANGER, ipv6.ALL_NODES))
    assert STRANGER not in side(one).neighbors.entries
    question = ndp.NeighborSolicitation(ONE, ndp.Options(source_mac=ROUTER_MAC))
    lan.inject(discovery(question, STRANGER, ipv6.solicited_node(ONE)))
    assert side(one).neighbors.entries[STRANGER].state is State.STALE
    lan.inject(discovery(question, STRANGER, ipv6.solicited_node(ONE), hop_limit=254))
    assert one.drops == {"ndp-malformed": 1}


def test_the_cache_and_what_waits_are_bounded(lan, monkeypatch):
    monkeypatch.setattr("vnet.stack.neighbor.MAX_ENTRIES", 8)
    monkeypatch.setattr("vnet.stack.neighbor.MAX_QUEUED_OCTETS", 5000)
    one, _ = pair(lan)
    socket = one.udp_bind(both=True, on_datagram=lambda payload, source: None)
    for number in range(100):
        assert socket.send_to(bytes(1000), (ip(f"2001:db8::1:{number}"), 9)) is None
    cache = side(one).neighbors
    assert len(cache.entries) == 8 and 0 < cache.queued_octets <= 5000
    lan.run(5 * SECOND)
    assert not cache.entries and cache.queued_octets == 0
