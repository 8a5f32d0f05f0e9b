"""Faults that last while the machine of a simulated lab gets other interfaces: they hold there as well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

import vnet
from vnet.runtime.lab import Lab

TOPOLOGY = vnet.parse_topology("""
name: two
networks:
  a: {subnet: 10.0.0.0/24, adapter: {loopback: {name: v0}}}
  b: {subnet: 10.0.1.0/24}
guests:
  x: {nics: [{network: a, address: 10.0.0.5/24}]}
  y: {nics: [{network: b, address: 10.0.1.5/24}]}
""")
RENAMED = "{loopback: {name: v1, mac: 02:00:00:00:00:77}}"


def run(body: Callable[[Lab], Awaitable[None]]) -> None:
    async def main() -> None:
        async with vnet.open_lab(TOPOLOGY) as lab:
            await body(lab)

    vnet.simulate(main)


async def reaches(lab: Lab, guest: str, address: str) -> bool:
    return (await lab.ping(guest, address, timeout=5)).ok


@pytest.mark.parametrize("change", ["{loopback: {name: v1}}", "none", "loopback"])
def test_a_machine_stays_isolated_at_an_interface_that_changes(change: str) -> None:
    async def body(lab: Lab) -> None:
        assert await reaches(lab, "x", "10.0.0.1")
        fault = lab.faults.isolate("host")
        assert not await reaches(lab, "x", "10.0.0.1")
        await lab.networks["a"].rebind(change)
        if change == "none":
            await lab.networks["a"].rebind("{loopback: {name: v0}}")
        assert not await reaches(lab, "x", "10.0.0.1") and not await reaches(lab, "host", "10.0.0.5")
        taken = fault.frames
        fault.heal()
        assert taken and await reaches(lab, "x", "10.0.0.1") and await reaches(lab, "host", "10.0.0.5")

    run(body)


def test_an_isolated_machine_is_so_on_a_network_that_it_joins() -> None:
    async def body(lab: Lab) -> None:
        with lab.faults.isolate("host"):
            await lab.networks["b"].rebind("loopback")
            assert not await reaches(lab, "y", "10.0.1.1")
        assert await reaches(lab, "y", "10.0.1.1")

    run(body)


def test_a_partition_knows_the_address_and_mac_that_a_machine_has_now() -> None:
    async def body(lab: Lab) -> None:
        with lab.faults.partition("host", "x"):
            await lab.networks["a"].rebind(RENAMED)
            await lab.networks["b"].rebind("loopback")
            assert not await reaches(lab, "x", "10.0.0.1") and not await reaches(lab, "host", "10.0.0.5")
            assert await reaches(lab, "y", "10.0.1.1"), "y is on neither side"
        assert await reaches(lab, "x", "10.0.0.1")

    run(body)
