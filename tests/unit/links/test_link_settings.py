"""The settings of a link: what they may be, and what a change does to frames on their way."""

from __future__ import annotations

import pytest
from link_rig import GBIT, MBIT, Rig

from vnet.errors import UsageError
from vnet.links.direction import DEFAULT_QUEUE
from vnet.links.impairments import Impairments
from vnet.units import MILLISECOND


def test_a_faster_rate_lets_go_what_waits() -> None:
    rig = Rig(rate=8_000, latency=100)  # a millisecond for each octet
    for mark in (1, 2, 3):
        rig.send(60, mark)
    rig.run(42 * MILLISECOND)  # half of the first has left
    rig.link.rate = 8 * MBIT
    rig.send(60, 4)
    rig.run()
    start = 42 * MILLISECOND + 100
    assert rig.arrivals() == [(start + 42_000 + place * 84_000, 1 + place) for place in range(4)]


def test_a_slower_rate_holds_it_back() -> None:
    rig = Rig(rate=8 * MBIT)
    rig.send(60, 1)
    rig.send(60, 2)
    rig.run(42_000)
    rig.link.rate = 8_000
    rig.run()
    assert rig.arrivals() == [(42_000 + 42 * MILLISECOND, 1), (42_000 + 126 * MILLISECOND, 2)]


def test_no_rate_any_more_lets_everything_go_at_once_and_in_order() -> None:
    rig = Rig(rate=8_000, latency=10)
    rig.send(60, 1)
    rig.send(60, 2)
    rig.run(5)
    rig.link.rate = None
    rig.send(60, 3)
    rig.run()
    assert rig.arrivals() == [(15, 1), (15, 2), (15, 3)]


def test_a_new_latency_is_for_what_has_not_left() -> None:
    rig = Rig(rate=8 * MBIT, latency=MILLISECOND)
    rig.send(60, 1)
    rig.send(60, 2)
    rig.run(84_000)
    rig.link.latency = 5 * MILLISECOND
    rig.send(60, 3)
    rig.run()
    assert rig.arrivals() == [
        (84_000 + MILLISECOND, 1), (168_000 + 5 * MILLISECOND, 2), (252_000 + 5 * MILLISECOND, 3),
    ]  # fmt: skip


def test_a_smaller_queue_keeps_what_is_in_it() -> None:
    rig = Rig(rate=8 * MBIT)
    for mark in (1, 2, 3):
        rig.send(60, mark)
    rig.link.queue = 84
    rig.send(60, 4)
    rig.run()
    assert [mark for _, mark in rig.arrivals()] == [1, 2, 3]


def test_the_settings_can_be_read() -> None:
    rig = Rig(rate=MBIT, latency=5, loss=0.1)
    link = rig.link
    assert (link.rate, link.latency, link.loss, link.queue, link.up) == (MBIT, 5, 0.1, DEFAULT_QUEUE, True)


@pytest.mark.parametrize(("name", "value"), [
    ("rate", 0), ("rate", -1), ("latency", -1), ("loss", -0.1), ("loss", 1.01), ("queue", -1), ("loss", float("nan")),
])  # fmt: skip
def test_impossible_settings_are_refused_and_change_nothing(name: str, value: float) -> None:
    with pytest.raises(UsageError):
        Rig(**{name: value})
    rig = Rig(rate=MBIT)
    before = getattr(rig.link, name)
    with pytest.raises(UsageError):
        setattr(rig.link, name, value)
    assert getattr(rig.link, name) == before
    rig.send(60)
    rig.run()
    assert len(rig.at_b) == 1


@pytest.mark.parametrize(("name", "value", "says"), [
    ("latency", 0.02, ".*nanoseconds, or text such as \"20ms\", not 0.02"), ("latency", "20", ": '20' is not"),
    ("delay_variation", 5e6, "is a .*nanoseconds"), ("delay_variation", "5%", ": '5%' is not a duration"),
    ("rate", 1e6, "is a .*bits per"), ("rate", "10ms", ": '10ms' is not a rate"), ("rate", "0mbit", ": '0mbit' is not"),
    ("queue", 1.5, "is a .*octets"), ("queue", "64KiBit", ": '64KiBit' is not a size"), ("loss", True, "is a ratio"),
    ("loss", "20ms", ": '20ms' is not a ratio"), ("loss", "101%", ": '101%' is not a ratio"), ("latency", None, ".*nano"),
    ("reordering", "1%%", ": "), ("duplication", None, "is a ratio"), ("corruption", "much", ": 'much' is not a ratio"),
    ("up", "down", "is up, True, or down, False"), ("up", None, "is up, True"),
])  # fmt: skip
def test_a_setting_of_the_wrong_kind_is_refused_with_its_unit(name: str, value: object, says: str) -> None:
    rig = Rig(rate=MBIT)
    before = getattr(rig.link, name)
    with pytest.raises(UsageError, match=f"a link('s {name.replace('_', ' ')})? ?{says}"):
        setattr(rig.link, name, value)
    assert getattr(rig.link, name) == before


@pytest.mark.parametrize(("name", "text", "value"), [
    ("rate", "10mbit", 10 * MBIT), ("rate", "unlimited", None), ("rate", "none", None), ("rate", None, None),
    ("latency", "20ms", 20_000_000), ("latency", "0", 0), ("loss", "5%", 0.05), ("loss", "0.25", 0.25),
    ("queue", "64KiB", 65_536), ("delay_variation", "1.5ms", 1_500_000), ("reordering", "1%", 0.01),
    ("duplication", "100%", 1.0), ("corruption", "0%", 0.0),
])  # fmt: skip
def test_settings_may_be_text_as_in_topology_files(name: str, text: str | None, value: float | None) -> None:
    rig = Rig(rate=GBIT)
    setattr(rig.link, name, text)
    assert getattr(rig.link, name) == value
    if text is not None and name in ("rate", "latency", "loss", "queue"):
        assert getattr(Rig(**{name: text}).link, name) == value


def test_text_does_what_the_number_does() -> None:
    rig = Rig()
    rig.link.latency, rig.link.rate = "20ms", "1mbit"
    rig.send(60)
    rig.run()
    assert [instant for instant, _ in rig.at_b] == [20_000_000 + 84 * 8 * 1000]
    assert Impairments(delay_variation="5ms", corruption="1%") == Impairments(delay_variation=5_000_000, corruption=0.01)
