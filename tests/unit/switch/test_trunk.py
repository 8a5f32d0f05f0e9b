"""Two switches joined by a trunk over a link: the octets on the trunk, their instants, and what stays apart."""

from __future__ import annotations

from functools import partial

import pytest
from switch_bed import BROADCAST, frame, mac, tag

from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.links.link import Link
from vnet.ports import NO_OFFLOAD, Handler, Port, connect
from vnet.switch.switch import Switch
from vnet.switch.vlan import VlanConfig, access, trunk
from vnet.units import MILLISECOND, SECOND

MBIT = 10**6


class Pair:
    """west and east, each with stations in VLANs 10 and 20; port 1 of both is the trunk."""

    def __init__(self, west: VlanConfig | None = None, east: VlanConfig | None = None, **options: object) -> None:
        self.timeline = Timeline()
        self.west, self.east = Switch("west", self.timeline), Switch("east", self.timeline)
        a = self.west.add_port(west or trunk()).port
        b = self.east.add_port(east or trunk()).port
        streams = RandomStreams(5)
        self.link = Link(self.timeline, a, b, partial(streams.stream, "trunk"), **options)  # type: ignore[arg-type]
        self.on_trunk: list[bytes] = []
        a.hook(rx=self.spy, tx=self.spy)
        self.heard: list[tuple[str, int, bytes]] = []
        self.ends: dict[str, Port] = {}
        for switch in (self.west, self.east):
            for vid in (10, 20):
                self.plug(switch, access(vid), f"{switch.name}{vid}")

    def plug(self, switch: Switch, vlan: VlanConfig, name: str) -> None:
        end = Port(name, lambda frame, offload: self.heard.append((name, self.timeline.now, frame)))
        connect(end, switch.add_port(vlan).port)
        self.ends[name] = end

    def spy(self, handler: Handler) -> Handler:
        def watch(frame: bytes, offload: bytes) -> None:
            self.on_trunk.append(frame)
            handler(frame, offload)

        return watch

    def say(self, name: str, octets: bytes) -> list[tuple[str, int, bytes]]:
        """Send a frame from *name*; tell who heard what and when."""
        self.heard.clear()
        self.on_trunk.clear()
        self.ends[name].send(octets, NO_OFFLOAD)
        self.timeline.run_until(self.timeline.now + SECOND)
        return list(self.heard)


def test_a_frame_crosses_tagged_and_arrives_as_it_was() -> None:
    pair = Pair(latency=MILLISECOND, rate=100 * MBIT)
    plain = frame(BROADCAST, mac(1), rest=b"\x08\x06" + bytes(46))
    assert pair.say("west10", plain) == [("east10", (64 + 24) * 80 + MILLISECOND, plain)]
    assert pair.on_trunk == [BROADCAST + mac(1) + b"\x81\x00\x00\x0a\x08\x06" + bytes(46)]


def test_priority_crosses_the_trunk() -> None:
    pair = Pair()
    pair.plug(pair.east, trunk(), "tap")
    heard = pair.say("west20", frame(BROADCAST, mac(1), tag(0, 5, 1)))
    assert pair.on_trunk == [frame(BROADCAST, mac(1), tag(20, 5, 1))]
    assert sorted((name, octets) for name, _, octets in heard) == [
        ("east20", frame(BROADCAST, mac(1))),
        ("tap", frame(BROADCAST, mac(1), tag(20, 5, 1))),
    ]


def test_the_native_vlan_crosses_untagged() -> None:
    pair = Pair(trunk(native=10), trunk(native=10))
    plain = frame(BROADCAST, mac(1))
    assert [name for name, _, _ in pair.say("west10", plain)] == ["east10"]
    assert pair.on_trunk == [plain]
    pair.say("west20", plain)
    assert pair.on_trunk == [frame(BROADCAST, mac(1), tag(20))]


def test_native_vlans_that_differ_join_two_vlans_as_they_do_on_real_switches() -> None:
    pair = Pair(trunk(native=10), trunk(native=20))
    assert [name for name, _, _ in pair.say("west10", frame(BROADCAST, mac(1)))] == ["east20"]


def test_a_trunk_carries_only_its_vlans() -> None:
    pair = Pair(trunk(frozenset((10,))), trunk(frozenset((20,))))
    assert pair.say("west20", frame(BROADCAST, mac(1))) == []
    assert pair.on_trunk == []
    assert pair.say("west10", frame(BROADCAST, mac(2))) == []
    assert pair.on_trunk == [frame(BROADCAST, mac(2), tag(10))]
    pair.east.fold()
    assert pair.east.ports[1].drops == {"ingress-filter": 1}


