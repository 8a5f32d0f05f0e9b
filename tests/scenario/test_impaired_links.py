"""Streams between the guests of a lab over links that delay, reorder, repeat and damage frames, in virtual time."""

import hashlib

import pytest
import trio

import vnet
from vnet.testing import Invariants

LINE = """
name: bad-line
networks: {office: {vlan: 10, subnet: 10.1.0.0/24}}
switches: {core: {}, edge: {}}
links: [{between: [core, edge], trunk: all, rate: 20mbit, latency: 10ms%s}]
guests:
  a: {switch: edge, nics: [{network: office, address: 10.1.0.10/24}]}
  b: {switch: core, nics: [{network: office, address: 10.1.0.20/24}]}
"""
ALL = {"delay_variation": "4ms", "loss": "1%", "reordering": "3%", "duplication": "2%", "corruption": "3%"}
OCTETS = 400_000


def line(**keys):
    return LINE % "".join(f", {key}: {value}" for key, value in keys.items())


async def transfer(lab, octets=OCTETS):
    """Send so many octets from a to b, which answers with their digest; tell whether that is right."""
    data = lab.guests["a"].host.stream("scenario").octets(octets)

    async def answer(stream):
        digest = hashlib.sha256()
        async for chunk in stream:
            digest.update(chunk)
        await stream.send_all(digest.digest())
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        await nursery.start(lab.guests["b"].serve_tcp, answer, 5000)
        async with await lab.guests["a"].open_tcp_stream("b", 5000) as stream:
            await stream.send_all(data)
            await stream.send_eof()
            received = b"".join([chunk async for chunk in stream])
        nursery.cancel_scope.cancel()
    return received == hashlib.sha256(data).digest()


@pytest.mark.parametrize(("kind", "value", "count"), [
    ("delay_variation", "8ms", None), ("reordering", "5%", "reordered"), ("duplication", "5%", "duplicated"),
    ("corruption", "2%", "corrupted"), (None, None, None),
])  # fmt: skip
def test_a_transfer_over_each_impairment_arrives_whole(kind, value, count):
    async def run():
        async with vnet.open_lab(vnet.parse_topology(line(**({kind: value} if kind else ALL)))) as lab:
            with Invariants(lab):
                assert await transfer(lab)
            forward = lab.links["core", "edge"].backward  # from edge to core go the data
            counts = {what for what, number in forward.altered.items() if number > 2}
            if kind:
                assert counts == ({count} if count else set())
            else:
                assert counts == {"reordered", "duplicated", "corrupted"}

    vnet.simulate(run, seed=4)


def test_one_seed_is_one_run():
    def run(seed):
        async def main():
            async with vnet.open_lab(vnet.parse_topology(line(**ALL))) as lab:
                assert await transfer(lab, 100_000)
                link = lab.links["core", "edge"]
                ways = [(way.delivered, way.octets, way.altered, way.drops) for way in (link.forward, link.backward)]
                return trio.current_time(), ways

        return vnet.simulate(main, seed=seed)

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.vnet(line())
async def test_checksums_catch_the_damage(lab):
    assert (await lab.ping("a", "b")).ok  # ARP has no checksum: whoever learns a damaged address keeps it for a while
    lab.links["core", "edge"].corruption = 0.3
    with Invariants(lab):
        reply = await lab.ping("a", "b", count=200, timeout=0.5)
    assert 0.7 * 0.7 - 0.1 < reply.received / reply.sent < 0.7 * 0.7 + 0.2, "damage to PCP or source MAC is no loss"
    assert sum(lab.guests["b"].host.drops.values()) > 20


@pytest.mark.vnet(line(duplication="100%"))
async def test_a_repeated_frame_is_no_second_ping(lab):
    reply = await lab.ping("a", "b", count=3)
    assert reply.received == reply.sent == 3
    assert lab.links["core", "edge"].forward.altered["duplicated"] >= 3
