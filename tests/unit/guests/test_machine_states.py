"""The states of a machine, and the moves between them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio
import trio.testing

from vnet.errors import UsageError
from vnet.guests.machine_life import ASKED, TRANSITIONS, Life, MachineState, Move, checked_tag

S, M = MachineState, Move


def test_the_numbers_are_those_of_the_card() -> None:
    """VS-82; 9 and 10, merging drives and deleting, do not happen."""
    codes = {state.code: state.value for state in MachineState}
    assert codes == {
        0: "failed", 1: "stopped", 2: "saved", 3: "starting", 4: "restoring", 5: "running", 6: "paused", 7: "saving",
        8: "stopping",
    }  # fmt: skip


def test_only_these_may_be_asked() -> None:
    legal = {
        S.STOPPED: {M.START, M.STOP},
        S.FAILED: {M.START, M.STOP},
        S.SAVED: {M.START, M.RESTORE, M.STOP},
        S.STARTING: {M.STOP},
        S.RESTORING: {M.STOP},
        S.RUNNING: {M.PAUSE, M.RESET, M.SHUT_DOWN, M.STOP, M.SAVE, M.KEEP, M.GO_BACK},
        S.PAUSED: {M.RESUME, M.RESET, M.STOP, M.SAVE, M.KEEP, M.GO_BACK},
        S.SAVING: {M.STOP},
        S.STOPPING: {M.STOP},
    }
    assert {state: {move for move in ASKED if (state, move) in TRANSITIONS} for state in S} == legal
    for state in S:
        for move in M:
            life = Life("vm")
            life.state = state
            if (state, move) in TRANSITIONS:
                life.move(move)
                assert life.state is TRANSITIONS[state, move]
            else:
                with pytest.raises(UsageError, match=f"cannot .* vm: it is {state.value}, and must be "):
                    life.move(move)
                assert life.state is state


def test_the_docs_have_the_same_table() -> None:
    """docs/vms.md; that what is off may be told to stop all the same changes nothing, and is left out there."""
    words = {
        M.START: "start", M.STOP: "stop", M.SHUT_DOWN: "shutdown", M.PAUSE: "pause", M.RESUME: "resume", M.RESET: "reset",
        M.SAVE: "save", M.KEEP: "save=NAME", M.RESTORE: "restore", M.GO_BACK: "restore=NAME",
    }  # fmt: skip
    page = (Path(__file__).parents[3] / "docs/vms.md").read_text()
    told: dict[str, set[str]] = {}
    codes: dict[str, int] = {}
    for states, numbers, moves in re.findall(r"^\| (`[a-z`, ]+) \| ([\d, ]+) \| (`.*) \|$", page, re.MULTILINE):
        for state, number in zip(re.findall(r"\w+", states), re.findall(r"\d+", numbers), strict=True):
            told[state], codes[state] = set(re.findall(r"`([^`]+)`", moves)), int(number)
    assert codes == {state.value: state.code for state in S}
    assert told == {
        state.value: {words[each] for each in ASKED - ({M.STOP} if state.is_off else set()) if (state, each) in TRANSITIONS}
        for state in S
    }


def test_every_state_is_reached_and_left() -> None:
    assert {after for (_, _), after in TRANSITIONS.items()} == set(S)
    assert {before for (before, _), after in TRANSITIONS.items() if after is not before} == set(S)
    passing = {S.STARTING, S.RESTORING, S.SAVING, S.STOPPING}
    for state in passing:
        assert any(move not in ASKED and (state, move) in TRANSITIONS for move in M), "it must end by itself"


def test_an_error_names_what_was_asked_and_what_is_needed() -> None:
    life = Life("vm")
    for move, text in (
        (M.PAUSE, "cannot pause vm: it is stopped, and must be running"),
        (M.SHUT_DOWN, "cannot shut down vm: it is stopped, and must be running"),
        (M.KEEP, "cannot save vm: it is stopped, and must be running or paused"),
        (M.GO_BACK, "cannot restore vm: it is stopped, and must be running or paused"),
        (M.RESTORE, "cannot restore vm: it is stopped, and must be saved"),
    ):
        with pytest.raises(UsageError) as caught:
            life.check(move)
        assert str(caught.value) == text
    life.state = S.RUNNING
    with pytest.raises(UsageError, match="cannot start vm: it is running, and must be stopped or saved or failed"):
        life.move(M.START)


@pytest.mark.trio
async def test_who_waits_is_told(autojump_clock: trio.testing.MockClock) -> None:
    life = Life("vm")
    seen: list[str] = []

    async def wait(*states: str) -> None:
        await life.wait(*states)
        seen.append(life.state.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "running")
        nursery.start_soon(wait, "failed", "saved")
        await trio.testing.wait_all_tasks_blocked()
        life.move(M.START)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == []
        life.move(M.HAS_STARTED)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == ["running"]
        life.move(M.FAILED, "crashed")
    assert (seen, life.error) == (["running", "failed"], "crashed")
    life.move(M.START)
    assert life.error == ""


@pytest.mark.parametrize("tag", ["", "a b", "1st", "x" * 64, "a\nquit", "ä"])
def test_names_of_saved_states_are_plain(tag: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a saved state"):
        checked_tag(tag)
