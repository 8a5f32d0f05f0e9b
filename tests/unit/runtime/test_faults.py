"""Faults: what they take, what they leave alone, that heal undoes them, and that the log tells of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

import vnet
from vnet.errors import UsageError
from vnet.guests.base import Verdict
from vnet.guests.emulated import EmulatedGuest
from vnet.runtime.filter import compile_filter
from vnet.runtime.lab import Lab
from vnet.runtime.sinks import MemorySink
from vnet.runtime.waiting import length_of
from vnet.units import MILLISECOND, SECOND
from vnet.wire import pcapng

ROOMS = vnet.parse_topology("""
name: rooms
networks:
  office: {vlan: 16, subnet: 10.0.1.0/24, dhcp: {}}
  lobby: {vlan: 30, subnet: 10.0.2.0/24}
  internet: {vlan: 40, subnet: 203.0.113.0/24}
routers:
  gate:
    interfaces: {office: 10.0.1.1/24, lobby: 10.0.2.1/24, internet: 203.0.113.2/24}
    nat: {outside: internet, inside: [office], forwards: [{protocol: udp, port: 53, to: "10.0.1.10:53"}]}
switches: {core: {}, edge: {}}
links: [{between: [core, edge], trunk: all, latency: 1ms}]
guests:
  server: {nics: [{network: office, address: 10.0.1.10/24, gateway: 10.0.1.1}]}
  backup: {nics: [{network: office, address: 10.0.1.11/24, gateway: 10.0.1.1}]}
  pc: {switch: edge, nics: [office]}
  phone: {switch: edge, nics: [{network: lobby, address: 10.0.2.7/24, gateway: 10.0.2.1}]}
  far: {nics: [{network: internet, address: 203.0.113.9/24}]}
