"""Bonds: the states of links, which member is active, announcements, ARP monitoring; then whole hosts on two hubs."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from itertools import product

import pytest

from tests.unit.stack.conftest import Hub, Lan
from vnet.errors import UsageError
from vnet.ports import NO_OFFLOAD
from vnet.stack.bond import (
    IMPOSSIBLE,
    TRANSITIONS,
    Activate,
    Announce,
    Bond,
    BondConfig,
    Effect,
    Event,
    LinkState,
    Probe,
    Reselect,
    Validate,
)
from vnet.stack.host import Host
from vnet.units import MILLISECOND, SECOND
from vnet.wire import arp, vlan

MAC, PEER = bytes.fromhex("5254000000b0"), bytes.fromhex("525400000009")
MS = MILLISECOND


class Driver:
    """Runs a bond by itself, and keeps what it says with the milliseconds at which it says it."""

    def __init__(self, count: int = 2, speeds: tuple[int | None, ...] = (), **options: object) -> None:
        self.bond = Bond(BondConfig(**options), speeds or (None,) * count)  # type: ignore[arg-type]
        self.now = 0
        self.said: list[tuple[int, Effect]] = []
        for index in range(count):
            self.carrier(index, True)
        self.start = self.take()

    def carrier(self, index: int, up: bool) -> None:
        self.note(self.bond.carrier(index, up, self.now))

    def note(self, effects: list[Effect]) -> None:
        self.said += [(self.now // MS, effect) for effect in effects]

    def run(self, milliseconds: int) -> list[tuple[int, Effect]]:
        end = self.now + milliseconds * MS
        while (due := self.bond.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.note(self.bond.expire(self.now))
        self.now = end
        return self.take()

    def take(self) -> list[tuple[int, Effect]]:
        said, self.said = self.said, []
        return said


def test_every_state_and_event_is_in_the_table_or_impossible() -> None:
    assert TRANSITIONS.keys() | IMPOSSIBLE == set(product(LinkState, Event))
    assert not TRANSITIONS.keys() & IMPOSSIBLE


def test_the_first_with_a_cable_is_active_and_nothing_is_due_while_all_is_well() -> None:
    driver = Driver()
    assert driver.start == [(0, Activate(0))], "the first one is not announced"
    assert driver.bond.next_deadline() is None, "an idle bond keeps no timer"


def test_a_failure_is_noticed_at_the_next_look() -> None:
    driver = Driver()
    driver.run(130)
    driver.carrier(0, False)
    assert driver.bond.active == 0, "not before somebody looks"
    assert driver.run(1000) == [(200, Activate(1)), (200, Announce())]
    driver.carrier(0, True)
    assert driver.run(1000) == [], "without a primary the active one stays"
    assert driver.bond.states == (LinkState.UP, LinkState.UP)


def test_a_carrier_that_returns_before_the_look_was_never_gone() -> None:
    driver = Driver()
    driver.run(110)
    driver.carrier(0, False)
    driver.run(50)
    driver.carrier(0, True)
    assert driver.run(1000) == []


def test_without_any_carrier_none_is_active_and_the_first_that_returns_is() -> None:
    driver = Driver(updelay=500 * MS)
    driver.carrier(0, False)
    driver.carrier(1, False)
    assert driver.run(150) == [(100, Activate(None))]
    driver.carrier(1, True)
    assert driver.run(1000) == [(200, Activate(1)), (200, Announce())], "updelay is for others than the only one"


def test_delays_are_whole_numbers_of_looks() -> None:
    driver = Driver(downdelay=250 * MS, updelay=350 * MS, primary=0)
    driver.carrier(0, False)
    assert driver.run(299) == [] and driver.bond.states[0] is LinkState.FAIL
    assert driver.run(1) == [(300, Activate(1)), (300, Announce())], "100 ms to notice, 200 of downdelay"
    driver.carrier(0, True)
    assert driver.run(399) == [] and driver.bond.states[0] is LinkState.BACK
    assert driver.run(1) == [(700, Activate(0)), (700, Announce())]


def test_a_short_failure_within_downdelay_changes_nothing() -> None:
    driver = Driver(downdelay=300 * MS)
    driver.carrier(0, False)
    driver.run(250)
    driver.carrier(0, True)
    assert driver.run(2000) == [] and driver.bond.states[0] is LinkState.UP


def test_a_member_within_updelay_is_taken_when_there_is_no_other() -> None:
    driver = Driver(updelay=1000 * MS)
    driver.carrier(1, False)
    driver.run(100)
    driver.carrier(1, True)
    driver.run(200)
    assert driver.bond.states == (LinkState.UP, LinkState.BACK)
    driver.carrier(0, False)
    assert driver.run(100) == [(400, Activate(1)), (400, Announce())]
    assert driver.bond.states == (LinkState.DOWN, LinkState.UP)
    assert driver.run(5000) == []


@pytest.mark.parametrize(("reselect", "speeds", "returns"), [
    ("always", (None, None), True),
    ("better", (10**9, 10**8), True),
    ("better", (None, 10**9), True),
    ("better", (10**9, 10**9), False),
    ("better", (10**8, 10**9), False),
    ("failure", (10**9, 10**8), False),
])  # fmt: skip
def test_when_the_primary_comes_back(reselect: Reselect, speeds: tuple[int | None, ...], returns: bool) -> None:
    driver = Driver(primary=0, primary_reselect=reselect, speeds=speeds)
    driver.carrier(0, False)
    assert driver.run(100)[0] == (100, Activate(1))
    driver.carrier(0, True)
    assert driver.run(1000) == ([(200, Activate(0)), (200, Announce())] if returns else [])
    driver.carrier(1, False)
    driver.run(200)
    assert driver.bond.active == 0, "it is up, and the other is not"


def test_a_primary_is_active_from_the_start() -> None:
    for reselect in ("always", "better", "failure"):
        assert Driver(3, primary=2, primary_reselect=reselect).bond.active == 2


def test_announcements_are_repeated_at_each_look_and_end_with_the_next_failure() -> None:
    driver = Driver(3, num_grat_arp=3)
    driver.carrier(0, False)
    assert driver.run(1000) == [(100, Activate(1)), (100, Announce()), (200, Announce()), (300, Announce())]
    driver.carrier(1, False)
    driver.run(150)
    driver.carrier(2, False)
    assert driver.run(1000) == [(1200, Activate(None))]
    assert Driver(num_grat_arp=0).start == [(0, Activate(0))]
    silent = Driver(num_grat_arp=0)
    silent.carrier(0, False)
    assert silent.run(1000) == [(100, Activate(1))]


def arp_driver(count: int = 2, **options: object) -> Driver:
    return Driver(count, miimon=0, arp_interval=100 * MS, arp_targets=(b"\n\0\0\x09",), **options)


def listen(driver: Driver, milliseconds: int, *heard: int) -> list[tuple[int, Effect]]:
    """Let time pass with frames heard at members each 50 ms; return what is not a probe of the active member."""
    said = []
    for _ in range(milliseconds // 50):
        said += driver.run(50)
        for index in heard:
            driver.bond.heard(index, driver.now)
    return [(at, effect) for at, effect in said if effect != Probe(driver.bond.active or 0) or driver.bond.active is None]


def test_arp_monitoring_asks_by_the_active_member() -> None:
    driver = arp_driver()
    for index in (0, 1):
        driver.bond.heard(index, 0)
    assert driver.run(0) == [(0, Probe(0))]
    assert driver.run(100) == [(100, Probe(0))]
    assert listen(driver, 3000, 0, 1) == []


def test_a_member_that_hears_nothing_for_two_intervals_is_down() -> None:
    driver = arp_driver()
    listen(driver, 1000, 0, 1)
    changed = listen(driver, 1000, 1)
    activated = [(at, effect) for at, effect in changed if isinstance(effect, Activate)]
    assert activated == [(1300, Activate(1))] and (1300, Announce()) in changed
    assert driver.bond.states == (LinkState.DOWN, LinkState.UP)
    assert listen(driver, 1000, 0, 1) == [] and driver.bond.states[0] is LinkState.UP


def test_a_backup_gets_an_interval_more_and_no_carrier_is_looked_at() -> None:
    driver = arp_driver()
    listen(driver, 1000, 0, 1)
    driver.carrier(1, False)
    listen(driver, 300, 0)
    assert driver.bond.states[1] is LinkState.UP
    listen(driver, 200, 0)
    assert driver.bond.states[1] is LinkState.DOWN


def test_while_none_is_active_members_ask_in_turn_until_one_is_answered() -> None:
    driver = arp_driver(3)
    listen(driver, 1000, 0, 1, 2)
    driver.carrier(1, False)
    said = listen(driver, 1000)
    assert any(effect == Activate(None) for _, effect in said)
    probes = [effect.member for _, effect in said if isinstance(effect, Probe)]
    assert probes[-4:] in ([0, 2, 0, 2], [2, 0, 2, 0]), "those with a carrier, one after the other"
    assert not driver.bond.is_in_use(1) and driver.bond.is_in_use(driver.bond.candidate or 0)
    said = listen(driver, 300, 2)
    assert driver.bond.active == 2 and driver.bond.candidate is None
    assert [effect for _, effect in said if not isinstance(effect, Probe)] == [Activate(2), Announce()]


class Bonded:
    """A bonded host whose NICs are on two hubs, and a peer on a third place that both reach (or not)."""

    def __init__(self, lan: Lan, **options: object) -> None:
        self.lan = lan
        self.hubs = [Hub(lan.timeline), Hub(lan.timeline)]
        self.host = Host(
            "h1", lan.timeline, lambda purpose: lan.streams.stream("h1", purpose),
            lambda kind, **fields: lan.events.append(("h1", kind, fields)),
        )  # fmt: skip
        self.bond = self.host.add_bond("bond0", MAC, {"eth0": None, "eth1": None}, BondConfig(**options))  # type: ignore[arg-type]
        self.bond.add_address(IPv4Interface("10.0.0.1/24"))
        for hub, port in zip(self.hubs, self.host.nics.values(), strict=True):
            hub.plug(port)

    @property
    def ports(self) -> list:
        return list(self.host.nics.values())


def test_names_and_numbers_of_members_are_checked(lan: Lan) -> None:
    host = Bonded(lan).host
    assert list(host.interfaces) == ["bond0"] and list(host.nics) == ["eth0", "eth1"]
    assert [port.name for port in host.nics.values()] == ["h1:eth0", "h1:eth1"]
    for members in ({"eth2": None}, {f"e{number}": None for number in range(17)}):
        with pytest.raises(UsageError, match="2 to 16"):
            host.add_bond("bond1", MAC, members, BondConfig())
    with pytest.raises(UsageError, match="eth1 already"):
        host.add_bond("bond1", MAC, {"eth1": None, "eth2": None}, BondConfig())
    with pytest.raises(UsageError, match="eth0 already"):
        host.add_interface("eth0", MAC)


def test_one_member_carries_everything_and_the_other_is_deaf(lan: Lan) -> None:
    bonded = Bonded(lan)
    bonded.host.ping(bytes((10, 0, 0, 9)), on_result=lambda result: None)
    lan.run(10 * MS)
    assert len(bonded.hubs[0].take()) == 1 and bonded.hubs[1].take() == []
    question = arp.request_frame(PEER, bytes((10, 0, 0, 9)), bytes((10, 0, 0, 1)))
    for hub, answers in zip(bonded.hubs, (2, 0), strict=True):  # the reply, and the echo request that waited
        hub.send(None, question)
        lan.run(10 * MS)
        assert len(hub.take()) - 1 == answers
    assert bonded.bond.ignored == 1


def test_a_failover_announces_the_addresses_of_the_bond_and_its_vlans(lan: Lan) -> None:
    bonded = Bonded(lan, num_grat_arp=2)
    sub = bonded.host.add_vlan(bonded.bond, 16)
    sub.add_address(IPv4Interface("10.16.0.1/24"))
    side = bonded.bond.enable_ipv6()
    side.add_address(IPv6Interface("2001:db8::1/64"))
    bonded.host.groups.join(bonded.bond, bytes((239, 1, 2, 3)))
    lan.run(5 * SECOND + 10 * MS)
    assert sub.up and side.settled
    for hub in bonded.hubs:
        hub.take()
    news: list[bool] = []
    bonded.bond.on_link = news.append
    bonded.ports[0].set_carrier(False)
    lan.run(50 * MS)
    assert bonded.hubs[1].take() == []
    lan.run(50 * MS)
    frames = bonded.hubs[1].take()
    announced = [frame for frame in frames if frame[12:14] == b"\x08\x06"]
    own = bytes((10, 0, 0, 1))
    assert announced == [arp.request_frame(MAC, own, own)]
    own = bytes((10, 16, 0, 1))
    assert vlan.push(arp.request_frame(MAC, own, own), 16) in frames
    advertised = [frame for frame in frames if frame[12:14] == b"\x86\xdd" and frame[54] == 136]
    assert len(advertised) == 2, "the global and the link-local address"
    assert all(frame[:6] == bytes.fromhex("333300000001") and frame[58] & 0xE0 == 0x20 for frame in advertised)
    groups = {frame[:6].hex() for frame in frames}
    assert "01005e000016" in groups and "333300000016" in groups, "IGMPv3 and MLDv2 reports"
    assert {frame[6:12] for frame in frames} == {MAC}
    lan.run(100 * MS)
    again = [frame for frame in bonded.hubs[1].take() if frame[12:14] == b"\x08\x06"]
    assert again == announced
    lan.run(SECOND)
    assert not [frame for frame in bonded.hubs[1].take() if frame[12:14] == b"\x08\x06"]
    assert news == [], "the bond has not lost its carrier"
    assert [(kind, fields) for _, kind, fields in lan.events if kind in ("link", "bond")] == [
        ("link", {"interface": "eth0", "up": False}), ("bond", {"interface": "bond0", "active": "eth1"}),
    ]  # fmt: skip


def test_the_bond_loses_its_carrier_with_the_last_member(lan: Lan) -> None:
    bonded = Bonded(lan)
    sub = bonded.host.add_vlan(bonded.bond, 16)
    for port in bonded.ports:
        port.set_carrier(False)
    assert bonded.bond.up
    lan.run(100 * MS)
    assert not bonded.bond.up and not sub.up and bonded.bond.nics is not None and bonded.bond.nics.active is None
    bonded.ports[1].set_carrier(True)
    lan.run(100 * MS)
    assert bonded.bond.up and sub.up and bonded.bond.nics.active == "eth1"
    bonded.bond.send(MAC + PEER + b"\x88\xb5")
    assert bonded.hubs[1].take()


def test_a_hook_on_the_active_members_port_sees_what_is_sent(lan: Lan) -> None:
    bonded, seen = Bonded(lan), []
    for index in (0, 1):
        bonded.ports[index].hook(tx=lambda send, i=index: lambda frame, offload: (seen.append(i), send(frame, offload))[1])
    bonded.bond.port.send(PEER + MAC + b"\x88\xb5", NO_OFFLOAD)
    assert seen == [0]
    bonded.ports[0].set_carrier(False)
    lan.run(100 * MS)
    assert seen == [0, 1], "the announcement"
    bonded.ports[1].hook()
    bonded.bond.port.send(PEER + MAC + b"\x88\xb5", NO_OFFLOAD)
    assert seen == [0, 1] and len(bonded.hubs[1].take()) == 2


@pytest.mark.parametrize(("validate", "switches"), [("none", False), ("active", True), ("all", True), ("backup", False)])
def test_foreign_frames_keep_a_member_up_unless_arp_is_validated(lan: Lan, validate: Validate, switches: bool) -> None:
    """The target is beyond the switch, and out of reach by eth0; somebody else on its switch talks all the time."""
    target = bytes((10, 0, 0, 9))
    bonded = Bonded(lan, miimon=0, arp_interval=100 * MS, arp_targets=(target,), arp_validate=validate)
    own = bytes((10, 0, 0, 1))
    for _ in range(20):
        bonded.hubs[0].send(None, arp.request_frame(PEER, bytes((10, 0, 0, 7)), bytes((10, 0, 0, 8))))
        bonded.hubs[1].send(None, arp.request_frame(MAC, own, target))  # what would come from eth0 through the switches
        bonded.hubs[1].send(None, arp.reply_frame(PEER, target, MAC, own))
        lan.run(100 * MS)
    assert bonded.bond.nics is not None
    assert bonded.bond.nics.active == ("eth1" if switches else "eth0")


def test_arp_requests_of_the_monitor_go_where_the_target_is(lan: Lan) -> None:
    bonded = Bonded(lan, miimon=0, arp_interval=100 * MS, arp_targets=(bytes((10, 0, 0, 9)), bytes((10, 16, 0, 9))))
    bonded.host.add_vlan(bonded.bond, 16).add_address(IPv4Interface("10.16.0.1/24"))
    lan.run(10 * MS)
    untagged = arp.request_frame(MAC, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 9)))
    tagged = vlan.push(arp.request_frame(MAC, bytes((10, 16, 0, 1)), bytes((10, 16, 0, 9))), 16)
    assert bonded.hubs[0].take() == [untagged, tagged]
    bonded.bond.remove_address(IPv4Interface("10.0.0.1/24"))
    bonded.host.routes.add(IPv4Network("0.0.0.0/0"), bytes((10, 16, 0, 254)), bonded.host.interfaces["bond0.16"])
    lan.run(100 * MS)
    by_the_gateway = vlan.push(arp.request_frame(MAC, bytes((10, 16, 0, 1)), bytes((10, 0, 0, 9))), 16)
    assert bonded.hubs[0].take() == [by_the_gateway, tagged], "by the interface of its route, as in Linux"


def test_any_octets_at_a_monitored_member_are_survived(lan: Lan) -> None:
    bonded = Bonded(lan, miimon=0, arp_interval=100 * MS, arp_targets=(bytes((10, 0, 0, 9)),), arp_validate="all")
    stream = lan.streams.stream("test", "octets")
    for length in range(80):
        for head in (b"", MAC + PEER + b"\x08\x06", MAC + PEER + b"\x81\x00\x00\x10\x08\x06"):
            for hub in bonded.hubs:
                hub.send(None, head + stream.octets(length))
    lan.run(SECOND)
    assert bonded.bond.nics is not None and bonded.bond.nics.active is None, "none of that was an answer"
