"""The ways out of a simulated lab's networks: the emulated machine, and changing them under traffic."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
import trio

import vnet
from vnet.errors import UsageError
from vnet.guests.emulated import EmulatedGuest
from vnet.runtime.change import change
from vnet.testing import Invariants
from vnet.topology import parse_topology
from vnet.topology.resolved import ResolvedTopology

TOPOLOGY = parse_topology(
    """
name: share
networks:
  office: {subnet: 10.10.10.0/24, adapter: {loopback: {address: 10.10.10.2}}}
  lab: {subnet: 10.10.20.0/24}
guests:
  a: {nics: [{network: office, address: 10.10.10.5}]}
  b: {nics: [{network: office, address: 10.10.10.6}]}
  c: {nics: [{network: lab, address: 10.10.20.5}]}
""",
    source="share",
)


async def reached(lab: vnet.Lab) -> set[tuple[str, str]]:
    return {pair for pair, reply in (await lab.ping_all()).items() if reply.ok}


def test_the_machine_is_a_guest_on_its_loopback_networks() -> None:
    async def main() -> set[tuple[str, str]]:
        async with vnet.open_lab(TOPOLOGY) as lab:
            assert lab.networks["office"].state == "up" and lab.networks["lab"].state == "internal"
            return await reached(lab)

    office = {"a", "b", "host"}
    assert vnet.simulate(main) == {(one, other) for one in office for other in office if one != other}


def test_a_rebound_network_keeps_its_guests_together() -> None:
    """VS-14: cut off by none, and the machine is back with loopback; guests notice nothing."""

    async def main() -> None:
        async with vnet.open_lab(TOPOLOGY) as lab:
            with Invariants(lab) as watch:
                both = {("a", "b"), ("b", "a")}
                await lab.networks["office"].rebind("none")
                assert await reached(lab) == both
                watch.check()
                await lab.networks["office"].rebind("{loopback: {address: 10.10.10.2}}")
                assert len(await reached(lab)) == 6
                watch.check()
                await lab.networks["lab"].rebind("loopback")
                assert (await lab.ping("c", "10.10.20.1")).ok
                assert (await lab.ping("host", "c")).ok and (await lab.ping("host", "a")).ok
                lab.faults.isolate("host")
                assert await reached(lab) == both

    vnet.simulate(main)


def test_a_connection_outlives_the_change() -> None:
    async def main() -> bytes:
        async with vnet.open_lab(TOPOLOGY) as lab, trio.open_nursery() as nursery:
            a, b = lab.guests["a"], lab.guests["b"]
            assert isinstance(a, EmulatedGuest) and isinstance(b, EmulatedGuest)

            async def echo(stream: trio.SocketStream) -> None:
                async for piece in stream:
                    await stream.send_all(piece)

            await nursery.start(b.serve_tcp, echo, 7)
            stream = await a.open_tcp_stream("b", 7)
            await stream.send_all(b"be")
            for adapter in ("none", "loopback", "none"):
                await lab.networks["office"].rebind(adapter)
            await stream.send_all(b"fore")
            got = b""
            while len(got) < 6:
                got += await stream.receive_some()
            nursery.cancel_scope.cancel()
            return got

    assert vnet.simulate(main) == b"before"


def test_it_is_noted_and_shown() -> None:
    async def main() -> None:
        async with vnet.open_lab(TOPOLOGY) as lab:
            answer = await change(lab, "network.lab", ["adapter={loopback: {address: 10.10.20.9/24, name: lo9}}"])
            assert answer == {"network": "lab", "adapter": "loopback lo9 10.10.20.9/24", "state": "up"}
            event = list(lab.events)[-1]
            assert (event.kind, event.fields["old"], event.fields["new"]) == ("rebind", "none", "loopback lo9 10.10.20.9/24")
            assert lab.guests["host"].interfaces()[1].name == "lo9"

    vnet.simulate(main)


@pytest.mark.parametrize(
    ("target", "setting", "told"),
    [
        ("network.offise", "adapter=none", "did you mean 'office'"),
        ("network.office", "adapter=briged", "'briged' is not one of: "),
        ("network.office", "adapter={loopback: {address: nowhere}}", "is not an IP address"),
        ("network.office", "adapter={loopback: {nam: x}}", "'nam' is not a key of a loopback adapter; did you mean 'name'?"),
        ("network.office", "adapter=[", "network office: "),
        ("network.office", "adapter=", "network office: "),
        ("network.office", "vlan=3", "there is no setting 'vlan'"),
    ],
)
def test_what_cannot_be_is_refused(target: str, setting: str, told: str) -> None:
    async def main() -> None:
        async with vnet.open_lab(TOPOLOGY) as lab:
            before = lab.topology
            with pytest.raises(UsageError) as caught:
                await change(lab, target, [setting])
            assert told in str(caught.value)
            assert lab.topology == before

    vnet.simulate(main)


def test_rebinding_makes_the_same_run_twice() -> None:
    async def main() -> list[object]:
        async with vnet.open_lab(TOPOLOGY) as lab:
            await lab.networks["office"].rebind("none")
            await lab.networks["lab"].rebind("loopback")
            await lab.ping_all()
            return [(event.instant, event.node, event.kind) for event in lab.events]

    assert vnet.simulate(main, seed=3) == vnet.simulate(main, seed=3)


def test_an_outward_adapter_is_an_open_end() -> None:
    topology: ResolvedTopology = parse_topology(
        "name: out\nnetworks: {wan: {subnet: 10.0.0.0/24, adapter: user}}\nguests: {a: {nics: [wan]}}", source="out"
    )

    async def main() -> str:
        async with vnet.open_lab(topology) as lab:
            return lab.networks["wan"].state

    assert vnet.simulate(main) == "open end"


def test_the_derived_address_is_free() -> None:
    topology = parse_topology(
        """
name: derived
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {}, adapter: loopback}}
routers: {gate: {interfaces: {lan: 10.0.0.1/24}}}
guests: {a: {nics: [lan]}}
""",
        source="derived",
    )

    async def main() -> tuple[object, bool]:
        async with vnet.open_lab(topology) as lab:
            await lab.wait_up()
            return lab.guests["host"].address, (await lab.ping("a", "host")).ok

    assert vnet.simulate(main) == (IPv4Address("10.0.0.3"), True)