def test_no_frame_leaks_between_vlans_even_with_one_address_in_both() -> None:
    pair = Pair()
    pair.say("east10", frame(BROADCAST, mac(7)))
    pair.say("east20", frame(BROADCAST, mac(7)))
    for vid in (10, 20):
        heard = pair.say(f"west{vid}", frame(mac(7), mac(vid)))
        assert [name for name, _, _ in heard] == [f"east{vid}"]
        assert pair.on_trunk == [frame(mac(7), mac(vid), tag(vid))]


def test_learned_stations_keep_frames_off_the_trunk() -> None:
    pair = Pair()
    pair.plug(pair.west, access(10), "west10b")
    pair.say("west10b", frame(BROADCAST, mac(2)))
    assert [name for name, _, _ in pair.say("west10", frame(mac(2), mac(1)))] == ["west10b"]
    assert pair.on_trunk == []


def test_a_station_moves_from_one_switch_to_the_other() -> None:
    pair = Pair()
    pair.say("west10", frame(BROADCAST, mac(1)))
    assert [name for name, _, _ in pair.say("east10", frame(mac(1), mac(2)))] == ["west10"]
    pair.plug(pair.east, access(10), "east10b")
    pair.say("east10b", frame(BROADCAST, mac(1)))
    assert [name for name, _, _ in pair.say("east10", frame(mac(1), mac(2)))] == ["east10b"]
    assert pair.on_trunk == []
    pair.plug(pair.west, access(10), "west10b")
    assert [name for name, _, _ in pair.say("west10b", frame(mac(1), mac(3)))] == ["east10b"]


def test_a_trunk_that_is_cut_and_mended() -> None:
    pair = Pair(latency=MILLISECOND)
    pair.say("east10", frame(BROADCAST, mac(2)))
    pair.link.up = False
    assert pair.say("west10", frame(mac(2), mac(1))) == []
    assert pair.on_trunk == [], "a switch sends nothing to a port without carrier"
    assert pair.west.fdb.lookup(10, mac(2)) is None
    pair.link.up = True
    assert [name for name, _, _ in pair.say("west10", frame(mac(2), mac(1)))] == ["east10"]


@pytest.mark.parametrize("tags", [(), (tag(20),), (tag(10, 7),), (tag(0, 1),)])
def test_an_inner_tag_leads_nowhere(tags: tuple[bytes, ...]) -> None:
    pair = Pair(trunk(native=1), trunk(native=1))
    heard = pair.say("west10", frame(BROADCAST, mac(1), *tags, tag(20)))
    assert [(name, octets) for name, _, octets in heard] == (
        [("east10", frame(BROADCAST, mac(1), tag(20)))] if tags == (tag(0, 1),) else []
    )


def test_in_the_native_vlan_an_inner_tag_becomes_the_outer_one() -> None:
    """The known weakness of untagged trunks, which the standard has too: keep stations out of the native VLAN."""
    pair = Pair(trunk(native=10), trunk(native=10))
    heard = pair.say("west10", frame(BROADCAST, mac(1), tag(0), tag(20)))
    assert pair.on_trunk == [frame(BROADCAST, mac(1), tag(20))]
    assert [name for name, _, _ in heard] == ["east20"]


def test_frames_keep_their_order_and_their_spacing_over_a_slow_trunk() -> None:
    pair = Pair(rate=8 * MBIT, latency=5)
    for number in range(10):
        pair.ends["west10"].send(frame(BROADCAST, mac(1), rest=b"\x08\x00" + bytes((number,)) + bytes(45)), NO_OFFLOAD)
    pair.timeline.run_until(SECOND)
    assert [(when, octets[14]) for _, when, octets in pair.heard] == [(88_000 * (n + 1) + 5, n) for n in range(10)]


def test_counters_of_both_switches_agree_with_the_trunk() -> None:
    pair = Pair(loss=0.3)
    for number in range(200):
        pair.say("west10", frame(BROADCAST, mac(number)))
    pair.west.fold()
    pair.east.fold()
    lost = pair.link.forward.dropped_loss
    assert 30 < lost < 90
    assert pair.west.ports[1].tx_frames == 200
    assert pair.east.ports[1].rx_frames == pair.link.forward.delivered == 200 - lost
    assert pair.east.ports[1].rx_octets == pair.link.forward.octets == (200 - lost) * 64
