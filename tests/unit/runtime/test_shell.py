"""The task that drives a live lab: fair under load, at rest when idle, at once on time."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from vnet.fabric.timeline import Timeline
from vnet.runtime.shell import LINGER, Shell
from vnet.units import MILLISECOND, SECOND

pytestmark = pytest.mark.trio


class CountingEpoll:
    """An epoll descriptor that counts how often it was asked."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self.fileno, self.register, self.unregister = epoll.fileno, epoll.register, epoll.unregister
        self.modify, self.close = epoll.modify, epoll.close
        self.polls = 0
        self.on_poll: Callable[[float], None] = lambda timeout: None

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        self.polls += 1
        self.on_poll(timeout)
        return self._epoll.poll(timeout, most)


@asynccontextmanager
async def driven() -> AsyncIterator[tuple[Shell, CountingEpoll]]:
    shell = Shell(Timeline())
    epoll = CountingEpoll(shell._epoll)
    shell._epoll = epoll  # type: ignore[assignment]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shell.run)
        yield shell, epoll
        nursery.cancel_scope.cancel()
    shell.close()


@pytest.mark.parametrize("events", [False, True])
async def test_other_tasks_have_their_turn_under_traffic_without_end(events: bool) -> None:
    """Frames and events that never stop leave a task that sleeps its turns, and stop no deadline."""
    async with driven() as (shell, _):
        read_end, write_end = os.pipe()
        os.write(write_end, b"there is always more")
        frames = 0

        def on_readable() -> None:
            nonlocal frames
            frames += 1

        def event() -> None:
            shell.timeline.soon(event)

        shell.register(read_end, on_readable)
        if events:
            event()
        steps = 0
        started = time.monotonic()
        with trio.move_on_after(0.2):
            while True:
                await trio.sleep(0.0001)
                steps += 1
        took = time.monotonic() - started
        shell.unregister(read_end)
        os.close(read_end)
        os.close(write_end)
    assert frames > 10
    assert took < 1 and steps > 3


async def test_an_idle_lab_rests() -> None:
    async with driven() as (shell, epoll):
        shell.timeline.at(shell.timeline.now + 3600 * SECOND, lambda: None)
        await trio.sleep(0.01)  # the shell has armed its timer, and waits
        polls, used = epoll.polls, time.process_time()
        await trio.sleep(1)
        used = time.process_time() - used
    assert epoll.polls - polls <= 1
    assert used < 0.1


async def test_a_lone_event_costs_a_wake_up_and_a_linger() -> None:
    """After work the shell waits for more by itself once, and then leaves the waiting to trio."""
    async with driven() as (shell, epoll):
        await trio.sleep(0.01)
        before = epoll.polls
        ran = trio.Event()
        quiet = []

        def work() -> None:
            quiet.append(shell.timeline.now)

        due = shell.timeline.now + 5 * MILLISECOND
        shell.timeline.at(due, work)
        shell.timeline.at(due + 100 * MILLISECOND, ran.set)
        with trio.fail_after(5):
            await ran.wait()
        assert 0 <= quiet[0] - due < 50 * MILLISECOND
        assert epoll.polls - before <= 8


async def test_a_task_that_an_event_wakes_runs_before_the_linger_is_over() -> None:
    async with driven() as (shell, epoll):
        woken = trio.Event()
        shell.timeline.at(shell.timeline.now + MILLISECOND, woken.set)
        with trio.fail_after(5):
            await woken.wait()
        polls = epoll.polls
    assert polls <= 2 and LINGER > 0


async def test_an_event_that_becomes_the_next_while_the_shell_lingers_is_on_time() -> None:
    """A frame read in the linger sets a timer of its own: it must not wait for another frame."""
    async with driven() as (shell, _):
        read_end, write_end = os.pipe()
        done = trio.Event()
        instants = []

        def on_readable() -> None:
            os.read(read_end, 1)
            if not instants:
                os.write(write_end, b"2")  # found by the first look after the work
            instants.append(shell.timeline.now)
            if len(instants) == 2:
                shell.timeline.at(shell.timeline.now + 3 * MILLISECOND, done.set)

        shell.register(read_end, on_readable)
        os.write(write_end, b"1")
        with trio.fail_after(5):
            await done.wait()
        assert shell.timeline.now - instants[1] < 50 * MILLISECOND
        shell.unregister(read_end)
        os.close(read_end)
        os.close(write_end)


async def test_a_task_that_was_woken_does_not_wait_until_no_more_frames_come() -> None:
    """Whether trio runs it before or after the shell, which is up to chance: the shell must not wait while it is ready."""
    async with driven() as (shell, epoll):
        read_end, write_end = os.pipe()
        woken = trio.Event()
        is_ready, kept_waiting = False, 0

        def on_readable() -> None:
            nonlocal is_ready
            if os.read(read_end, 1) == b"a":
                woken.set()
                is_ready = True

        def on_poll(timeout: float) -> None:
            nonlocal kept_waiting
            kept_waiting += timeout > 0 and is_ready

        shell.register(read_end, on_readable)
        epoll.on_poll = on_poll
        for _ in range(50):
            os.write(write_end, b"ab")  # the first wakes us, and the second the shell once more
            await woken.wait()
            is_ready, woken = False, trio.Event()
            await trio.sleep(2 * LINGER)  # until all is quiet
        assert kept_waiting == 0
        shell.unregister(read_end)
        os.close(read_end)
        os.close(write_end)


async def test_what_is_wanted_of_a_descriptor_can_change_at_any_time() -> None:
    """Reading stops while a writer waits, and one that is hung up wakes nobody who wants nothing of it."""
    async with driven() as (shell, epoll):
        ours, theirs = socket.socketpair()
        seen: list[str] = []
        theirs.send(b"x")
        shell.wants_read(ours.fileno(), lambda: seen.append("read"))
        await trio.sleep(0.01)
        assert "read" in seen
        shell.wants_read(ours.fileno(), None)
        seen.clear()
        shell.wants_write(ours.fileno(), lambda: seen.append("write"))
        await trio.sleep(0.01)
        assert set(seen) == {"write"}
        shell.wants_write(ours.fileno(), None)
        theirs.close()
        await trio.sleep(0.01)
        seen.clear()
        polls = epoll.polls
        await trio.sleep(0.05)
        assert not seen and epoll.polls - polls < 5
        shell.wants_read(ours.fileno(), lambda: (seen.append("read"), shell.unregister(ours.fileno()))[0])
        await trio.sleep(0.01)
        assert seen == ["read"]
        ours.close()
