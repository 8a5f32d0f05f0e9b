"""When a lab is idle, and exact lengths of lab time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

import vnet
from vnet.errors import LabError
from vnet.fabric.timeline import Timeline
from vnet.runtime.lab import Lab
from vnet.units import MILLISECOND, SECOND

LAN = vnet.parse_topology("""
name: lan
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {lease: 1h}}}
guests:
  a: {nics: [{network: lan, address: 10.0.0.1/24}]}
  b: {nics: [{network: lan, latency: 300ms}]}
""")


def run(body: Callable[[Lab], Awaitable[None]]) -> None:
    async def main() -> None:
        async with vnet.open_lab(LAN) as lab:
            await body(lab)

    vnet.simulate(main)


def test_a_starting_lab_is_idle_once_its_guests_have_settled() -> None:
    async def body(lab: Lab) -> None:
        await lab.sleep_until_idle()
        assert lab.guests["b"].address is not None
        assert 4 < lab.now < 30, "neither before the address was probed, nor at the first renewal"
        before = lab.timeline.now
        await lab.sleep_until_idle()
        assert lab.timeline.now == before, "an idle lab is idle at once"

    run(body)


def test_frames_under_way_and_sleeping_tasks_are_waited_for() -> None:
    async def body(lab: Lab) -> None:
        await lab.sleep_until_idle()
        got: list[int] = []
        lab.guests["a"].host.udp_bind(9, on_datagram=lambda payload, source: got.append(lab.timeline.now))
        socket = await lab.guests["b"].open_udp_socket()

        async def speak_later() -> None:
            await trio.sleep(3)
            await socket.send_to(b"hello", ("10.0.0.1", 9))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(speak_later)
            await lab.sleep_until_idle()
            assert got and got[0] <= lab.timeline.now < got[0] + 10 * SECOND

    run(body)


def test_the_time_out_around_it_does_not_count() -> None:
    async def body(lab: Lab) -> None:
        await lab.sleep_until_idle()
        before = lab.timeline.now
        with trio.fail_after(2):
            await lab.sleep_until_idle()
        assert lab.timeline.now == before

    run(body)


def test_two_may_wait() -> None:
    async def body(lab: Lab) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lab.sleep_until_idle)
            nursery.start_soon(lab.sleep_until_idle)
        assert lab.now < 30

    run(body)


def test_a_lab_that_never_rests_is_told_after_the_limit() -> None:
    async def body(lab: Lab) -> None:
        await lab.sleep_until_idle()
        start = lab.timeline.now

        def hello() -> None:
            lab.at(2, hello)

        hello()
        with pytest.raises(LabError, match=r"not idle after 1min: still due: .*Planned.run"):
            await lab.sleep_until_idle(limit="60s")
        assert lab.timeline.now - start == 60 * SECOND
        await lab.sleep_until_idle(quiet=1)

    run(body)


def test_a_task_that_never_rests_is_told_too() -> None:
    async def body(lab: Lab) -> None:
        async def tick() -> None:
            for _ in range(1000):
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            with pytest.raises(LabError, match="a task that sleeps|still due"):
                await lab.sleep_until_idle(limit=100)
            nursery.cancel_scope.cancel()

    run(body)


def test_time_advances_exactly() -> None:
    async def body(lab: Lab) -> None:
        before = lab.timeline.now
        await lab.advance("1h1ns")
        assert lab.timeline.now - before == 3600 * SECOND + 1
        await lab.advance(0.001)
        assert lab.timeline.now - before == 3600 * SECOND + 1 + MILLISECOND

    run(body)


@pytest.mark.trio
@pytest.mark.usefixtures("run_directory")
async def test_a_live_lab_is_idle_when_no_frame_passes() -> None:
    fixed = vnet.parse_topology(
        "{name: quiet, networks: {lan: {subnet: 10.0.0.0/24}}, guests: {a: {nics: [{network: lan, address: 10.0.0.1/24}]},"
        " b: {nics: [{network: lan, address: 10.0.0.2/24}]}}}"
    )
    async with vnet.open_lab(fixed, emulate=True) as lab:
        assert (await lab.ping("a", "b")).ok
        await lab.sleep_until_idle(quiet="20ms")
        async with trio.open_nursery() as nursery:

            async def chatter() -> None:
                while True:
                    await lab.ping("a", "b")
                    await trio.sleep(0.005)

            nursery.start_soon(chatter)
            with pytest.raises(LabError, match="frames still pass"):
                await lab.sleep_until_idle(quiet="400ms", limit="400ms")
            nursery.cancel_scope.cancel()
        await lab.advance("2ms")


def test_pending_leaves_out_alarms_that_are_not_due() -> None:
    timeline = Timeline()
    one, two = timeline.alarm(run_one), timeline.alarm(run_two)
    one.set(5)
    two.set(7)
    timeline.at(6, run_three)
    assert timeline.pending(6) == [(5, run_one), (6, run_three)]
    one.set(9)
    assert timeline.pending(6) == [(6, run_three)]
    two.set(None)
    assert timeline.pending(20) == [(6, run_three), (9, run_one)]
    one.set(2)
    assert timeline.pending(20) == [(2, run_one), (6, run_three)]


def run_one() -> None: ...
def run_two() -> None: ...
def run_three() -> None: ...
