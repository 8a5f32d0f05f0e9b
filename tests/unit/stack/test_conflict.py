"""Address conflict detection by RFC 5227."""

from __future__ import annotations

from ipaddress import IPv4Interface

from vnet.stack.conflict import (
    ANNOUNCE_WAIT,
    DEFEND_INTERVAL,
    MAX_CONFLICTS,
    PROBE_MAX,
    PROBE_MIN,
    PROBE_WAIT,
    RATE_LIMIT_INTERVAL,
)
from vnet.units import SECOND
from vnet.wire import arp

ONE, NINE = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 9))
MAC1, MAC3 = (bytes((0x52, 0x54, 0, 0, 0, n)) for n in (1, 3))


class Record:
    """ARP frames with their instants."""

    def __init__(self, lan):
        self.seen = []
        lan.hub.filter = lambda frame: self.seen.append((lan.timeline.now, arp.decode(frame))) or True


def test_a_free_address_takes_three_probes(lan):
    interface = lan.host(1, None).interfaces["eth0"]
    record, found = Record(lan), []
    interface.probe(NINE, found.append)
    lan.run(20 * SECOND)
    assert found == [False]
    instants = [instant for instant, packet in record.seen]
    assert all(packet == arp.Arp(arp.REQUEST, MAC1, bytes(4), bytes(6), NINE) for _, packet in record.seen)
    assert len(instants) == 3 and instants[0] <= PROBE_WAIT
    assert all(PROBE_MIN <= b - a <= PROBE_MAX for a, b in zip(instants, instants[1:], strict=False))
    assert interface.watched == {}


def test_done_comes_two_seconds_after_the_last_probe(lan):
    interface = lan.host(1, None).interfaces["eth0"]
    record, decided = Record(lan), []
    interface.probe(NINE, lambda taken: decided.append(lan.timeline.now))
    lan.run(20 * SECOND)
    assert decided[0] - record.seen[-1][0] == ANNOUNCE_WAIT


def test_an_address_in_use_is_found_out_at_once(lan):
    lan.host(1)
    interface = lan.host(2).interfaces["eth0"]
    found = []
    interface.probe(ONE, found.append)
    lan.run(PROBE_WAIT)
    assert found == [True]
    assert lan.events == [("h2", "address-taken", {"interface": "eth0", "address": "10.0.0.1", "by": "52:54:00:00:00:01"})]


def test_any_arp_from_the_address_is_a_conflict_while_probing(lan):
    interface = lan.host(1, None).interfaces["eth0"]
    found = []
    interface.probe(NINE, found.append)
    lan.inject(arp.request_frame(MAC3, NINE, bytes((10, 0, 0, 77))))
    assert found == [True]


def test_two_hosts_that_probe_for_one_address_both_give_way(lan):
    first, second = lan.host(1, None), lan.host(2, None)
    found = []
    first.interfaces["eth0"].probe(NINE, lambda taken: found.append(("h1", taken)))
    second.interfaces["eth0"].probe(NINE, lambda taken: found.append(("h2", taken)))
    lan.run(20 * SECOND)
    assert ("h1", True) in found or ("h2", True) in found
    assert [taken for _, taken in found].count(False) <= 1


def test_our_own_probe_that_comes_back_is_no_conflict(lan):
    interface = lan.host(1, None).interfaces["eth0"]
    found = []
    interface.probe(NINE, found.append)
    lan.inject(arp.request_frame(MAC1, bytes(4), NINE))
    lan.run(20 * SECOND)
    assert found == [False]


def test_a_cancelled_probe_says_nothing(lan):
    interface = lan.host(1, None).interfaces["eth0"]
    found = []
    interface.probe(NINE, found.append)
    lan.run(SECOND)
    interface.cancel_probe(NINE)
    lan.run(20 * SECOND)
    assert found == [] and interface.watched == {}


def test_after_ten_conflicts_a_probe_waits_a_minute(lan):
    lan.host(1)
    interface = lan.host(2, None).interfaces["eth0"]
    found = []
    for _ in range(MAX_CONFLICTS):
        interface.probe(ONE, found.append)
        lan.run(PROBE_WAIT)
    assert found == [True] * MAX_CONFLICTS
    interface.probe(ONE, found.append)
    lan.run(RATE_LIMIT_INTERVAL - 1)
    assert len(found) == MAX_CONFLICTS
    lan.run(PROBE_WAIT + 1)
    assert len(found) == MAX_CONFLICTS + 1


def test_announcement_is_sent_twice_two_seconds_apart(lan):
    interface = lan.host(1).interfaces["eth0"]
    record = Record(lan)
    interface.announce(ONE)
    lan.run(20 * SECOND)
    wanted = arp.Arp(arp.REQUEST, MAC1, ONE, bytes(6), ONE)
    assert record.seen == [(0, wanted), (2 * SECOND, wanted)]


def test_a_conflict_is_reported_and_the_address_defended_at_most_every_ten_seconds(lan):
    host = lan.host(1)
    told = []
    host.interfaces["eth0"].on_conflict = lambda address, mac: told.append((address, mac))
    rival = arp.request_frame(MAC3, ONE, bytes((10, 0, 0, 77)))  # somebody asks for a third party in our name
    defence = arp.request_frame(MAC1, ONE, ONE)
    assert lan.inject(rival) == [defence]
    assert lan.inject(rival) == []
    lan.run(DEFEND_INTERVAL)
    assert lan.inject(rival) == [defence]
    assert told == [(ONE, MAC3)] * 3
    assert lan.events[0] == (
        "h1",
        "address-conflict",
        {"interface": "eth0", "address": "10.0.0.1", "by": "52:54:00:00:00:03"},
    )
    assert ONE not in host.interfaces["eth0"].neighbors.entries


def test_claim_uses_a_free_address_and_leaves_a_taken_one(lan):
    lan.host(1)
    interface = lan.host(2, None).interfaces["eth0"]
    found = []
    interface.claim(IPv4Interface("10.0.0.1/24"), found.append)
    lan.run(10 * SECOND)
    assert found == [True] and interface.address is None
    interface.claim(IPv4Interface("10.0.0.9/24"), found.append)
    lan.run(10 * SECOND)
    assert found == [True, False] and interface.address == NINE
