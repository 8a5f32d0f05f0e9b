"""Any lab, any order of faults, changes and traffic: what must be true stays so, and one seed is one run."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import vnet
from vnet.switch.vlan import VlanConfig
from vnet.testing.strategies import Step, plans, play, topologies
from vnet.topology.resolved import ResolvedTopology

Case = tuple[ResolvedTopology, list[Step]]

cases: st.SearchStrategy[Case] = topologies().flatmap(lambda each: st.tuples(st.just(each), plans(each)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases, st.integers(0, 3))
def test_the_invariants_hold_after_each_step(case: Case, seed: int) -> None:
    vnet.simulate(play, *case, seed=seed)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases)
def test_one_seed_is_one_run(case: Case) -> None:
    runs = [vnet.simulate(play, *case, seed=1) for _ in range(2)]
    assert runs[0].events.to_lines() == runs[1].events.to_lines()
    assert runs[0].timeline.now == runs[1].timeline.now


def test_a_switch_that_mixes_vlans_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VlanConfig, "is_member", lambda self, vid: True)
    quick = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]

    @settings(max_examples=100, deadline=None, phases=[Phase.generate], suppress_health_check=quick, database=None)
    @given(cases)
    def find(case: Case) -> None:
        vnet.simulate(play, *case)

    with pytest.raises(AssertionError, match="received what nobody sent in VLAN"):
        find()
