"""The async face of an emulated host, in virtual time."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
import trio

from vnet.errors import NoAnswer, Unreachable, UsageError
from vnet.fabric.rng import RandomStreams
from vnet.guests.base import Verdict
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.sockets import QUEUE
from vnet.ports import connect
from vnet.runtime.clock import current_simulation, simulate
from vnet.stack.host import Host
from vnet.units import SECOND


class World:
    """Guests a and b on one cable; c has a port and nothing else."""

    def __init__(self):
        simulation = current_simulation()
        assert simulation is not None
        self.timeline = simulation.timeline
        self.a, self.b, self.c = (self.guest(name, number) for number, name in enumerate("abc", 1))
        connect(self.port(self.a), self.port(self.b), defer=self.timeline)
        for guest, address in ((self.a, "10.0.0.1/24"), (self.b, "10.0.0.2/24")):
            guest.host.interfaces["eth0"].add_address(IPv4Interface(address))

    def guest(self, name, number):
        host = Host(name, self.timeline, lambda purpose: RandomStreams(number).stream(name, purpose))
        host.add_interface("eth0", bytes((0x52, 0x54, 0, 0, 0, number)))
        return EmulatedGuest(host, {"b": IPv4Address("10.0.0.2")}.get)

    @staticmethod
    def port(guest):
        return guest.host.interfaces["eth0"].port


def in_world(function):
    """Run an async test in virtual time, with a world to play in."""

    def test():
        async def main():
            await function(World())

        simulate(main, seed=3)

    test.__name__, test.__doc__ = function.__name__, function.__doc__
    return test


@in_world
async def test_what_a_guest_shows(world):
    a = world.a
    a.host.routes.add(IPv4Network("0.0.0.0/0"), bytes((10, 0, 0, 254)))
    assert (a.name, a.kind, a.address) == ("a", "emulated", IPv4Address("10.0.0.1"))
    assert a.addresses == (IPv4Interface("10.0.0.1/24"),)
    (state,) = a.interfaces()
    assert repr(state) == (
        "InterfaceState(name='eth0', mac=52:54:00:00:00:01, addresses=(10.0.0.1/24), gateway=10.0.0.254, up=True, dhcp='', "
        "active='')"
    )
    assert (state.name, state.mac.hex(), state.gateway, state.up, state.dhcp) == (
        "eth0", "525400000001", IPv4Address("10.0.0.254"), True, "",
    )  # fmt: skip
    assert [port.name for port in a.ports] == ["a:eth0"]
    (state,) = world.c.interfaces()
    assert (state.up, state.addresses, state.gateway, world.c.address) == (False, (), None, None)


@in_world
async def test_ping_by_address_text_name_and_guest(world):
    for target in (IPv4Address("10.0.0.2"), "10.0.0.2", "b", world.b):
        reply = await world.a.ping(target, count=3)
        assert reply and reply.rtt == 0 and (reply.sent, reply.received) == (3, 3)
        assert reply.responder == IPv4Address("10.0.0.2") and reply.error == ""


@in_world
async def test_ping_that_fails_says_why_and_takes_its_time(world):
    start = world.timeline.now
    reply = await world.a.ping("10.0.0.99", timeout=0.5)
    assert not reply and reply.error == "no answer" and reply.rtt is None
    assert world.timeline.now - start == SECOND // 2
    reply = await world.a.ping("10.0.0.99", timeout=5)
    assert reply.error == "host unreachable" and reply.responder == IPv4Address("10.0.0.1")
    assert (await world.a.ping("8.8.8.8")).error == "no route"
    with pytest.raises(UsageError, match="'nobody'"):
        await world.a.ping("nobody")
    with pytest.raises(NoAnswer):
        await world.a.ping(world.c)


@in_world
async def test_probes(world):
    a, b = world.a, world.b
    reply = await a.tcp_probe("b", 80)
    assert (reply.verdict, reply.error, reply.rtt) == (Verdict.CLOSED, "refused", 0)
    assert (await a.tcp_probe("8.8.8.8", 80)).verdict is Verdict.UNREACHABLE
    assert (await a.tcp_probe("10.0.0.99", 80)).verdict is Verdict.SILENT
    assert (await a.udp_probe(b, 7)).verdict is Verdict.CLOSED
    assert (await a.udp_probe("8.8.8.8", 7)).error == "no route"
    assert (await a.udp_probe("10.0.0.99", 7, timeout=5)).error == "host unreachable"
    silent = b.host.udp_bind(7, on_datagram=lambda payload, source: None)
    assert (await a.udp_probe(b, 7)).verdict is Verdict.SILENT
    silent.close()
    echo = b.host.udp_bind(7, on_datagram=lambda payload, source: echo.send_to(payload, source) and None)
    reply = await a.udp_probe(b, 7)
    assert reply and reply.verdict is Verdict.OPEN and reply.rtt == 0
    sockets = a.host.udp._sockets
    assert not sockets, "every probe closed its socket"


@in_world
async def test_traceroute(world):
    for method in ("udp", "icmp"):
        (hop,) = await world.a.traceroute("b", method)
        assert (hop.ttl, hop.source, hop.error) == (1, bytes((10, 0, 0, 2)), None)
        assert repr(hop) == f"Hop(ttl=1, source=10.0.0.2, rtt={hop.rtt}, error=None)"
    with pytest.raises(UsageError, match="udp and icmp"):
        await world.a.traceroute("b", "tcp")


@in_world
async def test_udp_sockets(world):
    async with await world.b.open_udp_socket(53) as server, await world.a.open_udp_socket() as client:
        await client.send_to(b"query", ("10.0.0.2", 53))
        payload, peer = await server.receive()
        assert (payload, peer) == (b"query", (IPv4Address("10.0.0.1"), client.port))
        await server.send_to(b"answer", peer)
        assert await client.receive() == (b"answer", (IPv4Address("10.0.0.2"), 53))
        with trio.move_on_after(3) as scope:
            await client.receive()
        assert scope.cancelled_caught and world.timeline.now == 3 * SECOND
        with pytest.raises(Unreachable, match="no route"):
            await client.send_to(b"x", ("8.8.8.8", 1))
        with pytest.raises(UsageError, match="53"):
            await world.b.open_udp_socket(53)
        for _ in range(QUEUE + 5):
            await client.send_to(b"x", ("10.0.0.2", 53))
        await trio.sleep(1)
        assert world.b.host.drops == {"udp-queue-full": 5}
    with pytest.raises(UsageError, match="closed"):
        await client.receive()


@in_world
async def test_udp_errors_are_raised_where_they_are_wanted(world):
    async with await world.a.open_udp_socket(errors=True) as curious, await world.a.open_udp_socket() as usual:
        for socket in (curious, usual):
            await socket.send_to(b"x", ("10.0.0.2", 53))
        with pytest.raises(Unreachable, match=r"port unreachable from 10\.0\.0\.2"):
            await curious.receive()
        with trio.move_on_after(1) as scope:
            await usual.receive()
        assert scope.cancelled_caught


@in_world
async def test_closing_wakes_who_waits(world):
    socket = await world.a.open_udp_socket()

    async def receive():
        with pytest.raises(UsageError, match="closed"):
            await socket.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.sleep(1)
        socket.close()


@in_world
async def test_wait_up(world):
    await world.a.wait_up()
    with pytest.raises(NoAnswer, match="c is not up after 2 s"):
        await world.c.wait_up(timeout=2)
    assert world.timeline.now == 2 * SECOND

    async def bring_up():
        await trio.sleep(1)
        world.c.host.interfaces["eth0"].add_address(IPv4Interface("10.0.0.3/24"))
        await trio.sleep(1)
        connect(world.port(world.c), world.guest("d", 4).host.interfaces["eth0"].port, defer=world.timeline)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bring_up)
        await world.c.wait_up()
        assert world.timeline.now == 4 * SECOND


@in_world
async def test_dhcp_that_gets_no_answer(world):
    with pytest.raises(NoAnswer, match="c got no address"):
        await world.c.dhcp(timeout=5)
    assert world.timeline.now == 5 * SECOND and world.c.lease() is None
    with pytest.raises(UsageError, match="all have addresses"):
        await world.a.dhcp()


@in_world
async def test_arguments_that_cannot_be_are_refused(world):
    for port in (-1, 65536, 1 << 40):
        with pytest.raises(UsageError, match="is not a port"):
            await world.a.tcp_probe("10.0.0.2", port)
        with pytest.raises(UsageError, match="is not a port"):
            await world.a.udp_probe("10.0.0.2", port)
    for probe in (world.a.ping("10.0.0.2", timeout=float("nan")), world.a.tcp_probe("10.0.0.2", 1, timeout=float("nan"))):
        with pytest.raises(UsageError, match="nan"):
            await probe


@in_world
async def test_a_probe_may_have_all_the_time_there_is(world):
    assert (await world.a.ping("10.0.0.2", timeout=float("inf"))).ok
    assert (await world.a.tcp_probe("10.0.0.2", 9, timeout=float("inf"))).verdict is Verdict.CLOSED
