"""Events in total order, and alarms."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vnet.errors import LabError
from vnet.fabric import timeline as module
from vnet.fabric.timeline import Timeline

FOREVER = 1 << 62


def test_events_run_by_instant_and_then_in_the_order_they_were_scheduled() -> None:
    timeline = Timeline()
    ran: list[tuple[int, int]] = []
    planned = [(when, number) for number, when in enumerate(random.Random(4).choices(range(20), k=500))]
    for when, number in planned:
        timeline.at(when, lambda when, number: ran.append((timeline.now, number)), when, number)
    assert timeline.next_instant() == min(planned)[0]
    assert timeline.run_until(FOREVER) == 500
    assert ran == sorted(planned)
    assert timeline.now == max(planned)[0]
    assert timeline.next_instant() is None


def test_the_end_is_included_and_the_clock_stays_at_the_last_event() -> None:
    timeline = Timeline()
    ran: list[int] = []
    for when in (5, 10, 11):
        timeline.at(when, ran.append, when)
    assert timeline.run_until(10) == 2
    assert (ran, timeline.now, timeline.next_instant()) == ([5, 10], 10, 11)
    assert timeline.run_until(10) == 0


def test_soon_runs_behind_what_is_due() -> None:
    timeline = Timeline(now=3)
    ran: list[str] = []
    timeline.at(3, lambda: (timeline.soon(ran.append, "soon"), ran.append("first")))
    timeline.at(3, ran.append, "second")
    timeline.run_until(3)
    assert ran == ["first", "second", "soon"]


def test_what_is_late_runs_at_once_and_time_never_goes_back() -> None:
    timeline = Timeline(now=100)
    seen: list[int] = []
    timeline.at(50, lambda: seen.append(timeline.now))
    timeline.run_until(100)
    assert seen == [100]


def test_an_interruption_and_a_limit_end_the_run_early() -> None:
    timeline = Timeline()
    for when in range(10):
        timeline.at(when, lambda: setattr(timeline, "interrupted", timeline.now == 3))
    assert timeline.run_until(FOREVER, limit=2) == 2
    assert timeline.run_until(FOREVER) == 2
    assert timeline.now == 3
    assert timeline.run_until(FOREVER) == 6, "the interruption is over"


def test_run_due_runs_what_has_passed_and_leaves_the_clock_alone() -> None:
    timeline = Timeline(now=100)
    seen: list[tuple[int, int]] = []
    for when in (90, 95, 100, 101):
        timeline.at(when, lambda when: seen.append((when, timeline.now)), when)
    assert timeline.run_due(limit=2) == 100
    assert len(seen) == 2
    assert timeline.run_due(limit=100) == 101
    assert timeline.run_due(limit=100) == 101
    assert seen == [(90, 100), (95, 100), (100, 100)]
    timeline.now = 101
    assert timeline.run_due(limit=100) is None


def test_run_due_stops_at_its_limit_though_events_make_events() -> None:
    timeline = Timeline()
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        timeline.soon(again)

    again()
    assert timeline.run_due(limit=1000) == 0
    assert count == 1001


def test_a_live_driver_is_told_of_an_earlier_head_only() -> None:
    timeline = Timeline()
    told: list[int | None] = []
    timeline.on_earlier = lambda: told.append(timeline.next_instant())
    for when in (10, 20, 10, 5, 6):
        timeline.at(when, lambda: None)
    assert told == [10, 5]


def test_time_that_stands_still_is_an_error_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS_AT_ONE_INSTANT", 1000)
    timeline = Timeline()
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        timeline.soon(again)

    timeline.at(7, again)
    with pytest.raises(LabError, match="without time moving"):
        timeline.run_until(FOREVER)
    assert 1000 <= count <= 1001


def test_small_steps_at_one_instant_add_up_to_a_standstill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS_AT_ONE_INSTANT", 1000)
    timeline = Timeline()

    def again() -> None:
        timeline.soon(again)

    again()
    with pytest.raises(LabError):
        for _ in range(300):
            timeline.run_until(0, limit=10)


def test_many_events_are_no_standstill_while_time_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS_AT_ONE_INSTANT", 50)
    timeline = Timeline()
    for when in range(3000):
        timeline.at(when // 30, lambda: None)
    assert timeline.run_until(FOREVER) == 3000
    for when in range(200, 400):  # a driver that sets the clock itself before each event
        timeline.at(when, lambda: None)
        timeline.now = when
        assert timeline.run_until(when) == 1


def test_withdrawn_events_are_given_back_in_order() -> None:
    timeline = Timeline()
    ran: list[int] = []
    for when in (30, 10, 20, 10):
        timeline.at(when, ran.append, when)
        timeline.at(when, print, when)
    assert timeline.withdraw(print) == [(10, (10,)), (10, (10,)), (20, (20,)), (30, (30,))]
    assert timeline.withdraw(print) == []
    timeline.run_until(FOREVER)
    assert ran == [10, 10, 20, 30]


def test_events_may_be_withdrawn_while_others_run() -> None:
    timeline = Timeline()
    ran: list[str] = []
    timeline.at(1, lambda: timeline.withdraw(doomed))

    def doomed() -> None:
        ran.append("doomed")

    for when in range(1, 50):
        timeline.at(when, doomed)
        timeline.at(when, ran.append, "kept")
    timeline.run_until(FOREVER)
    assert ran == ["kept"] * 49


class Bell:
    """An alarm that notes when it goes off."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.rang: list[int] = []
        self.again: list[int | None] = []
        self.alarm = timeline.alarm(self.ring)

    def ring(self) -> None:
        self.rang.append(self.timeline.now)
        assert self.alarm.deadline is None
        if self.again:
            self.alarm.set(self.again.pop(0))


