"""Branches and snapshots of simulated labs: exact copies, whose doings do not come back."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

import vnet
from tests.unit.runtime.branch_programs import (
    LAB,
    a_day,
    after,
    be_killed_with_a_branch_inside,
    die,
    fail,
    fail_as_turncoat,
    fail_unspeakably,
    for_ever,
    interrupt,
    interrupt_and_spin,
    leave,
    orphan,
    patience,
    pids,
    return_shifty,
    wait,
)
from vnet.errors import LabError, NoAnswer, SimulationStalled, UsageError
from vnet.runtime.lab import Lab
from vnet.runtime.sinks import FileSink
from vnet.wire import pcapng


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text(LAB)
    return path


def test_a_branch_goes_on_just_as_the_lab_does(topology: Path) -> None:
    async def main() -> None:
        async with vnet.open_lab(topology) as lab:
            await lab.wait_up()
            await trio.sleep(100)
            now, events = lab.now, lab.events.to_lines()
            first = await lab.branch(a_day)
            assert (lab.now, lab.events.to_lines()) == (now, events)
            assert await lab.branch(a_day) == first
            assert await lab.branch(a_day, losses=0.0) != first
            assert await a_day(lab) == first
            assert len(pcapng.read(first[0])) > 50

    vnet.simulate(main, seed=5)


def test_a_branch_of_a_branch(topology: Path) -> None:
    async def twice(lab: Lab) -> tuple[float, float, float]:
        await trio.sleep(1)
        return lab.now, await lab.branch(wait, 10), lab.now

    async def main() -> None:
        async with vnet.open_lab(topology) as lab:
            assert await lab.branch(twice) == (1, 11, 1)
            assert lab.now == 0

    vnet.simulate(main)


def test_a_snapshot_is_gone_back_to_again_and_again(topology: Path) -> None:
    async def main() -> None:
        async with vnet.open_lab(topology) as lab:
            await lab.wait_up()
            kept = await lab.snapshot()
            expected = await lab.branch(a_day)
            await trio.sleep(5000)
            later = await lab.snapshot()
            assert await kept.run(a_day) == expected == await kept.run(a_day, losses=0.1)
            assert await later.run(wait, 1) == lab.now + 1
            assert await kept.run(wait, seconds=1) == kept.instant + 1
            kept.close()
            kept.close()
            assert await later.run(wait, 2) == lab.now + 2
            with pytest.raises(UsageError, match="closed"):
                await kept.run(wait, 1)
            child, parent = await later.run(pids)
            assert parent not in (os.getpid(), child)

    vnet.simulate(main)
    with pytest.raises(ChildProcessError):  # with the lab they are gone, and nobody is left to be waited for
        os.waitpid(-1, os.WNOHANG)


def test_what_goes_wrong_in_a_branch_is_raised_here(topology: Path) -> None:
    async def main() -> None:
        async with vnet.open_lab(topology) as lab:
            kept = await lab.snapshot()
            for run in (lab.branch, kept.run):
                with pytest.raises(NoAnswer, match="nobody") as caught:
                    await run(fail, NoAnswer("nobody"))
                assert "in fail" in caught.value.__notes__[0]
                with pytest.raises(SimulationStalled, match="still waits"):
                    await run(for_ever)  # leases are renewed until the clock's limit
                with pytest.raises(LabError, match="died"):
                    await run(die)
                assert await run(wait, 1) == 1
            with pytest.raises(LabError, match="cancelled"), trio.move_on_after(5):
                await lab.branch(wait, 10)
            with trio.move_on_after(5):
                assert await lab.branch(wait, 4) == 4
            assert lab.now == 0

    vnet.simulate(main, limit=10**15)


async def hold_out(lab: Lab) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


def test_a_branch_that_holds_out_against_its_end_is_given_up_there_and_not_here(topology: Path) -> None:
    async def main() -> str:
        async with vnet.open_lab(topology) as lab:
            kept = await lab.snapshot()
            for run in (lab.branch, kept.run):
                with pytest.raises(SimulationStalled, match=r"this does not end: .*main at .*test_branch"):
                    await run(hold_out)
                assert await run(wait, 1) == 1
            return "went on"

    with patience():
        assert vnet.simulate(main) == "went on"


@pytest.mark.parametrize("count", [2, 3])
def test_tasks_that_branch_at_one_instant_do_not_disturb_each_other(topology: Path, count: int) -> None:
    async def main() -> tuple[list[tuple[float, int]], float, int]:
        answers: dict[int, tuple[float, int]] = {}

        async def one(number: int) -> None:
            await trio.sleep(10)
            answers[number] = await lab.branch(after, 2.0 + number)

        async with vnet.open_lab(topology) as lab:
            lab.links["left", "right"].loss = 0
            await lab.wait_up()
            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(one, number)
            return [answers[number] for number in range(count)], lab.now, os.getpid()

    with patience():
        answers, now, process = vnet.simulate(main)
    assert process == os.getpid()
    began = now
    for number, (ended, received) in enumerate(answers):
        assert received == 3 and began + 2 + number < ended < began + 2.1 + number


def test_a_branch_that_fails_beside_others_fails_alone(topology: Path) -> None:
    async def main() -> dict[str, object]:
        answers: dict[str, object] = {}

        async def one(name: str, function: Callable[..., Awaitable[object]], *args: object) -> None:
            try:
                answers[name] = await lab.branch(function, *args)
            except (LabError, KeyError) as error:
                answers[name] = f"{type(error).__name__}: {error}"

        async with vnet.open_lab(topology) as lab, trio.open_nursery() as nursery:
            nursery.start_soon(one, "slow", wait, 2)
            nursery.start_soon(one, "fails", fail_later)
            nursery.start_soon(one, "dies", die_later)
        return answers

    with patience():
        assert vnet.simulate(main) == {"slow": 2.0, "fails": "KeyError: 'mine'", "dies": "LabError: the branch died"}


async def fail_later(lab: Lab) -> None:
    await trio.sleep(1)
    raise KeyError("mine")


async def die_later(lab: Lab) -> None:
    await trio.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("inside", [True, False], ids=["branch", "snapshot"])
def test_branches_inside_a_branch_that_is_killed_end_with_it(topology: Path, inside: bool) -> None:
    async def main() -> None:
        reader, writer = os.pipe()
        async with vnet.open_lab(topology) as lab:
            with pytest.raises(LabError, match="the branch died"):
                await lab.branch(be_killed_with_a_branch_inside, inside, writer)
        os.close(writer)
        assert os.read(reader, 1) == b"", "all who had the other end are gone"
        os.close(reader)

    with patience():
        vnet.simulate(main)


async def deeper(lab: Lab, depth: int) -> int:
    return await lab.branch(deeper, depth + 1) if depth < 20 else depth


def test_branches_do_not_nest_without_end(topology: Path) -> None:
    async def main() -> None:
        async with vnet.open_lab(topology) as lab:
            with pytest.raises(UsageError, match="16 deep") as caught:
                await lab.branch(deeper, 1)
            first, *others = caught.value.__notes__
            assert "in _fork" in first and len(others) == 15, "a traceback of each branch"
            assert max(map(len, others)) < 4096, "none of them has those of the branches inside it"

    with patience():
        vnet.simulate(main)


def test_what_cannot_be_handed_over_is_said(topology: Path) -> None:
    async def local(lab: Lab) -> object:
        return lambda: None

    async def main() -> None:
        async with vnet.open_lab(topology) as lab:
            kept = await lab.snapshot()
            with pytest.raises(UsageError, match="cannot be handed back"):
                await lab.branch(local)
            with pytest.raises(UsageError, match="a function of a module"):
                await kept.run(local)
            for run in (lab.branch, kept.run):
                with pytest.raises(UsageError, match="cannot be made again here: invalid literal"):
                    await run(return_shifty)
                with pytest.raises(LabError, match="Turncoat: of all") as caught:
                    await run(fail_as_turncoat)
                assert "in fail" in caught.value.__notes__[0]

    vnet.simulate(main)


def test_files_stay_with_the_lab(topology: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"

    async def main() -> None:
        async with vnet.open_lab(topology) as lab:
            await lab.wait_up()
            capture = lab.captures.start(FileSink(path), ["one"])
            await lab.branch(a_day)
            await lab.ping("one", "two")
            assert capture.recorded >= 1

    vnet.simulate(main)
    packets = pcapng.read(path.read_bytes())
    assert 1 <= len(packets) < 20
    assert pcapng.closing_statistics(path.read_bytes())[0][1] == len(packets)


@pytest.mark.usefixtures("run_directory")
def test_only_a_simulated_lab_of_its_own_can_be_branched(topology: Path, tmp_path: Path) -> None:
    async def live() -> None:
        async with vnet.open_lab(topology, emulate=True) as lab:
            with pytest.raises(UsageError, match="only a simulated lab"):
                await lab.branch(wait, 1)

    async def stateful() -> None:
        async with vnet.open_lab(topology, state=tmp_path / "state") as lab:
            with pytest.raises(UsageError, match="state file"):
                await lab.snapshot()

    async def many() -> None:
        async with vnet.open_lab(topology) as lab:
            for _ in range(64):
                await lab.snapshot()
            with pytest.raises(UsageError, match="64 snapshots"):
                await lab.snapshot()

    trio.run(live)
    vnet.simulate(stateful)
    vnet.simulate(many)


def test_snapshots_of_two_labs_are_closed_in_any_order(topology: Path) -> None:
    other = vnet.parse_topology(LAB.replace("name: fork", "name: spoon"))

    async def main() -> None:
        async with vnet.open_lab(topology) as one, vnet.open_lab(other) as two:
            first, second = await one.snapshot(), await two.snapshot()
            first.close()  # the process of the second has inherited it
            assert await second.run(wait, 1) == 1
            await one.snapshot()

    with patience():
        vnet.simulate(main)


def test_a_copy_that_ends_without_an_answer_is_not_waited_for(topology: Path) -> None:
    async def main() -> None:
        async with vnet.open_lab(topology) as lab:
            kept = await lab.snapshot()
            for run in (lab.branch, kept.run):
                with pytest.raises(LabError, match="the branch died"):
                    await run(leave)
                with pytest.raises(LabError, match="Unspeakable"):
                    await run(fail_unspeakably)
                assert await run(wait, 1) == 1

    with patience():
        vnet.simulate(main)


@pytest.mark.parametrize("work", [interrupt, interrupt_and_spin])
def test_an_interrupted_run_ends_its_copy_and_the_snapshot(
    topology: Path, work: Callable[[Lab, int], Awaitable[object]]
) -> None:
    class Interrupted(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        raise Interrupted

    async def main() -> None:
        async with vnet.open_lab(topology) as lab:
            reader, writer = os.pipe()
            kept = await lab.snapshot()
            os.close(writer)
            with pytest.raises(Interrupted):
                await kept.run(work, os.getpid())
            assert os.read(reader, 1) == b"", "all who had the other end are gone"
            os.close(reader)
            with pytest.raises(UsageError, match="closed"):
                await kept.run(wait, 1)
            assert lab.snapshots == []

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with patience():
            vnet.simulate(main)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_snapshot_that_was_killed_is_an_error_of_the_lab(topology: Path) -> None:
    async def main() -> None:
        async with vnet.open_lab(topology) as lab:
            kept, other = await lab.snapshot(), await lab.snapshot()
            _, process = await kept.run(pids)
            os.kill(process, signal.SIGKILL)
            os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it has ended
            for snapshot, work in ((kept, pids), (other, orphan)):
                with pytest.raises(LabError, match="the snapshot died"):
                    await snapshot.run(work)
                with pytest.raises(UsageError, match="closed"):
                    await snapshot.run(pids)

    with patience():
        vnet.simulate(main)
