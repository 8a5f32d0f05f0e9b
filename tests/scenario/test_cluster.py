"""A cluster of two storage nodes, topologies/xen-cluster.yaml: what is lost with which network, and what fencing is for.

host3 has the virtual address at the beginning. The programs are those of topologies/cluster.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import vnet
from vnet.runtime.filter import compile_filter
from vnet.runtime.lab import Lab
from vnet.runtime.sinks import MemorySink
from vnet.wire.pcapng import read

CLUSTER = str(Path(__file__).parents[2] / "topologies" / "xen-cluster.yaml")
VIRTUAL = "192.168.0.75"
EXPORT = 14567


def owners(lab: Lab) -> list[str]:
    return [name for name, guest in lab.guests.items() if VIRTUAL in {str(each.ip) for each in guest.addresses}]


def told(lab: Lab, kind: str) -> set[str]:
    return {event.node for event in lab.events if event.kind == kind}


async def ask(lab: Lab, line: str, host: str = VIRTUAL, timeout: float = 1) -> str | None:
    """Send the storage a line: a block to write, or ``size``; None if it does not answer in time."""
    with trio.move_on_after(timeout):
        try:
            async with await lab.guests["client"].open_tcp_stream(host, EXPORT) as stream:
                await stream.send_all(line.encode() + b"\n")
                return (await stream.receive_some()).decode().strip()
        except (OSError, trio.BrokenResourceError):
            pass
    return None


async def sizes(lab: Lab) -> list[str | None]:
    return [await ask(lab, "size", host) for host in ("192.168.0.73", "192.168.0.74")]


async def write_until_ok(lab: Lab, block: str) -> float:
    """Write a block, trying again for as long as it takes; return how many seconds that was."""
    began = lab.now
    while True:
        if await ask(lab, block) == "ok":
            return lab.now - began
        await trio.sleep(0.1)


async def arrived(lab: Lab, port: int, host: str) -> int:
    """Count the segments for a port that arrive at a host by the interconnect within ten seconds."""
    sink = MemorySink()
    address = lab.guests[host].interfaces()[1].addresses[0].ip
    capture = lab.captures.start(sink, [f"{host}:interconnect"], compile_filter(f"tcp port {port} and dst host {address}"))
    await trio.sleep(10)
    capture.finish()
    return len(read(sink.octets()))


@asynccontextmanager
async def power_switch(lab: Lab) -> AsyncIterator[list[str]]:
    """Cut off, at all their ports, hosts whose names are sent to ``fence``; the list is of those."""
    cut: list[str] = []

    async def serve(stream: trio.SocketStream) -> None:
        name = (await stream.receive_some()).decode().strip()
        lab.faults.isolate(name)
        cut.append(name)
        await stream.send_all(b"cut\n")

    async with trio.open_nursery() as nursery:
        await nursery.start(lab.guests["fence"].serve_tcp, serve, 7000)
        yield cut
        nursery.cancel_scope.cancel()


@pytest.mark.vnet(CLUSTER)
async def test_one_node_has_the_address_and_both_have_the_blocks(lab: Lab) -> None:
    await trio.sleep(10)
    assert owners(lab) == ["host3"]
    for number in range(5):
        assert await ask(lab, f"block {number}") == "ok"
    assert await sizes(lab) == ["5", "5"]
    assert await ask(lab, "block", "192.168.0.74") == "standby"
    assert await arrived(lab, 7777, "host2") > 5
    assert not told(lab, "address-conflict") | told(lab, "program-failed")


@pytest.mark.vnet(CLUSTER)
async def test_a_dead_node_s_address_is_taken_over_in_seven_seconds_and_no_block_is_lost(lab: Lab) -> None:
    """Three of silence, two of the head start, and up to one each until a look and a try."""
    await trio.sleep(10)
    written = 0
    for number in range(20):
        if number == 10:
            lab.faults.crash("host3")
        took = await write_until_ok(lab, f"block {number}")
        written += 1
        assert took < 0.1 or (number == 10 and 4 < took < 7.5)
    assert owners(lab) == ["host4"] and await ask(lab, "size") == str(written) == "20"
    assert {"client"} <= told(lab, "neighbor-moved")
    lab.faults.restart("host3")
    await trio.sleep(10)
    assert owners(lab) == ["host4"], "who is active stays so"
    assert await sizes(lab) == ["20", "20"]
    assert not told(lab, "address-conflict") | told(lab, "program-failed")


@pytest.mark.vnet(CLUSTER)
async def test_without_the_interconnect_replication_stands_still_and_catches_up(lab: Lab) -> None:
    await trio.sleep(10)
    assert await ask(lab, "before") == "ok"
    lab.faults.isolate("interconnect-switch")
    assert 2 < await write_until_ok(lab, "without") < 6, "the first write waits until the other is given up"
    for number in range(8):
        assert await ask(lab, f"block {number}") == "ok"
    assert await arrived(lab, 7788, "host4") == 0
    assert owners(lab) == ["host3"] and (await sizes(lab))[1] == "1"
    lab.faults.heal()
    assert await arrived(lab, 7788, "host4") > 10
    first, second = await sizes(lab)
    assert first == second and int(str(first)) >= 10
    assert not told(lab, "address-conflict") | told(lab, "program-failed")


@pytest.mark.vnet(CLUSTER)
async def test_a_lost_public_cable_moves_the_address_within_two_seconds_and_nobody_is_fenced(lab: Lab) -> None:
    await trio.sleep(10)
    async with power_switch(lab) as cut:
        lab.links["host3:public"].up = False
        assert 0.5 < await write_until_ok(lab, "block") < 3.5
        assert owners(lab) == ["host4"] and cut == []
        lab.links["host3:public"].up = True
        await trio.sleep(10)
        assert owners(lab) == ["host4"]
        lab.links["host4:public"].up = False
        await trio.sleep(5)
        assert owners(lab) == ["host3"] and cut == []
    assert not told(lab, "address-conflict")


@pytest.mark.vnet(CLUSTER)
async def test_without_the_public_network_the_cluster_itself_is_whole(lab: Lab) -> None:
    await trio.sleep(10)
    with lab.faults.isolate("public-switch"):
        await trio.sleep(60)
        assert owners(lab) == ["host3"], "both public cables are in: the other would be no better"
        assert await ask(lab, "block") is None
    assert await write_until_ok(lab, "block") < 4
    assert not told(lab, "address-conflict") | told(lab, "program-failed")


@pytest.mark.vnet(CLUSTER)
async def test_a_cut_heartbeat_network_splits_the_brain_where_nobody_fences(lab: Lab) -> None:
    await trio.sleep(10)
    assert await ask(lab, "before") == "ok"
    with lab.faults.isolate("heartbeat-switch"):
        await trio.sleep(20)
        assert owners(lab) == ["host3", "host4"]
        assert told(lab, "address-conflict") == {"host3", "host4"}
        macs = {event.fields["by"] for event in lab.events if event.kind == "address-conflict"}
        assert macs == {lab.guests[name].interfaces()[0].mac.hex(":") for name in ("host3", "host4")}
        assert await ask(lab, "block", "192.168.0.73") == await ask(lab, "other", "192.168.0.74") == "ok", "two truths"
    await trio.sleep(15)
    assert owners(lab) == ["host3"]
    assert await ask(lab, "more") == "ok" and await sizes(lab) == ["3", "3"], "what host4 was told alone is lost"
    assert not told(lab, "program-failed")


@pytest.mark.vnet(CLUSTER)
async def test_a_cut_heartbeat_network_splits_nothing_where_somebody_fences(lab: Lab) -> None:
    await trio.sleep(10)
    async with power_switch(lab) as cut:
        heartbeat = lab.faults.isolate("heartbeat-switch")
        await trio.sleep(20)
        assert cut == ["host4"], "the active node has a head start"
        assert owners(lab) == ["host3"] and not (await lab.ping("client", "host4")).ok
        assert await write_until_ok(lab, "alone") < 5
        heartbeat.heal()
        lab.faults.restart("host4")
        lab.faults.heal()
        await trio.sleep(10)
        assert owners(lab) == ["host3"] and (await lab.ping("client", "host4")).ok
        first, second = await sizes(lab)
        assert cut == ["host4"] and first == second != "0"
    assert not told(lab, "address-conflict") | told(lab, "program-failed")


@pytest.mark.vnet(CLUSTER)
async def test_a_node_that_is_not_heard_is_fenced_before_its_address_is_taken_and_comes_back_as_standby(lab: Lab) -> None:
    await trio.sleep(10)
    assert await ask(lab, "before") == "ok"
    async with power_switch(lab) as cut:
        lab.faults.isolate("host3")  # it cannot ask for the power of the other either
        assert 4 < await write_until_ok(lab, "after") < 7.5
        assert cut == ["host3"] and owners(lab) == ["host3", "host4"], "it still thinks so, where nobody hears it"
        lab.faults.restart("host3")
        lab.faults.heal()
        await trio.sleep(10)
        assert owners(lab) == ["host4"] and cut == ["host3"] and await sizes(lab) == ["2", "2"]
    assert not told(lab, "address-conflict") | told(lab, "program-failed")


@pytest.mark.vnet(CLUSTER)
async def test_who_cannot_reach_the_power_switch_does_not_take_over(lab: Lab) -> None:
    await trio.sleep(10)
    async with power_switch(lab) as cut:
        lab.faults.partition("host4", "fence")
        lab.faults.crash("host3")
        await trio.sleep(60)
        assert owners(lab) == [] and cut == []
        lab.faults.heal()


def test_one_seed_is_one_split_brain() -> None:
    async def main() -> tuple[bytes, str]:
        async with vnet.open_lab(CLUSTER) as lab:
            sink = MemorySink()
            capture = lab.captures.start(sink)
            await trio.sleep(5)
            await ask(lab, "block")
            lab.faults.isolate("heartbeat-switch")
            await trio.sleep(15)
            assert owners(lab) == ["host3", "host4"]
            capture.finish()
            return sink.octets(), lab.events.to_lines()

    assert vnet.simulate(main, seed=5) == vnet.simulate(main, seed=5)