@pytest.mark.parametrize(("settings", "rang"), [
    ([10], [10]), ([10, 20], [20]), ([20, 10], [10]), ([10, None], []), ([10, None, 10], [10]), ([10, None, 5], [5]),
    ([5, 30, 20, 10], [10]), ([30, 20, 10, 25], [25]), ([10, 10, 10], [10]), ([], []), ([None], []),
])  # fmt: skip
def test_the_last_setting_of_an_alarm_counts(settings: list[int | None], rang: list[int]) -> None:
    timeline = Timeline()
    bell = Bell(timeline)
    for deadline in settings:
        bell.alarm.set(deadline)
    timeline.run_until(FOREVER)
    assert bell.rang == rang
    assert timeline.next_instant() is None


@pytest.mark.parametrize(("first", "again", "rang"), [
    ([10], [20, 30], [10, 20, 30]),
    ([40, 10], [40], [10, 40]),
    ([40, 10], [None], [10]),
    ([40, 10], [35, 50], [10, 35, 50]),
    ([10], [10, 5, 20], [10, 10, 10, 20]),
])  # fmt: skip
def test_an_alarm_may_be_set_from_its_own_action(first: list[int], again: list[int | None], rang: list[int]) -> None:
    timeline = Timeline()
    bell = Bell(timeline)
    bell.again = again
    for deadline in first:
        bell.alarm.set(deadline)
    timeline.run_until(FOREVER)
    assert bell.rang == rang


def test_an_alarm_set_in_the_past_goes_off_at_once() -> None:
    timeline = Timeline(now=100)
    bell = Bell(timeline)
    bell.alarm.set(3)
    bell.alarm.set(2)
    timeline.run_until(100)
    assert bell.rang == [100]


def test_an_alarm_that_is_put_off_for_ever_costs_one_event() -> None:
    timeline = Timeline()
    bell = Bell(timeline)
    for now in range(10_000):
        timeline.run_until(now)
        timeline.now = now
        bell.alarm.set(now + 100)
    assert bell.rang == []
    assert len(timeline._heap) == 1


def test_a_short_and_a_long_deadline_in_turn_leave_no_heap_of_stale_events() -> None:
    timeline = Timeline()
    bell = Bell(timeline)
    for now in range(0, 10_000, 2):
        timeline.run_until(now)
        timeline.now = now
        bell.alarm.set(now + 5_000)
        bell.alarm.set(now + 1)
        timeline.run_until(now + 1)
        assert len(timeline._heap) <= 2
    assert len(bell.rang) == 5_000


def test_events_of_disarmed_alarms_are_swept() -> None:
    """Whoever makes a node forget one thing after the other must not make the heap grow."""
    timeline = Timeline()
    others = [timeline.alarm(lambda: None) for _ in range(100)]
    for number, other in enumerate(others):
        other.set(2_000_000 + number)
    bells = [Bell(timeline) for _ in range(20_000)]
    for now, bell in enumerate(bells):
        timeline.now = now
        bell.alarm.set(1_000_000)
        bell.alarm.set(now + 500_000)
        bell.alarm.set(None)
        assert len(timeline._heap) <= 2 * (module.MAX_IDLE + 100)
    bells[0].alarm.set(3_000_000)
    bells[-1].alarm.set(3_000_001)
    timeline.run_until(FOREVER)
    assert [bell.rang for bell in bells if bell.rang] == [[3_000_000], [3_000_001]]
    assert all(other.deadline is None for other in others)


def test_a_sweep_while_events_run_loses_nothing() -> None:
    timeline = Timeline()
    kept = [Bell(timeline) for _ in range(50)]

    def disarm_many() -> None:
        for _ in range(5_000):
            alarm = timeline.alarm(lambda: None)
            alarm.set(10_000)
            alarm.set(None)

    for number, bell in enumerate(kept):
        bell.alarm.set(100 + number)
    timeline.at(50, disarm_many)
    timeline.at(120, disarm_many)
    timeline.run_until(FOREVER)
    assert [bell.rang for bell in kept] == [[100 + number] for number in range(50)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.none() | st.integers(-3, 30)), max_size=40))
def test_an_alarm_rings_as_if_there_were_nothing_but_its_deadline(script: list[tuple[int, int | None]]) -> None:
    timeline = Timeline()
    bell = Bell(timeline)
    deadline: int | None = None
    expected: list[int] = []

    def pass_time(until: int) -> None:
        nonlocal deadline
        if deadline is not None and deadline <= until:
            expected.append(max(deadline, timeline.now))
            deadline = None
        timeline.run_until(until)
        timeline.now = until

    for wait, relative in script:
        pass_time(timeline.now + wait)
        deadline = None if relative is None else timeline.now + relative
        bell.alarm.set(deadline)
    pass_time(timeline.now + 100)
    assert bell.rang == expected
    assert timeline.next_instant() is None
