"""Bonds under any order of carriers, lost and found: who is active has a link, and when all is quiet it is the right one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vnet.stack.bond import Activate, Announce, Bond, BondConfig, LinkState
from vnet.units import MILLISECOND

MS = MILLISECOND
QUIET = 5000 * MS
"""Longer than a look and every delay that is drawn."""

delays = st.sampled_from([0, 50 * MS, 100 * MS, 250 * MS, 1000 * MS])
configs = st.builds(
    BondConfig,
    miimon=st.sampled_from([1 * MS, 70 * MS, 100 * MS]), updelay=delays, downdelay=delays,
    primary=st.sampled_from([None, 0, 1, 2]), primary_reselect=st.sampled_from(["always", "better", "failure"]),
    num_grat_arp=st.integers(0, 3),
)  # fmt: skip
moves = st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 700)), max_size=30)
rates = st.lists(st.sampled_from([None, 10**8, 10**9]), min_size=3, max_size=3)


class Watched:
    """A bond, what its cables are like, and what it says."""

    def __init__(self, config: BondConfig, speeds: list[int | None]) -> None:
        self.bond = Bond(config, speeds)
        self.carriers = [False] * len(speeds)
        self.now = 0
        self.active: int | None = None

    def note(self, effects: list[object]) -> None:
        for effect in effects:
            assert isinstance(effect, Activate | Announce)
            if isinstance(effect, Activate):
                assert effect.member != self.active, "only changes are told"
                self.active = effect.member
            else:
                assert self.active is not None, "without a way out nothing is announced"
        states = self.bond.states
        assert self.active == self.bond.active
        if self.active is None:
            assert LinkState.UP not in states
        else:
            assert states[self.active] in (LinkState.UP, LinkState.FAIL)

    def carrier(self, index: int, up: bool) -> None:
        self.carriers[index] = up
        self.note(self.bond.carrier(index, up, self.now))

    def run(self, length: int) -> None:
        end = self.now + length
        rounds = 0
        while (due := self.bond.next_deadline()) is not None and due <= end:
            assert due > self.now or rounds == 0, "time goes on"
            self.now, rounds = due, rounds + 1
            self.note(self.bond.expire(self.now))
        self.now = end


@given(configs, rates, moves)
def test_the_active_member_has_a_link_and_quiet_brings_the_right_one(
    config: BondConfig, speeds: list[int | None], steps: list[tuple[int, bool, int]]
) -> None:
    watched = Watched(config, speeds)
    for index, up, pause in steps:
        watched.carrier(index, up)
        watched.run(pause * MS)
    watched.run(QUIET)
    assert watched.bond.next_deadline() is None, "nothing is left to do"
    known = [index for index in range(3) if watched.carriers[index]]
    assert [index for index, state in enumerate(watched.bond.states) if state is LinkState.UP] == known
    assert (watched.active in known) if known else watched.active is None
    if config.primary in known and config.primary_reselect == "always":
        assert watched.active == config.primary


@given(configs, rates, st.integers(1, 100_000))
def test_a_failure_is_noticed_within_miimon_and_downdelay(config: BondConfig, speeds: list[int | None], at: int) -> None:
    watched = Watched(config, speeds)
    for index in range(3):
        watched.carrier(index, True)
    watched.run(at * MS)
    active = watched.active
    assert active is not None
    watched.carrier(active, False)
    looks = config.downdelay // config.miimon
    watched.run(config.miimon * (looks + 1))
    assert watched.active not in (None, active)