""")

Body = Callable[[Lab], Awaitable[None]]


def run(body: Body, seed: int = 0) -> Lab:
    async def main() -> Lab:
        async with vnet.open_lab(ROOMS) as lab:
            await lab.wait_up()
            await body(lab)
            return lab

    return vnet.simulate(main, seed=seed)


async def reached(lab: Lab) -> set[tuple[str, str]]:
    return {pair for pair, reply in (await lab.ping_all(timeout=5)).items() if reply.ok}


@pytest.mark.parametrize(("one", "other"), [
    (["server"], ["backup"]),  # on one switch: no link between them
    (["server"], ["pc"]),  # beyond a link that others use
    (["server"], ["phone"]),  # beyond a router
    (["server", "pc"], ["phone", "backup"]),
    (["server"], ["far"]),  # beyond a NAT
])  # fmt: skip
def test_a_partition_cuts_both_directions_and_nothing_else(one: list[str], other: list[str]) -> None:
    async def body(lab: Lab) -> None:
        before = await reached(lab)
        apart = {(a, b) for a in one for b in other} | {(b, a) for a in one for b in other}
        fault = lab.faults.partition(one, other)
        assert await reached(lab) == before - apart
        assert fault.frames and fault.active
        lab.faults.heal()
        assert await reached(lab) == before and not lab.faults.active

    run(body)


def test_a_partition_stands_whatever_the_neighbors_know() -> None:
    async def body(lab: Lab) -> None:
        assert (await lab.ping("pc", "server")).ok
        lab.links["core", "edge"].latency = 100 * MILLISECOND
        got: list[bytes] = []
        lab.guests["server"].host.udp_bind(9, on_datagram=lambda payload, source: got.append(payload))
        sender = lab.guests["pc"].host.udp_bind(on_datagram=lambda payload, source: None)
        sender.send_to(b"on its way", (lab.resolve("server").packed, 9))
        with lab.faults.partition("server", "pc"):
            await trio.sleep(1)
        assert not got
        sender.send_to(b"later", (lab.resolve("server").packed, 9))
        await trio.sleep(1)
        assert got == [b"later"]

    run(body)


def test_what_comes_in_by_a_port_forward_is_cut_too() -> None:
    async def body(lab: Lab) -> None:
        async def answered() -> bool:
            return (await lab.guests["far"].udp_probe("203.0.113.2", 53, timeout=5)).verdict is Verdict.CLOSED

        assert await answered()
        with lab.faults.partition("far", "server"):
            assert not await answered()
        assert await answered()

    run(body)


def test_a_switch_stands_for_what_is_plugged_into_it() -> None:
    async def body(lab: Lab) -> None:
        before = await reached(lab)
        lab.faults.partition("core", "edge")
        rack = ("server", "backup", "far")
        assert await reached(lab) == {pair for pair in before if (pair[0] in rack) == (pair[1] in rack)} - {
            ("pc", "phone"), ("phone", "pc")  # their router stands on the other side
        }  # fmt: skip
        assert not lab.guests["pc"].lease() or lab.links["core", "edge"].up

    run(body)


def test_a_partition_follows_the_addresses_of_a_lease() -> None:
    async def body(lab: Lab) -> None:
        lab.faults.partition("pc", "phone")
        lab.faults.restart("pc")
        await lab.guests["pc"].dhcp()
        assert not (await lab.ping("pc", "phone")).ok and not (await lab.ping("phone", "pc")).ok
        assert (await lab.ping("pc", "server")).ok

    run(body)


def test_an_isolated_guest_hears_nobody_keeps_its_carrier_and_loses_its_lease() -> None:
    async def body(lab: Lab) -> None:
        fault = lab.faults.isolate("pc")
        assert await reached(lab) == {pair for pair in await reached(lab) if "pc" not in pair}
        assert lab.guests["pc"].interfaces()[0].up
        await trio.sleep(3 * 24 * 3600)
        assert lab.guests["pc"].address is None
        fault.heal()
        await lab.guests["pc"].dhcp(timeout=120)
        assert (await lab.ping("server", "pc")).ok

    run(body)


def test_captures_see_what_is_sent_into_a_fault_and_not_what_never_arrives() -> None:
    async def body(lab: Lab) -> None:
        assert (await lab.ping("server", "backup")).ok
        lab.faults.partition("server", "backup")
        sink = MemorySink()
        capture = lab.captures.start(sink, ["server", "backup"], compile_filter("host 10.0.1.10 and host 10.0.1.11"))
        await lab.ping("server", "backup")
        capture.finish()
        seen = {(packet.interface.name, packet.direction) for packet in pcapng.read(sink.octets())}
        assert seen == {("server:eth0", pcapng.Direction.OUTBOUND)}

    run(body)


def test_others_still_hear_what_is_sent_to_all() -> None:
    async def body(lab: Lab) -> None:
        sink = MemorySink()
        lab.faults.partition("server", "backup")
        capture = lab.captures.start(sink, ["pc", "backup"], compile_filter("arp src host 10.0.1.10"))
        await lab.ping("server", "backup")
        capture.finish()
        assert {packet.interface.name for packet in pcapng.read(sink.octets())} == {"pc:eth0"}

    run(body)


def test_overlapping_faults_end_one_by_one() -> None:
    async def body(lab: Lab) -> None:
        alone, apart = lab.faults.isolate("server"), lab.faults.partition("server", "backup")
        alone.heal()
        alone.heal()
        assert (await lab.ping("server", "pc")).ok and not (await lab.ping("server", "backup")).ok
        apart.heal()
        assert (await lab.ping("server", "backup")).ok
        assert [(e.kind, e.fields["fault"]) for e in lab.events if e.kind in ("fault", "healed")] == [
            ("fault", "isolate"), ("fault", "partition"), ("healed", "isolate"), ("healed", "partition"),
        ]  # fmt: skip

    run(body)


def test_a_link_flaps_at_the_given_instants() -> None:
    async def body(lab: Lab) -> None:
        start = lab.timeline.now
        fault = lab.faults.flap("core,edge", times=3, period="2s")
        await trio.sleep(5.5)
        assert lab.links["core", "edge"].up and fault.active
        await trio.sleep(1)
        assert not fault.active
        turns = [(e.kind, (e.instant - start) // SECOND) for e in lab.events if e.node == "core-edge" and e.instant >= start]
        assert turns == [
            ("link-down", 0),
            ("link-up", 1),
            ("link-down", 2),
            ("link-up", 3),
            ("link-down", 4),
            ("link-up", 5),
        ]

    run(body)


def test_healing_stops_a_link_that_flaps() -> None:
    async def body(lab: Lab) -> None:
        lab.faults.flap("pc", times=10, period=1)
        await trio.sleep(0.25)
        assert not lab.links["pc:eth0"].up
        lab.faults.heal()
        assert lab.links["pc:eth0"].up
        count = len(lab.events)
        await trio.sleep(5)
        assert not [event for event in list(lab.events)[count:] if event.kind == "link-down"]

    run(body)


def test_a_crashed_guest_forgets_everything_and_starts_anew() -> None:
    async def body(lab: Lab) -> None:
        pc = lab.guests["pc"]
        assert (await lab.ping("pc", "server")).ok
        old, before = pc.host, pc.address
        socket = await pc.open_udp_socket(7)
        ended: list[str] = []

        async def wait() -> None:
            with pytest.raises(UsageError, match="closed"):
                await socket.receive()
            ended.append("closed")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.1)
            fault = lab.faults.crash("pc")
            assert lab.faults.crash("pc") is fault
        assert ended and pc.address is None and pc.lease() is None
        assert not (await lab.ping("pc", "server")).ok
        sink = MemorySink()
        capture = lab.captures.start(sink, ["pc"])
        await lab.guests["server"].ping(before)
        await trio.sleep(2 * 24 * 3600)  # its lease would have been renewed twice
        capture.finish()
        assert all(packet.direction is pcapng.Direction.INBOUND for packet in pcapng.read(sink.octets()))
        count = len(lab.events)
        lab.faults.restart("pc")
        assert pc.host is not old and not pc.host.interfaces["eth0"].neighbors.entries
        await pc.dhcp()
        assert (await lab.ping("server", "pc")).ok and (await lab.ping("pc", "phone")).ok
        assert [e.kind for e in list(lab.events)[count:] if e.node == "pc"] == ["restart", "dhcp-lease"]
        pc.host.udp_bind(7, on_datagram=lambda payload, source: None)  # the port is free

    run(body)


def test_static_addresses_and_routes_are_back_at_once() -> None:
    async def body(lab: Lab) -> None:
        lab.faults.restart("phone")
        assert str(lab.guests["phone"].address) == "10.0.2.7"
        assert (await lab.ping("phone", "server")).ok

    run(body)


def test_a_guest_crashes_with_probes_and_a_link_change_under_way() -> None:
    async def body(lab: Lab) -> None:
        lab.at(0.5, lab.faults.crash, "server")
        reply = await lab.ping("server", "10.0.1.99", count=3)
        assert not reply.ok
        lab.links["server:eth0"].up = False
        lab.faults.heal()
        assert not (await lab.ping("server", "backup")).ok
        lab.links["server:eth0"].up = True
        assert (await lab.ping("server", "backup")).ok

    run(body)


def test_actions_are_planned_on_the_lab_clock() -> None:
    async def body(lab: Lab) -> None:
        start, ran = lab.timeline.now, []
        lab.at("1500 ms", lambda: ran.append(lab.timeline.now - start))
        lab.at(1, lambda what: ran.append(what), "argument")
        lab.at(1, ran.append, "never").cancel()
        await trio.sleep(2)
        assert ran == ["argument", 1500 * MILLISECOND]
        with pytest.raises(UsageError, match="async"):
            lab.at(1, lab.ping, "pc", "server")

    run(body)


def test_the_same_seed_is_the_same_fault() -> None:
    async def body(lab: Lab) -> None:
        lab.at(0.5, lab.faults.crash, "pc")
        lab.at(2, lab.faults.restart, "pc")
        lab.faults.flap("core-edge", 3, "300ms")
        await trio.sleep(60)

    logs = [run(body, seed=seed).events.to_lines() for seed in (4, 4, 5)]
    assert logs[0] == logs[1] != logs[2]


@pytest.mark.parametrize(("mistake", "text"), [
    (lambda lab: lab.faults.partition(["sever"], ["pc"]), "did you mean 'server'"),
    (lambda lab: lab.faults.partition(["server"], ["server", "pc"]), "both sides"),
    (lambda lab: lab.faults.partition([], ["pc"]), "no nodes are named"),
    (lambda lab: lab.faults.isolate(), "no nodes are named"),
    (lambda lab: lab.faults.isolate("office:dhpc"), "did you mean 'office:dhcp'"),
    (lambda lab: lab.faults.crash("gate"), "no guest 'gate'"),
    (lambda lab: lab.faults.flap("core-egde"), "did you mean 'core-edge'"),
    (lambda lab: lab.faults.flap("core-edge", 0), "1 to"),
    (lambda lab: lab.faults.flap("core-edge", 1.5), "whole times"),
    (lambda lab: lab.faults.flap("core-edge", "2"), "whole times"),
    (lambda lab: lab.faults.flap("core-edge", 1, "soon"), "not a duration"),
    (lambda lab: lab.at(-1, print), "not a duration"),
])  # fmt: skip
def test_mistakes_are_told_and_change_nothing(mistake: Callable[[Lab], object], text: str) -> None:
    async def body(lab: Lab) -> None:
        with pytest.raises(UsageError, match=text):
            mistake(lab)
        assert not lab.faults.active

    run(body)


def test_lengths_are_seconds_or_text() -> None:
    assert length_of(0.25) == length_of("250ms") == 250 * MILLISECOND
    for wrong in (float("nan"), float("inf"), "5"):
        with pytest.raises(UsageError):
            length_of(wrong)


def test_a_crash_takes_connections_away_without_a_word_and_programs_can_open_new_ones() -> None:
    greetings: list[bytes] = []

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")
        await stream.receive_some()

    async def body(lab: Lab) -> None:
        server, client = lab.guests["server"], lab.guests["backup"]
        assert isinstance(server, EmulatedGuest) and isinstance(client, EmulatedGuest)
        sink = MemorySink()

        async def serve() -> None:
            while True:  # as an init system does
                with trio.CancelScope() as boot:
                    try:
                        await server.serve_tcp(greet, 7)
                    except* (trio.ClosedResourceError, trio.BrokenResourceError):
                        boot.cancel()
                await trio.sleep(0.1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await trio.sleep(0.1)
            stream = await client.open_tcp_stream("server", 7)
            greetings.append(await stream.receive_some())
            capture = lab.captures.start(sink, ["server"])
            with lab.faults.crash("server"):
                assert server.host.tcp.connections == ()
                await trio.sleep(5)
                with pytest.raises(OSError, match="No route to host"):
                    await client.open_tcp_stream("10.0.1.10", 7)
            capture.finish()
            await trio.sleep(1)
            with pytest.raises(trio.BrokenResourceError):  # the server knows nothing of it any more, and says so
                await stream.send_all(b"are you there?")
                await stream.receive_some()
            again = await client.open_tcp_stream("server", 7)
            greetings.append(await again.receive_some())
            nursery.cancel_scope.cancel()
        assert not [
            packet for packet in pcapng.read(sink.octets()) if compile_filter("tcp and src host 10.0.1.10")(packet.frame)
        ]

    run(body)
    assert greetings == [b"hello", b"hello"]
