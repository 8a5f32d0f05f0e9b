"""Sleeps and time-outs that stand still: the part of trio that is not public, and what is made of it."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from vnet.guests.program_time import ProgramTime


@pytest.mark.trio
async def test_sleeps_and_timeouts_of_all_tasks_go_on_with_what_was_left(mock_clock: trio.testing.MockClock) -> None:
    time = ProgramTime()
    woke: dict[str, float] = {}

    async def sleep(name: str, length: float) -> None:
        with trio.move_on_after(100):
            await trio.sleep(length)
        woke[name] = trio.current_time()

    async def program() -> None:
        with time.track():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sleep, "child", 10)
                with trio.move_on_after(20):
                    await trio.sleep_forever()
                woke["time-out"] = trio.current_time()

    async def to(now: float) -> None:
        mock_clock.jump(now - trio.current_time())
        await trio.testing.wait_all_tasks_blocked()

    with trio.move_on_after(60) as around:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(program)
            nursery.start_soon(sleep, "stranger", 15)
            await trio.testing.wait_all_tasks_blocked()
            await to(4)
            time.hold()
            time.hold()
            assert around.deadline == 60 and around.cancel_called is False
            await to(30)
            assert woke == {"stranger": 30.0}, "that of another guest wakes when its time has come"
            time.release()
            time.release()
            await to(35.5)
            assert "child" not in woke
            await to(36)
            assert woke["child"] == 36, "6 s were left"
            await to(45)
            assert "time-out" not in woke
            await to(46)
    assert woke == {"stranger": 30, "child": 36, "time-out": 46}


@pytest.mark.trio
async def test_scopes_outside_of_the_program_are_left_alone(mock_clock: trio.testing.MockClock) -> None:
    time = ProgramTime()
    with trio.move_on_after(50) as around, time.track() as outermost, trio.move_on_after(20) as inner:
        outermost.deadline = 30
        time.hold()
        assert (around.deadline, outermost.deadline, inner.deadline) == (50, 30, math.inf)
        inner.deadline = 25  # what the program says itself counts
        time.release()
        assert inner.deadline == 25
        await trio.lowlevel.checkpoint()
    time.hold()
    time.release()
