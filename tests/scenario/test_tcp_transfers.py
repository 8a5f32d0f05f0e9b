"""Streams between emulated guests through whole labs: NAT, trunks, slow and lossy cables, links that fail."""

import hashlib

import pytest
import trio

from tests.scenario.test_connection_sharing import TOPOLOGY as SHARING
from vnet.stack.tcp import State

TRUNK = """
name: trunk
networks:
  one: {vlan: 10, subnet: 10.1.0.0/24}
  two: {vlan: 20, subnet: 10.2.0.0/24}
routers:
  gate: {interfaces: {one: 10.1.0.1/24, two: 10.2.0.1/24}, switch: core}
switches: {core: {}, edge: {}}
links: [{between: [core, edge], trunk: all, rate: 50mbit, latency: 5ms, loss: 1%}]
guests:
  a: {switch: edge, nics: [{network: one, address: 10.1.0.10/24}]}
  b: {switch: edge, nics: [{network: two, address: 10.2.0.10/24}]}
"""
OCTETS = 2_000_000


class Sink:
    """Listens, digests what comes and answers with the digest."""

    def __init__(self, guest, port):
        self.listener = guest.host.tcp.listen(port)
        self.listener.on_ready = self.accept
        self.peers = []

    def accept(self):
        connection = self.listener.accept()
        self.peers.append(connection.remote)
        digest = hashlib.sha256()

        def work():
            while connection.available:
                digest.update(connection.receive(65536))
            if connection.at_end and connection.room:
                connection.send(digest.digest())
                connection.close()

        connection.on_change = work


async def upload(guest, address, port, octets):
    """Send so many octets; return the answer when the connection is over."""
    connection = guest.host.tcp.connect(address.packed, port)
    data = memoryview(bytes(range(256)) * (octets // 256 + 1))[:octets]
    over = trio.Event()
    answer = bytearray()
    sent = 0

    def work():
        nonlocal sent
        while sent < octets and connection.room:
            sent += connection.send(bytes(data[sent : sent + 50_000]))
        if sent == octets:
            connection.shutdown()
        answer.extend(connection.receive(100))
        if connection.at_end or connection.state is State.CLOSED:
            over.set()

    connection.on_change = work
    await over.wait()
    assert connection.error is None
    assert bytes(answer) == hashlib.sha256(data).digest()
    return connection


@pytest.mark.vnet(SHARING)
async def test_streams_pass_a_nat_both_ways(lab):
    sink = Sink(lab.guests["server"], 80)
    inside = Sink(lab.guests["fixed"], 80)
    connection = await upload(lab.guests["one"], lab.resolve("server"), 80, OCTETS)
    assert sink.peers[0][0] == bytes((203, 0, 113, 2)) != connection.local[0]
    await upload(lab.guests["neighbor"], lab.routers["sharer"].host.interfaces["internet"].addresses[0].ip, 8080, OCTETS)
    assert inside.peers[0][0] == lab.guests["neighbor"].address.packed


@pytest.mark.vnet(TRUNK)
async def test_a_slow_and_lossy_trunk_between_networks(lab):
    sink = Sink(lab.guests["b"], 5000)
    await upload(lab.guests["a"], lab.resolve("b"), 5000, OCTETS)
    assert len(sink.peers) == 1
    link = lab.links["core", "edge"]
    assert link.forward.dropped_loss + link.backward.dropped_loss > 10
    assert link.forward.dropped_malformed == link.backward.dropped_malformed == 0


@pytest.mark.vnet(TRUNK)
async def test_a_connection_outlives_an_outage(lab):
    Sink(lab.guests["b"], 5000)
    lab.links["core", "edge"].rate = 1_000_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload, lab.guests["a"], lab.resolve("b"), 5000, 200_000)
        await trio.sleep(0.5)
        lab.links["core", "edge"].up = False
        await trio.sleep(60)
        lab.links["core", "edge"].up = True
    assert trio.current_time() > 60


@pytest.mark.vnet(TRUNK)
async def test_a_slow_link_is_filled(lab):
    link = lab.links["core", "edge"]
    link.loss = 0
    Sink(lab.guests["b"], 5000)
    began = trio.current_time()
    await upload(lab.guests["a"], lab.resolve("b"), 5000, 5_000_000)
    took = trio.current_time() - began
    assert 0.8 < took < 1.6, "0.8 s are the octets alone; slow start and its one overshoot take the rest"


JUMBO = """
name: jumbo
networks:
  one: {subnet: 10.1.0.0/24}
  two: {subnet: 10.2.0.0/24}
  three: {subnet: 10.3.0.0/24}
routers:
  west:
    interfaces: {one: {address: 10.1.0.1/24, mtu: 9000}, two: {address: 10.2.0.1/24, mtu: 1400}}
    routes: [{to: 10.3.0.0/24, via: 10.2.0.2}]
  east:
    interfaces: {two: {address: 10.2.0.2/24, mtu: 1400}, three: {address: 10.3.0.1/24, mtu: 9000}}
    routes: [{to: 10.1.0.0/24, via: 10.2.0.1}]
guests:
  a: {nics: [{network: one, address: 10.1.0.10/24, mtu: 9000}]}
  b: {nics: [{network: three, address: 10.3.0.10/24, mtu: 9000}]}
"""


@pytest.mark.vnet(JUMBO)
async def test_a_narrow_network_between_two_wide_ones(lab):
    Sink(lab.guests["b"], 5000)
    connection = await upload(lab.guests["a"], lab.resolve("b"), 5000, OCTETS)
    assert connection.receiver.mss == connection.peer_mss == 8960
    assert connection.sender.mss == 1400 - 52
    assert lab.routers["west"].drops["mtu"] >= 1
    assert lab.guests["a"].host.tcp.path_mtus.get(lab.resolve("b").packed) == 1400
