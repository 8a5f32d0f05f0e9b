"""A clock that stands still with its machine: what it owes then, and that it is otherwise the timeline's."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from vnet.fabric.machine_clock import MachineClock
from vnet.fabric.timeline import MAX_IDLE, Timeline

FOREVER = 1 << 62


def test_what_is_due_while_it_is_held_comes_as_much_later() -> None:
    timeline = Timeline()
    clock = MachineClock(timeline)
    ran: list[tuple[str, int, int]] = []
    for name, when in (("before", 3), ("after", 10), ("much later", 50)):
        clock.at(when, lambda name: ran.append((name, clock.now, timeline.now)), name)
    alarm = clock.alarm(lambda: ran.append(("alarm", clock.now, timeline.now)))
    alarm.set(20)
    timeline.at(5, clock.hold)
    timeline.at(6, clock.hold)
    timeline.at(105, clock.release)
    timeline.at(106, clock.release)
    timeline.run_until(104)
    assert (clock.now, clock.is_held) == (5, True)
    assert ran == [("before", 3, 3)]
    timeline.run_until(FOREVER)
    assert ran[1:] == [("after", 10, 110), ("alarm", 20, 120), ("much later", 50, 150)]
    assert clock.ran == 4


def test_alarms_that_are_set_while_it_is_held_wait_for_its_release() -> None:
    timeline = Timeline()
    clock = MachineClock(timeline)
    ran: list[int] = []
    alarm = clock.alarm(lambda: ran.append(timeline.now))
    timeline.at(10, clock.hold)
    timeline.at(30, lambda: (alarm.set(clock.now + 5), clock.soon(lambda: ran.append(-timeline.now))))
    timeline.at(100, clock.release)
    timeline.run_until(FOREVER)
    assert ran == [-100, 105]


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=40))
def test_until_it_is_held_it_is_as_the_timeline(plan: list[tuple[int, bool]]) -> None:
    """The same calls in the same order at the same instants, whichever of the two was asked."""

    def run(*, with_clock: bool) -> list[tuple[int, int]]:
        timeline = Timeline()
        clock = MachineClock(timeline) if with_clock else timeline
        ran: list[tuple[int, int]] = []
        for number, (when, again) in enumerate(plan):

            def act(number: int = number, again: bool = again) -> None:
                ran.append((clock.now, number))
                if again:
                    clock.soon(ran.append, (clock.now, -number))

            clock.at(when, act)
        timeline.run_until(FOREVER)
        return ran

    assert run(with_clock=True) == run(with_clock=False)


def test_what_is_planned_on_it_is_planned_on_the_timeline() -> None:
    timeline = Timeline()
    clock = MachineClock(timeline)
    assert timeline.pending(FOREVER) == []
    act = [].clear
    alarm = clock.alarm(act)
    alarm.set(70)
    assert timeline.pending(FOREVER) == [(70, act)], "its own alarm on the timeline is not what happens"
    mark = timeline.mark()
    assert timeline.was_planned(mark, FOREVER, FOREVER)
    assert not timeline.was_planned(mark, FOREVER, 60)
    timeline.at(20, clock.hold)
    timeline.at(30, clock.release)
    timeline.run_until(25)
    assert [when for when, _ in timeline.pending(FOREVER)] == [30], "while it stands still nothing is to come"
    timeline.run_until(35)
    assert timeline.pending(FOREVER) == [(80, act)]
    clock.retire()
    alarm.set(None)
    timeline.run_until(FOREVER)
    assert clock.is_over
    MachineClock(timeline)
    assert len(timeline._clocks) == 1


def test_disarmed_alarms_do_not_pile_up() -> None:
    timeline = Timeline()
    clock = MachineClock(timeline)
    for _ in range(5 * MAX_IDLE):
        alarm = clock.alarm(print)
        alarm.set(1 + random.Random(1).randrange(10**9))
        alarm.set(None)
    assert len(clock._heap) <= 2 * MAX_IDLE and len(timeline._heap) < 10
    timeline.run_until(FOREVER)


def test_calls_are_withdrawn() -> None:
    timeline = Timeline()
    clock = MachineClock(timeline)
    ran: list[int] = []
    clock.at(5, ran.append, 1)
    clock.at(6, ran.append, 2)
    clock.at(7, print)
    clock.at(8, ran.append, 3)
    assert clock.withdraw(ran.append) == [(5, (1,)), (6, (2,)), (8, (3,))]
    timeline.run_until(6)
    assert ran == [] and [when for when, _ in timeline.pending(FOREVER)] == [7]
