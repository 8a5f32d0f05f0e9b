"""Links, to the nanosecond and to the octet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_rig import GBIT, MBIT, Rig, super_frame

from vnet.errors import UsageError
from vnet.fabric.rng import RandomStreams
from vnet.links.direction import DEFAULT_QUEUE, WIRE_OVERHEAD
from vnet.links.link import Link
from vnet.ports import NO_OFFLOAD, Handler
from vnet.units import MICROSECOND, MILLISECOND
from vnet.wire.virtio_net import GSO_NONE, GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM, Offload, encode


def test_a_link_names_itself_after_its_ends() -> None:
    assert Rig().link.name == "a--b"
    assert Rig(name="uplink").link.name == "uplink"


def test_without_rate_a_frame_takes_the_latency() -> None:
    rig = Rig(latency=MILLISECOND)
    rig.send(60, 1)
    rig.run(500)
    rig.send(9000, 2)
    rig.b.send(b"back", NO_OFFLOAD)
    rig.run()
    assert rig.arrivals() == [(MILLISECOND, 1), (MILLISECOND + 500, 2)]
    assert rig.at_a == [(MILLISECOND + 500, b"back")]
    assert (rig.link.forward.delivered, rig.link.forward.octets) == (2, 9060)
    assert (rig.link.backward.delivered, rig.link.backward.octets) == (1, 4)


def test_a_link_is_asynchronous_even_without_delay() -> None:
    rig = Rig()
    rig.send(60)
    assert rig.at_b == []
    rig.run(0)
    assert len(rig.at_b) == 1


@pytest.mark.parametrize(("octets", "wire"), [(14, 84), (60, 84), (61, 85), (1514, 1538), (9216, 9240)])
def test_frames_take_the_time_of_their_octets_on_the_wire(octets: int, wire: int) -> None:
    rig = Rig(rate=100 * MBIT, latency=7)
    rig.send(octets, 1)
    rig.send(octets, 2)
    rig.run()
    assert rig.arrivals() == [(wire * 80 + 7, 1), (2 * wire * 80 + 7, 2)]


def test_each_frame_waits_for_the_one_before_it() -> None:
    rig = Rig(rate=GBIT, latency=MICROSECOND)
    rig.send(1000, 1)
    rig.run(4000)
    rig.send(60, 2)  # the first leaves at 8192
    rig.run(20_000)
    rig.send(60, 3)  # the wire is free
    rig.run()
    assert rig.arrivals() == [(8192 + 1000, 1), (8192 + 672 + 1000, 2), (20_000 + 672 + 1000, 3)]


def test_the_queue_drops_at_the_very_octet() -> None:
    for queue, arrived in ((3 * 84, [1, 2, 3]), (3 * 84 - 1, [1, 2]), (2 * 84, [1, 2]), (84, [1]), (0, [1])):
        rig = Rig(rate=8 * MBIT, queue=queue)  # one octet is one microsecond
        for mark in (1, 2, 3):
            rig.send(60, mark)
        rig.run()
        assert [mark for _, mark in rig.arrivals()] == arrived, queue
        assert rig.link.forward.drops == {
            "queue-full": 3 - len(arrived), "loss": 0, "link-down": 0, "malformed-offload": 0,
        }  # fmt: skip


def test_the_queue_drains_octet_by_octet() -> None:
    rig = Rig(rate=8 * MBIT, queue=2 * 84)
    rig.send(60, 1)
    rig.send(60, 2)
    assert rig.link.forward.backlog() == 168
    rig.run(84_000 - 1000)
    rig.send(60, 3)  # 85 octets are left: one too many
    assert rig.link.forward.backlog() == 85
    rig.run(84_000)
    rig.send(60, 4)
    assert rig.link.forward.backlog() == 168
    rig.run()
    assert rig.link.forward.backlog() == 0
    assert rig.arrivals() == [(84_000, 1), (168_000, 2), (252_000, 4)]


def test_a_small_frame_may_pass_where_a_large_one_did_not_fit() -> None:
    rig = Rig(rate=8 * MBIT, queue=1600)
    for octets, mark in ((1000, 1), (1000, 2), (500, 3), (60, 4)):
        rig.send(octets, mark)
    rig.run()
    assert [mark for _, mark in rig.arrivals()] == [1, 3]
    assert rig.link.forward.dropped_queue == 2


def test_the_queue_has_room_by_default_for_a_burst() -> None:
    rig = Rig(rate=MBIT)
    for _ in range(400):
        rig.send(1514)
    rig.run()
    assert len(rig.at_b) == DEFAULT_QUEUE // 1538


def test_a_cut_loses_what_waits_and_what_is_on_the_wire() -> None:
    rig = Rig(rate=8 * MBIT, latency=MILLISECOND)
    for mark in (1, 2, 3):
        rig.send(60, mark)
    carrier: list[tuple[str, bool]] = []
    rig.a.on_carrier = lambda up: carrier.append(("a", up))
    rig.b.on_carrier = lambda up: carrier.append(("b", up))
    rig.run(84_000 + MILLISECOND)
    rig.link.up = False
    assert not rig.link.up
    assert rig.link.forward.dropped_down == 2
    rig.send(60, 4)
    rig.run(10 * MILLISECOND)
    rig.link.up = True
    rig.send(60, 5)
    rig.run()
    assert rig.arrivals() == [(84_000 + MILLISECOND, 1), (11 * MILLISECOND + 84_000, 5)]
    assert rig.link.forward.drops["link-down"] == 3
    assert carrier == [("a", False), ("b", False), ("a", True), ("b", True)]


def test_cut_and_mended_at_one_instant_is_cut_all_the_same() -> None:
    rig = Rig(rate=8 * MBIT)
    rig.send(60, 1)
    rig.link.up = False
    rig.link.up = True
    rig.send(60, 2)
    rig.run()
    assert rig.arrivals() == [(84_000, 2)]


def test_a_link_taken_away_delivers_nothing_more() -> None:
    rig = Rig(latency=5)
    rig.send(60)
    rig.link.unplug()
    rig.send(60)
    rig.run()
    assert rig.at_b == []
    assert rig.a.unsent == 1
    assert not rig.a.carrier


def test_changes_are_reported_once() -> None:
    told: list[tuple[str, dict[str, object]]] = []
    rig = Rig(report=lambda kind, **fields: told.append((kind, fields)))
    for up in (True, False, False, True):
        rig.link.up = up
    assert told == [("link-down", {"link": "a--b"}), ("link-up", {"link": "a--b"})]


def test_loss_depends_on_the_seed_alone() -> None:
    def survivors(seed: int) -> list[int]:
        rig = Rig(seed=seed, loss=0.3)
        for mark in range(250):
            rig.send(60, mark)
        rig.run()
        assert rig.link.forward.dropped_loss == 250 - len(rig.at_b)
        return [mark for _, mark in rig.arrivals()]

    first = survivors(1)
    assert first == survivors(1)
    assert first != survivors(2)
    assert 125 < len(first) < 215


def test_each_direction_draws_for_itself() -> None:
    quiet, busy = Rig(loss=0.5), Rig(loss=0.5)
    for mark in range(100):
        quiet.send(60, mark)
        busy.b.send(b"noise", NO_OFFLOAD)
        busy.send(60, mark)
    quiet.run()
    busy.run()
    assert quiet.arrivals() == busy.arrivals()


def test_all_or_nothing_is_lost_at_the_ends_of_the_scale() -> None:
    rig = Rig(loss=1.0)
    rig.send(60)
    rig.run()
    assert rig.at_b == []
    rig.link.loss = 0.0
    rig.send(60)
    rig.run()
    assert len(rig.at_b) == 1


def test_what_is_lost_takes_no_room_and_what_is_left_keeps_rate_and_order() -> None:
    rig = Rig(rate=8 * MBIT, loss=0.5)
    for mark in range(50):
        rig.send(60, mark)
    rig.run()
    marks = [mark for _, mark in rig.arrivals()]
    assert 10 < len(marks) < 40
    assert rig.arrivals() == [(84_000 * (1 + place), mark) for place, mark in enumerate(marks)]


@pytest.mark.parametrize(("kind", "payload", "gso_size", "cut"), [
    (GSO_TCPV4, 14480, 1448, [1502] * 10), (GSO_TCPV4, 3000, 1448, [1502, 1502, 158]), (GSO_TCPV4, 1449, 1448, [1502, 60]),
    (GSO_TCPV4, 0, 1448, [60]), (GSO_UDP_L4, 2945, 1472, [1514, 1514, 60]), (GSO_TCPV4, 10, 1448, [64]),
])  # fmt: skip
def test_a_super_frame_takes_the_time_of_the_frames_it_stands_for(
    kind: int, payload: int, gso_size: int, cut: list[int]
) -> None:
    frame, offload = super_frame(kind, payload, gso_size)
    rig = Rig(rate=GBIT)
    rig.a.send(frame, offload)
    rig.run()
    assert rig.at_b == [(8 * sum(octets + WIRE_OVERHEAD for octets in cut), frame)], "and it stays whole"


def test_a_short_frame_with_a_pending_checksum_is_padded_too() -> None:
    rig = Rig(rate=GBIT)
    rig.a.send(bytes(42), encode(Offload(NEEDS_CSUM, GSO_NONE, 0, 0, 34, 6)))
    rig.run()
    assert rig.at_b[0][0] == 84 * 8


def test_loss_strikes_the_frames_that_a_super_frame_is_cut_into() -> None:
    frame, offload = super_frame(GSO_TCPV4, 50 * 1000, 1000)
    rig = Rig(loss=0.2)
    rig.a.send(frame, offload)
    rig.run()
    assert {len(single) for _, single in rig.at_b} == {1054}
    assert len(rig.at_b) + rig.link.forward.dropped_loss == 50
    assert 0 < rig.link.forward.dropped_loss < 25


@given(st.binary(max_size=200), st.binary(min_size=10, max_size=10), st.sampled_from([None, 1, GBIT]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_no_header_upsets_a_link(frame: bytes, offload: bytes, rate: int | None, lossy: bool) -> None:
    rig = Rig(rate=rate, loss=1e-9 if lossy else 0.0)
    rig.a.send(frame, offload)
    rig.run()
    drops = rig.link.forward.drops
    assert len(rig.at_b) >= 1 or drops["malformed-offload"] == 1
    assert lossy or [octets for _, octets in rig.at_b] == [frame]


steps = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 1600)),
    st.tuples(st.just("send"), st.integers(0, 1600)),
    st.tuples(st.just("wait"), st.integers(0, 3_000_000)),
    st.tuples(st.just("rate"), st.sampled_from([None, 1, 8_000, 8 * MBIT, GBIT, 3 * MBIT])),
    st.tuples(st.just("queue"), st.sampled_from([0, 84, 2000, DEFAULT_QUEUE])),
    st.tuples(st.just("up"), st.booleans()),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=40), st.integers(0, 1000))
def test_a_link_stays_a_queue_whatever_is_changed(script: list[tuple[str, int]], latency: int) -> None:
    rig = Rig(rate=8 * MBIT, latency=latency)
    sent = 0
    for kind, value in script:
        if kind == "send":
            rig.a.send(sent.to_bytes(2, "big") + bytes(value), NO_OFFLOAD)
            sent += 1
        elif kind == "wait":
            rig.run(rig.timeline.now + value)
        else:
            setattr(rig.link, kind, value)
    rig.run()
    arrived = [int.from_bytes(frame[:2], "big") for _, frame in rig.at_b]
    assert arrived == sorted(set(arrived))
    assert len(arrived) + sum(rig.link.forward.drops.values()) == sent
    assert rig.link.forward.backlog() == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400_000), st.integers(0, 1514)), max_size=40), st.integers(0, 4000))
def test_a_link_agrees_with_a_queue_of_octets(script: list[tuple[int, int]], queue: int) -> None:
    """At 8 Mbit/s an octet is a microsecond: the reference moves octets one by one, in microseconds."""
    rig = Rig(rate=8 * MBIT, queue=queue, latency=10)
    waiting: list[list[int]] = []  # [octets left, mark]
    now, expected, lost = 0, [], 0
    for mark, (wait, octets) in enumerate(script):
        wait = wait // 1000 * 1000
        rig.run(rig.timeline.now + wait)
        for _ in range(wait // 1000):
            now += 1
            if waiting:
                waiting[0][0] -= 1
                if not waiting[0][0]:
                    expected.append((now * 1000 + 10, waiting.pop(0)[1]))
        wire = max(octets, 60) + 24
        if waiting and sum(left for left, _ in waiting) + wire > queue:
            lost += 1
        else:
            waiting.append([wire, mark])
        rig.send(max(octets, 1), mark)
    for left, mark in waiting:
        now += left
        expected.append((now * 1000 + 10, mark))
    rig.run()
    assert rig.arrivals() == expected
    assert rig.link.forward.dropped_queue == lost


@pytest.mark.parametrize("change", ["handler", "hook"])
def test_frames_on_the_wire_meet_the_handler_that_is_there_when_they_arrive(change: str) -> None:
    rig = Rig(latency=10)
    rig.send(60)
    seen: list[int] = []

    def late(frame: bytes, offload: bytes) -> None:
        seen.append(rig.timeline.now)

    rig.run(5)
    wrap: Callable[[Handler], Handler] = lambda handler: late  # noqa: E731
    rig.b.set_handler(late) if change == "handler" else rig.b.hook(rx=wrap)
    rig.run()
    assert seen == [10]
    assert rig.at_b == []


@pytest.mark.parametrize("option", [{}, {"latency": 3}, {"rate": GBIT}, {"loss": 1e-12}])
def test_an_inline_direction_is_direct_only_while_the_link_is_ideal(option: dict[str, int]) -> None:
    rig = Rig(inline_to_b=True, **option)
    rig.send(60)
    assert len(rig.at_b) == (not option)
    rig.link.rate, rig.link.latency, rig.link.loss = None, 0, 0.0
    rig.run()
    rig.send(60)
    assert len(rig.at_b) == 2
    rig.link.latency = 10
    rig.send(60)
    assert len(rig.at_b) == 2
    rig.run()
    assert len(rig.at_b) == 3
    rig.link.latency = 0
    rig.link.up = False
    rig.send(60)
    rig.run()
    assert len(rig.at_b) == 3
    assert rig.link.forward.dropped_down == 1
    rig.b.send(b"", NO_OFFLOAD)
    rig.link.up = True
    rig.b.send(b"", NO_OFFLOAD)
    assert rig.at_a == [], "the other direction is not inline"
    rig.run()
    assert len(rig.at_a) == 1


def test_a_link_that_was_unplugged_leaves_the_ports_to_others() -> None:
    """Somebody may have kept it; the ports have another cable by then."""
    rig = Rig()
    old = rig.link
    old.unplug()
    streams = RandomStreams(1)
    new = Link(rig.timeline, rig.a, rig.b, partial(streams.stream, "link"))
    old.up = False
    assert (old.up, rig.a.carrier, rig.b.carrier) == (False, True, True)
    for setting, value in {"up": True, "rate": GBIT, "latency": 5, "loss": 0.1, "reordering": 0.1}.items():
        with pytest.raises(UsageError, match="was unplugged"):
            setattr(old, setting, value)
    old.unplug()
    rig.send(60)
    rig.run()
    assert len(rig.at_b) == 1 and new.forward.delivered == 1
