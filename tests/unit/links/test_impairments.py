"""Delay variation, reordering, duplication and corruption: what happens, how often, and to what."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_rig import GBIT, MBIT, Rig, super_frame

from vnet.errors import UsageError
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.links.impairments import Impairer, Impairments
from vnet.links.link import Link
from vnet.ports import NO_OFFLOAD, Port, Randomness
from vnet.units import MICROSECOND, MILLISECOND
from vnet.wire.segmentation import complete
from vnet.wire.virtio_net import GSO_NONE, GSO_TCPV4, NEEDS_CSUM, Offload, encode

KINDS = {"delay_variation": MILLISECOND, "reordering": 0.2, "duplication": 0.2, "corruption": 0.2}


def rig_of(seed: int = 1, latency: int = 0, rate: int | None = None, loss: float = 0.0, **impairments: float) -> Rig:
    options = Impairments(**impairments)  # type: ignore[arg-type]
    return Rig(seed=seed, latency=latency, rate=rate, loss=loss, impairments=options)


def number(count: int, octets: int = 60) -> list[bytes]:
    """Make frames that can be told apart."""
    return [mark.to_bytes(4, "big") + bytes(octets - 4) for mark in range(count)]


def send_all(rig: Rig, frames: list[bytes], gap: int = 0) -> list[tuple[int, int]]:
    """Send one every *gap* ns; return instant and number of what reached b."""
    for place, each in enumerate(frames):
        rig.run(place * gap)
        rig.a.send(each, NO_OFFLOAD)
    rig.run()
    return [(when, int.from_bytes(frame[:4], "big")) for when, frame in rig.at_b]


def flipped(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


def test_delay_varies_from_the_latency_to_that_much_more_and_evenly() -> None:
    rig = rig_of(latency=10 * MILLISECOND, delay_variation=4 * MILLISECOND)
    arrivals = send_all(rig, number(2000), gap=20 * MILLISECOND)  # none waits for the one before it
    delays = [when - mark * 20 * MILLISECOND for when, mark in arrivals]
    assert len(delays) == 2000
    assert min(delays) >= 10 * MILLISECOND and max(delays) <= 14 * MILLISECOND
    quarters = Counter((delay - 10 * MILLISECOND) // MILLISECOND for delay in delays)
    assert set(quarters) == {0, 1, 2, 3} and all(420 < count < 580 for count in quarters.values())


def test_both_ends_of_the_variation_are_drawn() -> None:
    arrivals = send_all(rig_of(delay_variation=1), number(50), gap=10)
    assert {when - mark * 10 for when, mark in arrivals} == {0, 1}


def test_varied_frames_keep_their_order() -> None:
    rig = rig_of(latency=MILLISECOND, delay_variation=10 * MILLISECOND)
    arrivals = send_all(rig, number(500), gap=MICROSECOND)
    assert [mark for _, mark in arrivals] == list(range(500))
    assert arrivals == sorted(arrivals)
    assert rig.link.forward.altered["reordered"] == 0


def test_a_link_with_a_rate_varies_what_has_left() -> None:
    rig = rig_of(rate=8 * MBIT, latency=MILLISECOND, delay_variation=50 * MICROSECOND)
    arrivals = send_all(rig, number(100))
    extra = [when - MILLISECOND - 84_000 * (1 + mark) for when, mark in arrivals]
    assert len(set(extra)) > 90 and min(extra) >= 0 and max(extra) <= 50 * MICROSECOND


def test_reordered_frames_overtake_those_on_the_wire() -> None:
    rig = rig_of(latency=10 * MILLISECOND, reordering=0.1)
    arrivals = send_all(rig, number(1000), gap=MILLISECOND)
    at = {mark: when - mark * MILLISECOND for when, mark in arrivals}
    early = [mark for mark in range(1000) if at[mark] == 0]
    assert set(at.values()) == {0, 10 * MILLISECOND}
    assert 70 < len(early) < 130
    rest = [mark for _, mark in arrivals if at[mark]]
    assert rest == sorted(rest)
    overtaken = [mark for mark in early if any(at[before] for before in range(max(0, mark - 9), mark))]
    assert rig.link.forward.altered == {"reordered": len(overtaken), "duplicated": 0, "corrupted": 0}
    assert [mark for _, mark in arrivals] != sorted(at)


def test_without_a_latency_there_is_nothing_to_overtake() -> None:
    rig = rig_of(rate=8 * MBIT, reordering=0.5)
    assert [mark for _, mark in send_all(rig, number(100))] == list(range(100))
    assert rig.link.forward.altered["reordered"] == 0


def test_duplicates_follow_their_frames() -> None:
    rig = rig_of(duplication=0.25)
    marks = [mark for _, mark in send_all(rig, number(1000))]
    twice = [mark for mark, count in Counter(marks).items() if count == 2]
    assert marks == sorted(marks) and set(marks) == set(range(1000))
    assert len(marks) == 1000 + len(twice)
    assert 200 < len(twice) < 300
    assert rig.link.forward.altered["duplicated"] == len(twice)
    assert rig.link.forward.delivered == len(marks)


def test_a_copy_takes_its_own_room() -> None:
    rig = Rig(rate=8 * MBIT, queue=3 * 84, impairments=Impairments(duplication=1.0))
    assert send_all(rig, number(2)) == [(84_000, 0), (168_000, 0), (252_000, 1)]
    assert rig.link.forward.dropped_queue == 1


def test_corruption_flips_one_bit_anywhere() -> None:
    rig = rig_of(corruption=0.5)
    frames = number(4000, 64)
    send_all(rig, frames)
    received = [frame for _, frame in rig.at_b]
    flips = [flipped(*both) for both in zip(frames, received, strict=True)]
    assert set(flips) == {0, 1}
    assert 1850 < sum(flips) < 2150
    assert rig.link.forward.altered["corrupted"] == sum(flips)
    pairs = zip(frames, received, strict=True)
    hit = {(int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_length() for one, other in pairs}
    assert len(hit - {0}) > 450, "of 512 bits"


def test_an_empty_frame_has_no_bit_to_flip() -> None:
    rig = rig_of(corruption=1.0)
    rig.a.send(b"", NO_OFFLOAD)
    rig.run()
    assert [frame for _, frame in rig.at_b] == [b""]
    assert rig.link.forward.altered["corrupted"] == 0


def test_a_pending_checksum_is_completed_before_it_would_cover_the_damage_up() -> None:
    pending = encode(Offload(NEEDS_CSUM, GSO_NONE, 0, 0, 34, 6))
    frame = bytes(range(100))
    rig = rig_of(corruption=1.0)
    offloads: list[bytes] = []

    def take(received: bytes, its_offload: bytes) -> None:
        rig.at_b.append((rig.timeline.now, received))
        offloads.append(its_offload)

    rig.b.set_handler(take)
    rig.a.send(frame, pending)
    rig.run()
    (whole,) = complete(frame, pending)
    assert flipped(whole, rig.at_b[0][1]) == 1
    assert offloads == [NO_OFFLOAD]


def test_super_frames_are_cut_and_their_frames_struck_one_by_one() -> None:
    frame, offload = super_frame(GSO_TCPV4, 50 * 1000, 1000)
    rig = rig_of(duplication=0.2, corruption=0.2)
    rig.a.send(frame, offload)
    rig.run()
    altered = rig.link.forward.altered
    assert {len(single) for _, single in rig.at_b} == {1054}
    assert len(rig.at_b) == 50 + altered["duplicated"]
    assert 0 < altered["duplicated"] < 25 and 0 < altered["corrupted"] < 25


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_depends_on_the_seed_alone(kind: str) -> None:
    def outcome(seed: int) -> list[tuple[int, bytes]]:
        rig = rig_of(seed, latency=5 * MILLISECOND, **{kind: KINDS[kind]})
        send_all(rig, number(200), gap=MILLISECOND)
        return rig.at_b

    assert outcome(1) == outcome(1)
    assert outcome(1) != outcome(2)


def test_each_kind_and_direction_has_a_stream_of_its_own() -> None:
    asked: list[str] = []
    streams = RandomStreams(1)

    def nobody(frame: bytes, offload: bytes) -> None: ...

    def stream(purpose: str) -> Randomness:
        asked.append(purpose)
        return streams.stream("link", purpose)

    plain = Link(Timeline(), Port("a", nobody), Port("b", nobody), stream)
    assert asked == ["loss-forward", "loss-backward"], "a link without impairments asks for no more"
    plain.duplication = 0.1
    names = ["delay-variation", "reordering", "duplication", "corruption"]
    assert asked[2:] == [f"{name}-{way}" for way in ("forward", "backward") for name in names]
    plain.corruption = 0.1
    assert len(asked) == 10, "they go on, and do not start again"


def test_what_is_lost_does_not_depend_on_the_other_kinds() -> None:
    alone = rig_of(loss=0.3)
    beside = rig_of(loss=0.3, duplication=0.3, delay_variation=1000)
    lone = {mark for _, mark in send_all(alone, number(300))}
    assert lone == {mark for _, mark in send_all(beside, number(300))}
    assert alone.link.forward.dropped_loss == beside.link.forward.dropped_loss == 300 - len(lone)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_read_and_changed_while_frames_pass(kind: str) -> None:
    rig = Rig(inline_to_b=True)
    rig.send(60)
    assert len(rig.at_b) == 1, "within the call"
    setattr(rig.link, kind, KINDS[kind])
    assert getattr(rig.link, kind) == KINDS[kind]
    rig.send(60)
    assert len(rig.at_b) == 1, "by way of the model"
    setattr(rig.link, kind, 0)
    rig.run()
    before = len(rig.at_b)
    rig.send(60)
    assert len(rig.at_b) == before + 1, "within the call again"


@pytest.mark.parametrize(("kind", "value"), [
    ("delay_variation", -1), ("reordering", -0.1), ("duplication", 1.1), ("corruption", float("nan")), ("corruption", 2),
])  # fmt: skip
def test_impossible_settings_are_refused_and_change_nothing(kind: str, value: float) -> None:
    rig = rig_of(duplication=1.0)
    before = rig.link.impairments
    with pytest.raises(UsageError, match=kind.replace("_", " ")):
        setattr(rig.link, kind, value)
    assert rig.link.impairments is before


def test_a_cut_forgets_what_was_on_the_wire() -> None:
    rig = rig_of(latency=MILLISECOND, delay_variation=MILLISECOND)
    rig.send(60, 1)
    rig.link.latency = 0
    rig.link.up = False
    rig.link.up = True
    rig.send(60, 2)
    rig.run()
    assert rig.arrivals()[0][0] <= MILLISECOND, "it waits for none that never comes"
    assert [mark for _, mark in rig.arrivals()] == [2]


def test_a_new_rate_keeps_order_and_variation() -> None:
    rig = rig_of(rate=8_000, latency=100, delay_variation=MILLISECOND)
    for mark in range(20):
        rig.send(60, mark)
    rig.run(42 * MILLISECOND)
    rig.link.rate = 8 * MBIT
    rig.run()
    assert [mark for _, mark in rig.arrivals()] == list(range(20))
    late = [when - (42 * MILLISECOND + 42_000 + mark * 84_000 + 100) for when, mark in rig.arrivals()]
    assert min(late) >= 0 and max(late) <= MILLISECOND and len(set(late)) > 5


def test_an_impairer_without_settings_does_nothing() -> None:
    impairer = Impairer(partial(RandomStreams(1).stream, "link"))
    assert not impairer.duplicates() and not impairer.corrupts(b"x")
    assert impairer.arrival(5, 10) == 15


steps = st.one_of(
    st.tuples(st.just("send"), st.integers(4, 1514)),
    st.tuples(st.just("send"), st.integers(4, 1514)),
    st.tuples(st.just("wait"), st.integers(0, 3_000_000)),
    st.tuples(st.just("rate"), st.sampled_from([None, 8_000, 8 * MBIT, GBIT])),
    st.tuples(st.just("latency"), st.sampled_from([0, 1000, 2_000_000])),
    st.tuples(st.just("delay_variation"), st.sampled_from([0, 1000, 2_000_000])),
    st.tuples(st.just("queue"), st.sampled_from([0, 84, 2000])),
    st.tuples(st.sampled_from(["loss", "reordering", "duplication", "corruption"]), st.sampled_from([0.0, 0.3, 1.0])),
    st.tuples(st.just("up"), st.booleans()),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=60), st.integers(0, 5))
def test_frames_in_and_copies_are_frames_out_and_drops_and_nothing_is_invented(
    script: list[tuple[str, float]], seed: int
) -> None:
    rig = rig_of(seed)
    sent: list[bytes] = []
    for kind, value in script:
        if kind == "send":
            sent.append(len(sent).to_bytes(4, "big") * (int(value) // 4))
            rig.a.send(sent[-1], NO_OFFLOAD)
        elif kind == "wait":
            rig.run(rig.timeline.now + int(value))
        else:
            setattr(rig.link, kind, value)
    rig.run()
    way = rig.link.forward
    assert len(sent) + way.altered["duplicated"] == len(rig.at_b) + sum(way.drops.values())
    assert way.delivered == len(rig.at_b)
    exact = Counter(frame for _, frame in rig.at_b if frame in set(sent))
    damaged = [frame for _, frame in rig.at_b if frame not in set(sent)]
    assert all(count <= 2 for count in exact.values())
    assert len(damaged) <= way.altered["corrupted"]
    assert all(any(len(one) == len(frame) and flipped(one, frame) == 1 for one in sent) for frame in damaged)
