"""The IPv6 addresses of emulated hosts: duplicate address detection, and which one is talked from."""

from __future__ import annotations

from ipaddress import IPv6Interface

import pytest
from ipv6_lan import (
    LINK1,
    ONE,
    ROUTER_MAC,
    STRANGER,
    TWO,
    datagram,
    discovery,
    host6,
    ip,
    mac,
    pair,
    pings,
    side,
    texts,
    to_us,
)

from vnet.errors import UsageError
from vnet.stack.ipv6.addresses import AddressState, Origin, OwnAddress, choose_source
from vnet.units import SECOND
from vnet.wire import ipv6, ndp


def test_addresses_are_used_when_nobody_objects(lan):
    host = host6(lan, 1)
    assert pings(lan, host, TWO, seconds=1).error == "no address"
    lan.run(2 * SECOND)
    assert [str(each) for each in side(host).usable_addresses()] == ["2001:db8::1/64", "fe80::5054:ff:fe00:1/64"]
    assert set(host.ipv6.local) == {ONE, LINK1} and side(host).settled
    said = texts(lan)
    assert "IPv6 :: > ff02::1:ff00:1, ICMPv6 neighbor solicitation, target 2001:db8::1, length 24" in said
    assert sum("neighbor solicitation, target" in line for line in said) == 2
    assert any("listener report v2, to-exclude ff02::1:ff00:1" in line for line in said)


def test_a_taken_address_is_not_used(lan):
    first = host6(lan, 1)
    lan.run(3 * SECOND)
    second = host6(lan, 2, "2001:db8::1/64", "2001:db8::2/64")
    conflicts = []
    second.interfaces["eth0"].on_conflict = lambda address, by: conflicts.append((address, by))
    lan.run(3 * SECOND)
    assert side(second).find(ONE).state is AddressState.DUPLICATE and side(first).find(ONE).state is AddressState.PREFERRED
    assert side(second).find(TWO).usable and ONE not in second.ipv6.local
    assert conflicts == [(ONE, mac(1))]
    taken = {"interface": "eth0", "address": "2001:db8::1", "by": "52:54:00:00:00:01"}
    assert ("h2", "address-taken", taken) in lan.events
    assert pings(lan, second, ONE).source == ONE, "whose it is can be reached"


def test_two_that_ask_at_once_do_not_both_get_it(lan):
    one, two = host6(lan, 1, "2001:db8::9/64"), host6(lan, 2, "2001:db8::9/64")
    lan.run(3 * SECOND)
    states = [side(each).find(ip("2001:db8::9")).state for each in (one, two)]
    assert states.count(AddressState.PREFERRED) == 1 and states.count(AddressState.DUPLICATE) == 1


def test_somebody_else_who_asks_for_what_we_ask_for(lan):
    host = host6(lan, 1)
    while not any("target 2001:db8::1" in line for line in texts(lan)):
        lan.run(SECOND // 10)
    lan.inject(discovery(ndp.NeighborSolicitation(ONE), STRANGER, ipv6.solicited_node(ONE)))
    assert side(host).find(ONE).state is AddressState.TENTATIVE, "who has an address already asks for its neighbor"
    lan.inject(discovery(ndp.NeighborSolicitation(ONE), ipv6.ANY, ipv6.solicited_node(ONE)))
    assert side(host).find(ONE).state is AddressState.DUPLICATE


def test_our_own_question_that_comes_back_is_no_conflict(lan):
    host = host6(lan, 1)
    port = host.interfaces["eth0"].port
    send = port.send

    def echo(frame, offload):
        send(frame, offload)
        lan.timeline.soon(port.receive, frame, offload)

    port.send = echo
    lan.run(3 * SECOND)
    assert side(host).find(ONE).usable


def test_somebody_who_claims_our_address_later_is_reported(lan):
    one, _ = pair(lan)
    claim = ndp.NeighborAdvertisement(ONE, override=True, options=ndp.Options(target_mac=ROUTER_MAC))
    lan.inject(discovery(claim, ONE, ipv6.ALL_NODES))
    assert side(one).find(ONE).usable
    assert [fields["by"] for _, kind, fields in lan.events if kind == "address-conflict"] == ["52:54:00:00:00:63"]


def test_addresses_are_asked_for_again_after_the_cable_was_out(lan):
    one, _ = pair(lan)
    port = one.interfaces["eth0"].port
    port.set_carrier(False)
    assert side(one).settled
    port.set_carrier(True)
    assert not side(one).settled and ONE not in one.ipv6.local
    lan.run(3 * SECOND)
    assert side(one).find(ONE).usable
    assert any("to-exclude ff02::1:ff00:1" in line for line in texts(lan)), "a switch that snoops has to learn again"


def test_an_address_that_is_removed(lan):
    one, two = pair(lan)
    side(one).remove_address(ONE)
    assert one.ipv6.routes.lookup(TWO) is None and ONE not in one.ipv6.local
    assert any("to-include ff02::1:ff00:1" in line for line in texts(lan)) is False, (
        "the link-local address has the group too"
    )
    assert pings(lan, two, ONE).error == "address unreachable"


def test_ipv6_needs_1280_octets(lan):
    host = lan.host(1, mtu=1279)
    with pytest.raises(UsageError, match="1280"):
        host.interfaces["eth0"].enable_ipv6()


def test_a_host_without_ipv6_counts_and_forgets(lan):
    host = lan.host(1)
    lan.inject(to_us(datagram(STRANGER, ONE, b"x")))
    assert host.drops == {"ipv6": 1} and host.ipv6 is None
    results = []
    host.ping(TWO, on_result=results.append)
    lan.run()
    assert results[0].error == "no route"


@pytest.mark.parametrize(
    ("destination", "source"),
    [
        ("fe80::9", "fe80::1"),
        ("ff02::1", "fe80::1"),
        ("2001:db8:1::9", "2001:db8:1::1"),
        ("2001:db8:2::9", "2001:db8::1"),
        ("2001:db8:f::9", "2001:db8::1"),
        ("fd00::9", "fd00::1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_source_selection(destination, source):
    own = []
    for text in ("fe80::1/64", "2001:db8:f::1/64", "fd00::1/64", "2001:db8::1/64", "2001:db8:1::1/64"):
        interface = IPv6Interface(text)
        made = OwnAddress(interface.ip.packed, interface.network.prefixlen, Origin.STATIC)
        made.state = AddressState.DEPRECATED if text.startswith("2001:db8:f") else AddressState.PREFERRED
        own.append(made)
    tentative = OwnAddress(ip("2001:db8:2::1"), 64, Origin.STATIC)
    assert choose_source([tentative, *own], ip(destination)) == ip(source)
    assert choose_source([tentative], ip(destination)) is None
