"""A simulation ends, whatever its tasks do: who waits for nothing or never lets the lab have its turn is named."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.lowlevel

import vnet
from vnet.errors import SimulationStalled, UsageError
from vnet.runtime import clock
from vnet.runtime.lab import Lab

LAB = """
name: quiet
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {lease: 12h}}}
guests: {a: {nics: [lan]}, b: {nics: [lan]}}
"""


NO_TIME = 0


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million take seconds."""
    monkeypatch.setattr(clock, "MOST_STEPS", 5_000)
    monkeypatch.setattr(clock, "LAST_STEPS", 500)


def here(function: Callable[..., object]) -> str:
    """Find the line of a function that says so."""
    lines, first = inspect.getsourcelines(function)
    (line,) = [first + index for index, text in enumerate(lines) if text.rstrip().endswith("# here")]
    return f"{__file__}:{line}"


async def hold_out() -> None:
    try:
        await trio.sleep(10)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()  # here


async def spin() -> None:
    while True:
        await trio.lowlevel.checkpoint()  # here


async def sleep_for_no_time() -> None:
    while True:  # noqa: ASYNC110 - it is to spin
        await trio.sleep(NO_TIME)  # here


async def spin_all_the_same() -> None:
    while True:
        with contextlib.suppress(trio.Cancelled):
            await trio.sleep(NO_TIME)  # here


async def beside(other: Callable[[], Awaitable[object]]) -> None:
    """Cancel another task and wait for its end, in a lab whose own events go on."""
    async with vnet.open_lab(vnet.parse_topology(LAB)) as lab:
        await lab.wait_up()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other, name="the other")
            await trio.sleep(1)
            nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("task", [hold_out, spin, sleep_for_no_time, spin_all_the_same])
def test_a_task_that_never_lets_the_lab_have_its_turn_is_named_with_its_line(task) -> None:
    with pytest.raises(SimulationStalled, match=re.escape(f"the other at {here(task)}")):
        vnet.simulate(beside, task)
    with pytest.raises(SimulationStalled, match=re.escape(f"{task.__name__} at {here(task)}")):
        vnet.simulate(task)


@pytest.mark.usefixtures("few_steps")
def test_what_does_not_end_when_it_is_cancelled_is_told_apart() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(hold_out)

    with pytest.raises(SimulationStalled) as caught:
        vnet.simulate(main)
    waiting, left = str(caught.value).split("; cancelled, this does not end: ")
    assert "sleep_forever at " in waiting and here(hold_out) in waiting
    assert left.endswith(here(hold_out)) and "sleep_forever" not in left


def test_the_clock_goes_on_for_who_cleans_up() -> None:
    took = []

    async def main() -> None:
        try:
            await trio.sleep_forever()
        finally:
            began = trio.current_time()
            with trio.move_on_after(5, shield=True):
                await trio.sleep_forever()
            took.append(trio.current_time() - began)

    with pytest.raises(SimulationStalled) as caught:
        vnet.simulate(main)
    assert took == [5] and "does not end" not in str(caught.value)


def test_finally_blocks_of_a_run_that_was_given_up_are_carried_out() -> None:
    ended = []

    async def main() -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hold_out)
        finally:
            ended.append("main")

    with pytest.raises(SimulationStalled):
        vnet.simulate(main)
    assert ended == ["main"]
    assert vnet.simulate(trio.sleep, 1) is None  # and the next run is as ever


@pytest.mark.parametrize("action", [lambda: {}["mine"], lambda: vnet.parse_topology("")])
def test_an_action_that_fails_comes_out_even_if_a_task_holds_out(action: Callable[[], object]) -> None:
    async def main() -> None:
        async with vnet.open_lab(vnet.parse_topology(LAB)) as lab:
            lab.at(1, action)
            await hold_out()

    with pytest.raises((KeyError, vnet.TopologyError)) as caught:
        vnet.simulate(main)
    assert any(here(hold_out) in note for note in caught.value.__notes__)


# -- waiting for what never comes, while the lab goes round and round


def test_renewals_do_not_keep_a_wait_for_nothing_alive_for_years() -> None:
    now: list[float] = []

    async def main() -> None:
        async with vnet.open_lab(vnet.parse_topology(LAB)) as lab:
            try:
                await trio.Event().wait()  # here
            finally:
                now.append(lab.now)

    with pytest.raises(SimulationStalled, match="repeats for ever: .*main at " + re.escape(here(main))):
        vnet.simulate(main)
    assert 30 * 86_400 <= now[0] < 61 * 86_400


async def sleep(lab: Lab) -> None:
    await trio.sleep(200 * 86_400)


async def planned(lab: Lab) -> None:
    event = trio.Event()
    lab.at("200d", event.set)
    await event.wait()


@pytest.mark.parametrize("wait", [planned, sleep, lambda lab: lab.advance("200d")])
def test_what_is_planned_is_waited_for_however_long_that_is(wait: Callable[[Lab], Awaitable[None]]) -> None:
    async def main() -> float:
        async with vnet.open_lab(vnet.parse_topology(LAB)) as lab:
            await wait(lab)
            return lab.now

    assert vnet.simulate(main) == 200 * 86_400


def test_the_limit_may_be_text() -> None:
    async def beacon() -> None:
        while True:  # noqa: ASYNC110 - it is to go on for ever
            await trio.sleep(60)

    with pytest.raises(SimulationStalled, match=r"lab clock passed 36h .*beacon at "):
        vnet.simulate(beacon, limit="1d12h")
    for wrong in ("soon", 0, -1, 1.5):
        with pytest.raises(UsageError, match="limit"):
            vnet.simulate(beacon, limit=wrong)


def test_many_tasks_at_one_place_are_one() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(213):
                nursery.start_soon(hold_out)
            for number in range(20):
                nursery.start_soon(trio.sleep_forever, name=f"sleeper {number:02}")

    with pytest.raises(SimulationStalled) as caught:
        vnet.simulate(main)
    waiting, left = str(caught.value).split("; cancelled, this does not end: ")
    assert left.endswith(f"hold_out at {here(hold_out)} (x 213)")
    assert waiting.endswith(", 17 more") and "sleeper 02" in waiting and "sleeper 03" not in waiting


SERVED = LAB.replace("b: {nics: [lan]}", "b: {nics: [lan], run: [echo, {http: {folder: .}}, iperf3, sink]}")


def test_the_test_itself_is_named_before_servers_and_programs() -> None:
    async def main() -> None:
        async with vnet.open_lab(vnet.parse_topology(SERVED)) as lab:
            await lab.wait_up()
            async with trio.open_nursery() as nursery:  # here
                async with lab.guests["a"].activate():
                    for port in range(8000, 8008):
                        await nursery.start(trio.serve_tcp, lambda stream: stream.receive_some(), port)
                nursery.start_soon(hold_out)
                nursery.start_soon(trio.sleep_forever, name="a sleeper")

    with pytest.raises(SimulationStalled) as caught:
        vnet.simulate(main)
    waiting = str(caught.value).split(": ", 1)[1].split("; cancelled")[0].split(", ")
    assert waiting[0].endswith("main at " + here(main)) and waiting[1].endswith("hold_out at " + here(hold_out))
    assert not any(__file__ in each for each in waiting[2:])


def test_who_sleeps_for_longer_than_the_limit_is_told_the_limit() -> None:
    async def main() -> None:
        async with vnet.open_lab(vnet.parse_topology(LAB)):
            await trio.sleep(366 * 86_400)  # here

    with pytest.raises(SimulationStalled, match="the limit is 8760h of lab time, .*main at " + re.escape(here(main))):
        vnet.simulate(main, limit="365d")
