"""Faults between real namespaces: Linux's own pings end, and come back."""

from __future__ import annotations

import pytest

import vnet
from vnet.errors import UsageError
from vnet.testing import expect, never

pytestmark = pytest.mark.real

PAIR = """
name: live-faults
networks: {lan: {subnet: 10.78.0.0/24}}
guests:
  a: {kind: namespace, nics: [{network: lan, address: 10.78.0.1/24}]}
  b: {kind: namespace, nics: [{network: lan, address: 10.78.0.2/24}]}
  c: {nics: [{network: lan, address: 10.78.0.3/24}]}
"""


@pytest.mark.trio
async def test_linux_guests_are_parted_isolated_and_flapped(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("VNET_RUN_DIR", str(tmp_path))
    async with vnet.open_lab(vnet.parse_topology(PAIR)) as lab:
        before = await lab.reachability()
        assert len(before.pairs) == 6
        with lab.faults.partition("a", "b") as fault:
            parted = await lab.reachability(timeout=0.5)
            assert parted.pairs == before.pairs - {("a", "b"), ("b", "a")}
            assert fault.frames
        async with never(lab, "icmp", "c"), expect(lab, "icmp", "b").within("5s"):
            assert (await lab.ping("a", "b")).ok
        with lab.faults.isolate("a"):
            assert (await lab.reachability(timeout=0.5)).pairs == {("b", "c"), ("c", "b")}
        lab.faults.flap("a", times=1, period="200ms")
        assert not lab.links["a:eth0"].up
        await lab.advance("300ms")
        assert lab.links["a:eth0"].up
        assert not before.compare(await lab.reachability(timeout=5))
        with pytest.raises(UsageError, match="only emulated guests can crash"):
            lab.faults.crash("a")
