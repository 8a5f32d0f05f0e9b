"""Where the switch believes stations to be: moves, ageing, static entries, flushes, ports that go and come back."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from switch_bed import BROADCAST, Bed, frame, mac, tag

from vnet.errors import UsageError
from vnet.ports import REPORT_BURST, REPORT_WINDOW
from vnet.switch.port import MAX_FLOWS
from vnet.switch.vlan import VlanConfig, access, trunk
from vnet.units import SECOND

AGEING = 300 * SECOND


def three() -> Bed:
    return Bed(access(1), access(1), access(1))


def reached(bed: Bed, number: int, station: int, source: int = 99) -> list[int]:
    """Tell which ports a frame to *station* leaves by."""
    return list(bed.send(number, frame(mac(station), mac(source))))


def test_unknown_stations_are_flooded_until_they_speak() -> None:
    bed = three()
    assert reached(bed, 1, 2) == [2, 3]
    assert reached(bed, 1, 2) == [2, 3]
    bed.learn(2, 2)
    assert reached(bed, 1, 2) == [2]


def test_a_station_that_moves_is_found_at_once_and_reported() -> None:
    bed = three()
    bed.learn(2, 2)
    assert reached(bed, 1, 2) == [2]
    bed.learn(3, 2)
    assert reached(bed, 1, 2) == [3]
    assert [event for event in bed.events if event[0] == "mac-moved"] == [
        ("mac-moved", {"vid": 1, "mac": "52:54:00:00:00:02", "old": 2, "new": 3})
    ]
    assert reached(bed, 3, 2) == []
    assert bed.drops(3) == {"same-port": 1}


def test_a_station_that_flaps_does_not_fill_the_event_log() -> None:
    bed = three()

    def moves() -> list[dict[str, object]]:
        return [fields for kind, fields in bed.events if kind == "mac-moved"]

    for _ in range(100):
        bed.learn(2, 2)
        bed.learn(3, 2)
    assert len(moves()) == REPORT_BURST
    bed.advance(REPORT_WINDOW)
    bed.learn(2, 2)
    assert len(moves()) == REPORT_BURST + 1
    assert moves()[-1] == {"vid": 1, "mac": "52:54:00:00:00:02", "old": 3, "new": 2, "not_reported": 199 - REPORT_BURST}
    bed.learn(3, 2)
    assert "not_reported" not in moves()[-1]


def test_a_station_that_moves_next_to_the_sender_is_not_sent_back_to() -> None:
    bed = three()
    bed.learn(2, 2)
    assert reached(bed, 1, 2) == [2]
    bed.learn(1, 2)
    assert reached(bed, 1, 2) == []


def test_entries_age_out_at_the_nanosecond() -> None:
    bed = three()
    bed.advance(12345)
    bed.learn(2, 2)
    bed.advance(AGEING - 1)
    assert reached(bed, 1, 2) == [2]
    bed.advance(1)
    assert bed.switch.fdb.lookup(1, mac(2)) is None
    assert reached(bed, 1, 2) == [2, 3]


def test_cached_flows_keep_their_source_alive() -> None:
    bed = three()
    for _ in range(10):
        bed.learn(2, 2)
        bed.advance(AGEING - 1)
    bed.learn(2, 2)
    last = bed.timeline.now
    bed.advance(AGEING - 1)
    assert bed.timeline.now == last + AGEING - 1
    assert bed.switch.fdb.lookup(1, mac(2)) is not None
    bed.advance(1)
    assert bed.switch.fdb.lookup(1, mac(2)) is None


def test_frames_to_a_station_do_not_keep_it_alive() -> None:
    bed = three()
    bed.learn(2, 2)
    for _ in range(3):
        bed.advance(AGEING // 3)
        reached(bed, 1, 2)
    assert reached(bed, 1, 2) == [2, 3]


def test_each_entry_ages_by_itself() -> None:
    bed = three()
    for station in range(10):
        bed.learn(2, station)
        bed.advance(1)
    bed.advance(AGEING - 10)
    for left in range(9, -1, -1):
        assert bed.switch.fdb.count == left
        bed.advance(1)
    assert bed.switch.fdb.count == 0
    assert bed.timeline.next_instant() is None, "nothing is left that could age"


def test_without_ageing_entries_stay() -> None:
    bed = Bed(access(1), access(1), access(1), ageing=None)
    bed.learn(2, 2)
    bed.advance(1000 * AGEING)
    assert reached(bed, 1, 2) == [2]
    assert bed.timeline.next_instant() is None


def test_static_entries_neither_age_nor_move_nor_get_flushed() -> None:
    bed = three()
    bed.switch.add_static(1, mac(2), 2)
    bed.learn(3, 2)
    assert reached(bed, 1, 2) == [2]
    bed.advance(2 * AGEING)
    assert bed.switch.flush() == 0
    assert reached(bed, 1, 2) == [2]
    assert bed.switch.remove_entry(1, mac(2))
    assert not bed.switch.remove_entry(1, mac(2))
    assert reached(bed, 1, 2) == [2, 3]


def test_a_static_entry_takes_the_place_of_a_learned_one() -> None:
    bed = three()
    bed.learn(3, 2)
    assert reached(bed, 1, 2) == [3]
    bed.switch.add_static(1, mac(2), 2)
    assert reached(bed, 1, 2) == [2]
    assert [(entry.mac, entry.port) for entry in bed.switch.fdb if entry.mac == mac(2)] == [(mac(2), 2)]


def test_a_static_entry_to_a_port_that_is_down_leads_nowhere() -> None:
    bed = three()
    bed.switch.add_static(1, mac(2), 2)
    bed.cut(2)
    assert reached(bed, 1, 2) == []
    assert bed.drops(1) == {"no-egress": 1}
    bed.mend(2)
    assert reached(bed, 1, 2) == [2]


def test_a_station_behind_a_static_entry_of_another_port_is_still_forwarded() -> None:
    bed = three()
    bed.switch.add_static(1, mac(2), 2)
    assert bed.send(3, frame(BROADCAST, mac(2))) == {1: [frame(BROADCAST, mac(2))], 2: [frame(BROADCAST, mac(2))]}


def test_flush_by_port_by_vlan_and_of_all() -> None:
    bed = Bed(access(1), access(1), trunk(), access(2))
    for number, tags in ((1, ()), (2, ()), (3, (tag(1),)), (3, (tag(2),)), (4, ())):
        bed.learn(number, 10 + number, *tags)
    assert bed.switch.fdb.count == 5
    assert bed.switch.flush(number=3, vid=2) == 1
    assert bed.switch.flush(vid=2) == 1
    assert bed.switch.flush(number=1) == 1
    assert {entry.mac for entry in bed.switch.fdb} == {mac(12), mac(13)}
    assert bed.switch.flush() == 2
    assert bed.switch.fdb.count == 0
    assert reached(bed, 1, 12) == [2, 3]


def test_a_port_without_carrier_forgets_its_stations_and_gets_nothing() -> None:
    bed = three()
    bed.learn(2, 2)
    bed.learn(3, 3)
    bed.cut(2)
    assert [entry.mac for entry in bed.switch.fdb] == [mac(3)]
    assert reached(bed, 1, 2) == [3]
    assert bed.switch.ports[2].port.unsent == 0, "nothing is even tried"
    bed.mend(2)
    assert reached(bed, 1, 2) == [2, 3]
    assert [kind for kind, _ in bed.events] == ["port-up"] * 3 + ["port-down", "port-up"]


def test_a_disabled_port_is_deaf_and_mute() -> None:
    bed = three()
    bed.learn(2, 2)
    bed.switch.set_enabled(2, False)
    assert reached(bed, 1, 2) == [3]
    assert bed.send(2, frame(BROADCAST, mac(2))) == {}
    assert bed.drops(2) == {"port-down": 1}
    bed.switch.set_enabled(2, False)
    bed.switch.set_enabled(2, True)
    assert bed.send(2, frame(BROADCAST, mac(2))) == {1: [frame(BROADCAST, mac(2))], 3: [frame(BROADCAST, mac(2))]}
    assert bed.counters(2)[:2] == (3, 180), "what was dropped came in all the same"


def test_a_removed_port_is_gone() -> None:
    bed = three()
    bed.learn(2, 2)
    bed.switch.add_static(1, mac(7), 2)
    bed.switch.remove_port(2)
    assert bed.switch.fdb.count == 0
    assert bed.send(2, frame(BROADCAST, mac(2))) == {}
    assert bed.switch.fdb.count == 0, "a frame from its cable teaches nothing"
    assert reached(bed, 1, 2) == [3]
    with pytest.raises(UsageError):
        bed.switch.remove_port(2)


def test_a_port_added_later_joins_the_flood() -> None:
    bed = three()
    assert reached(bed, 1, 2) == [2, 3]
    bed.add(access(1))
    assert reached(bed, 1, 2) == [2, 3, 4]
    with pytest.raises(UsageError):
        bed.switch.add_port(access(1), number=4)


def test_a_reconfigured_port_forgets_and_takes_its_new_vlan() -> None:
    bed = Bed(access(1), access(1), access(2))
    bed.learn(2, 2)
    bed.switch.set_vlan(2, access(2))
    assert reached(bed, 1, 2) == []
    assert reached(bed, 3, 2) == [2]
    bed.switch.set_vlan(2, trunk())
    assert bed.send(3, frame(mac(2), mac(9))) == {2: [frame(mac(2), mac(9), tag(2))]}
    assert bed.send(2, frame(mac(9), mac(2), tag(2))) == {3: [frame(mac(9), mac(2))]}


def test_the_far_end_may_change_its_handler_at_any_time() -> None:
    bed = three()
    bed.learn(2, 2)
    assert reached(bed, 1, 2) == [2]
    seen: list[bytes] = []
    bed.ends[2].set_handler(lambda frame, offload: seen.append(frame))
    assert reached(bed, 1, 2) == []
    assert seen == [frame(mac(2), mac(99))]
    tx = bed.counters(2)[2]
    bed.ends[2].hook(rx=lambda handler: lambda frame, offload: seen.append(b"hooked"))
    reached(bed, 1, 2)
    assert seen[-1] == b"hooked"
    assert bed.counters(2)[2] == tx + 1


def test_a_switch_port_may_be_hooked_both_ways() -> None:
    bed = three()
    bed.learn(2, 2)
    passing: list[str] = []

    def wrap(direction: str):
        def hook(handler):
            def handle(frame: bytes, offload: bytes) -> None:
                passing.append(direction)
                handler(frame, offload)

            return handle

        return hook

    bed.switch.ports[2].port.hook(rx=wrap("rx"), tx=wrap("tx"))
    assert reached(bed, 1, 2) == [2]
    bed.learn(2, 2)
    assert passing == ["tx", "rx"]
    bed.switch.ports[2].port.hook()
    assert reached(bed, 1, 2) == [2]
    assert passing == ["tx", "rx"]


@pytest.mark.parametrize("vid", [0, 4095, -1, 70000])
def test_configurations_that_no_frame_can_carry_are_refused(vid: int) -> None:
    with pytest.raises(ValueError, match="1 to 4094"):
        access(vid)
    with pytest.raises(ValueError, match="1 to 4094"):
        trunk(frozenset((vid,)))
    with pytest.raises(ValueError, match="1 to 4094"):
        VlanConfig(untagged=frozenset((vid,)))


def test_a_flood_of_addresses_costs_only_the_port_it_comes_from() -> None:
    bed = Bed(access(1), access(1), access(1), fdb_size=1024)
    for station in range(100):
        bed.learn(2, station)
        bed.learn(3, 200 + station)
    began = time.perf_counter()
    for number in range(100_000):
        if number == 90_000:
            tracemalloc.start()
        bed.ends[1].send(BROADCAST + b"\x02" + number.to_bytes(5, "big") + b"\x08\x00", bytes(10))
        bed.log.clear()
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert time.perf_counter() - began < 20, "two or three seconds, where nothing else runs"
    fdb = bed.switch.fdb
    assert fdb.count == 1024
    assert fdb.evicted == 100_000 - 1024 + 200
    assert sum(entry.port == 2 for entry in fdb) == sum(entry.port == 3 for entry in fdb) == 100
    newest = {b"\x02" + number.to_bytes(5, "big") for number in range(100_000 - 824, 100_000)}
    assert {entry.mac for entry in fdb if entry.port == 1} == newest
    assert reached(bed, 3, 50) == [2]
    assert grown < 1 << 20, "ten thousand more addresses take the place of others"
    assert sum(len(port.flows) for port in bed.switch.ports.values()) <= 3 * MAX_FLOWS


def test_a_flood_of_addresses_leaves_the_decisions_of_others_alone() -> None:
    bed = Bed(access(1), access(1), access(1), fdb_size=16)
    bed.learn(2, 2)
    bed.learn(3, 3)
    assert reached(bed, 2, 3, source=2) == [3]
    (decided,) = (flow for flow in bed.switch.ports[2].flows.values() if flow.key[:6] == mac(3))
    for station in range(100, 200):
        bed.learn(1, station)
    assert bed.switch.fdb.evicted == 86
    assert decided in bed.switch.ports[2].flows.values()
    assert reached(bed, 2, 3, source=2) == [3]
    assert decided.tally, "it is used, not made anew"


def test_what_rested_on_an_address_that_gave_way_is_decided_anew() -> None:
    bed = Bed(access(1), access(1), access(1), fdb_size=3)
    bed.learn(2, 2)
    bed.advance(1)
    assert reached(bed, 1, 2, source=1) == [2]
    bed.advance(1)
    bed.learn(2, 3)
    bed.advance(1)
    bed.learn(3, 4)
    assert [entry.mac for entry in bed.switch.fdb] == [mac(1), mac(3), mac(4)]
    assert reached(bed, 1, 2, source=1) == [2, 3]
    assert reached(bed, 2, 1, source=2) == [1, 3], "station 1 gave way in its turn"
    assert reached(bed, 1, 2, source=1) == [2], "and is learned again by a frame that had a decision"


def test_decisions_are_forgotten_before_they_fill_the_memory() -> None:
    bed = three()
    bed.learn(2, 2)
    frames = 12 * MAX_FLOWS
    for number in range(frames):
        bed.ends[1].send(b"\x02" + number.to_bytes(5, "big") + mac(1) + b"\x08\x00", bytes(10))
        bed.log.clear()
    assert len(bed.switch.ports[1].flows) <= MAX_FLOWS
    assert len(bed.switch._index) <= 2 * MAX_FLOWS
    assert bed.counters(1)[0] == frames
    assert bed.counters(3)[2] == frames + 1
    bed.learn(2, 1000)
    assert reached(bed, 1, 1000) == [2]
