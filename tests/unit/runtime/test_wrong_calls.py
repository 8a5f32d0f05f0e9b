"""What a test writes wrongly is told as it should have been written, not by an error from the depths."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio

import vnet
from vnet.errors import UsageError
from vnet.runtime.lab import Lab
from vnet.testing import Invariants, expect, never

LAB = """
name: tiny
networks: {lan: {subnet: 10.0.0.0/24}}
switches: {x: {}, y: {}}
links: [{between: [x, y], trunk: all}]
guests:
  a: {nics: [{network: lan, address: 10.0.0.1/24}]}
  b: {switch: y, nics: [{network: lan, address: 10.0.0.2/24}]}
  c: {nics: [{network: lan, address: 10.0.0.3/24}]}
"""
PARTITION = r"write it as lab.faults.partition\(\['a', 'b'\], 'c'\)"


async def about(lab: Lab) -> str:
    return lab.name


async def about_nothing() -> None:
    """Take no lab."""


CALLS: list[tuple[Callable[[Any], object], str]] = [
    (lambda lab: lab.faults.partition("a", "b", "c"), "partition: too many .*" + PARTITION),
    (lambda lab: lab.faults.partition("a"), "partition: missing .*'other'; " + PARTITION),
    (lambda lab: lab.faults.partition(1, 2), "not by 1"),
    (lambda lab: lab.faults.partition(["a", None], "b"), "such as 'a', not by None"),
    (lambda lab: lab.faults.partition(lab.guests["a"], "b"), "named by text.* not by <EmulatedGuest a>"),
    (lambda lab: lab.faults.isolate(["a", "b"]), r"not by \['a', 'b'\]"),
    (lambda lab: lab.faults.flap(lab.links["x", "y"]), "a link is named by text"),
    (lambda lab: lab.faults.flap("x-y", period=None), "None is not a duration"),
    (lambda lab: lab.faults.crash("a", "b"), r"crash: too many .* as lab.faults.crash\('web'\)"),
    (lambda lab: lab.faults.crash(lab.guests["a"]), "a guest is named by text"),
    (lambda lab: lab.faults.restart(), "restart: missing"),
    (lambda lab: lab.faults.heal("a"), r"heal: too many .* as lab.faults.heal\(\)"),
    (lambda lab: lab.at("1s"), r"at: missing .*'action'; write it as lab.at\('90s'"),
    (lambda lab: lab.at("1s", lab.faults.heal()), "None is no function"),
    (lambda lab: lab.at("1s", lab.faults.crash), "crash: missing .*'guest'; write it as lab.at"),
    (lambda lab: lab.at("1s", lab.advance, 3), "advance is async"),
    (lambda lab: lab.at("1s", partial(about, lab)), "about.* is async"),
    (lambda lab: lab.at(None, print), "None is not a duration"),
    (lambda lab: lab.advance(), "advance: missing"),
    (lambda lab: lab.advance([1]), r"\[1\] is not a duration"),
    (lambda lab: lab.sleep_until_idle(quite=3), "unexpected keyword argument 'quite'"),
    (lambda lab: lab.branch(5), "5 is no function"),
    (lambda lab: lab.branch(lambda _: 5), "this one returned 5"),
    (lambda lab: lab.branch(about(lab)), "about was called already"),
    (lambda lab: lab.branch(about, 1), "about: too many"),
    (lambda lab: lab.branch(about_nothing), "about_nothing: too many .* takes the lab first"),
    (lambda lab: lab.snapshot(1), "snapshot: too many"),
    (lambda lab: lab.reachability(tcp=80), r"reachability: got .*'tcp'; write it as await lab.reachability\('tcp', 80\)"),
    (lambda lab: lab.reachability("tcp", "80"), "'80' is no port"),
    (lambda lab: lab.reachability("tcp", 65536), "65536 is no port"),
    (lambda lab: lab.reachability(timeout=None), "None is no time-out"),
    (lambda lab: lab.ping("a", 5), "not 5"),
    (lambda lab: lab.ping("a", "b", count="3"), "not '3'"),
    (lambda lab: lab.ping("a", "b", timeout="soon"), "'soon' is not a duration"),
    (lambda lab: lab.ping_all(-1), "-1 is no time-out"),
    (lambda lab: lab.wait_up(float("nan")), "nan is no time-out"),
    (lambda lab: expect("tcp"), r"expect: missing .* async with expect\(lab"),
    (lambda lab: expect("tcp", "a"), "of a lab, which 'tcp' is not"),
    (lambda lab: expect(lab, 5), "5 is not"),
    (lambda lab: expect(lab, "tcp", ["a"]), r"\['a'\] is not"),
    (lambda lab: expect(lab, "tcp").within(), "within: missing"),
    (lambda lab: expect(lab, "tcp").__enter__(), "write async with"),
    (lambda lab: never(lab, "tcp", canary=False), "unexpected keyword argument 'canary'"),
    (lambda lab: lab.guests["a"].ping(5), "a target is an address, a name or a guest, not 5"),
    (lambda lab: lab.guests["a"].tcp_probe("b", "80"), "'80' is not a port"),
    (lambda lab: lab.guests["a"].open_tcp_stream("b", "80"), "'80' is not a port"),
    (lambda lab: Invariants("lab"), "of a lab, which 'lab' is not"),
    (lambda lab: Invariants(), r"write it as Invariants\(lab\)"),
    (lambda lab: lab.links[5], "not by 5"),
    (lambda lab: lab.links["x", 5], r"not by \('x', 5\)"),
    (lambda lab: lab.links["a", "b"], "no link joins a and b"),
    (lambda lab: lab.links["x-z"], "there is no link 'x-z'; did you mean 'x-y'?"),
    (lambda lab: lab.guests[None], "not by None"),
    (lambda lab: lab.switches["z"], "there is no switch 'z'; there are: x, y"),
    (lambda lab: lab.routers["r"], "there is no router 'r'; there are: none"),
    (lambda lab: lab.dhcp["lan"], "there is no network with DHCP 'lan'"),
    (lambda lab: lab.ports["a:eth1"], "there is no port 'a:eth1'; did you mean 'a:eth0'?"),
]


@pytest.mark.parametrize(("call", "says"), CALLS)
def test_a_wrong_call_says_how_to_write_it(call: Callable[[Lab], object], says: str) -> None:
    async def main() -> None:
        async with vnet.open_lab(vnet.parse_topology(LAB)) as lab:
            with pytest.raises(UsageError, match=says):
                answer = call(lab)
                assert hasattr(answer, "__await__"), f"it gave {answer!r}"
                await answer
            assert (await lab.ping("a", "b")).ok

    vnet.simulate(main)


@pytest.mark.parametrize(("call", "says"), [
    (lambda before: before["a"], "'a' was not probed"), (lambda before: before[5], "5 was not probed"),
    (lambda before: before["a", "z"], "a to z was not probed"), (lambda before: before.compare(None), "None is no matrix"),
    (lambda before: before.compare(), "compare: missing"),
])  # fmt: skip
def test_a_matrix_says_how_to_ask_it(call: Callable[[Any], object], says: str) -> None:
    async def main() -> None:
        async with vnet.open_lab(vnet.parse_topology(LAB)) as lab:
            before = await lab.reachability(timeout="1s")
            with pytest.raises(UsageError, match=says):
                call(before)

    vnet.simulate(main)


def test_a_type_error_of_ones_own_comes_out_as_it_is() -> None:
    def add(one: int) -> None:
        "1" + one  # type: ignore[operator]

    async def fail(lab: Lab) -> None:
        add(1)

    async def main() -> None:
        async with vnet.open_lab(vnet.parse_topology(LAB)) as lab:
            with pytest.raises(TypeError, match="concatenate"):
                await lab.branch(fail)
            lab.at(1, add, 1)
            await trio.sleep(2)

    with pytest.raises(TypeError, match="concatenate"):
        vnet.simulate(main)


def test_parts_can_be_asked_for_without_an_error() -> None:
    async def main() -> None:
        async with vnet.open_lab(vnet.parse_topology(LAB)) as lab:
            assert lab.guests.get("z") is None and lab.switches.get("x") is lab.switches["x"]
            assert "x" in lab.switches and 5 not in lab.switches and list(lab.switches) == ["x", "y"]
            assert lab.links.get("x-y") is lab.links["y", "x"] is lab.links.get(("x", "y")) and lab.links.get("z") is None

    vnet.simulate(main)
