"""Addresses that come and go while a guest runs, gratuitous ARP, and raw frames."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import pytest
import trio

import vnet
from vnet.errors import UsageError
from vnet.guests import frame_socket
from vnet.runtime.filter import compile_filter
from vnet.runtime.sinks import MemorySink
from vnet.wire import arp
from vnet.wire.ipv4 import text
from vnet.wire.pcapng import read

LAN = """
name: lan
networks: {lan: {subnet: 10.0.0.0/24}, side: {subnet: 10.9.0.0/24}}
guests:
  a: {nics: [{network: lan, address: 10.0.0.1}, {network: side, address: 10.9.0.1}]}
  b: {nics: [{network: lan, address: 10.0.0.2}]}
  c: {nics: [{network: lan, address: 10.0.0.3}]}
"""
VIRTUAL = "10.0.0.70/24"


# -- addresses


@pytest.mark.vnet(LAN)
async def test_an_address_that_moves_takes_its_traffic_along_at_once(lab):
    """The peer has the first owner's MAC in its cache, and would keep it for as long as it answers pings itself."""
    a, b, c = (lab.guests[name] for name in "abc")
    b.add_address(VIRTUAL)
    assert (await c.ping("10.0.0.70")).ok
    lab.links["b:eth0"].up = False
    a.add_address(VIRTUAL)
    await trio.sleep(0.001)  # the announcement is on its way
    assert (await c.ping("10.0.0.70")).ok and a.addresses[1] == IPv4Interface(VIRTUAL)
    (moved,) = [event for event in lab.events if event.kind == "neighbor-moved" and event.node == "c"]
    assert moved.fields["address"] == "10.0.0.70"
    assert moved.fields["new"] == a.interfaces()[0].mac.hex(":")


@pytest.mark.vnet(LAN)
async def test_without_an_announcement_the_peer_goes_on_asking_the_old_owner(lab):
    a, b, c = (lab.guests[name] for name in "abc")
    b.add_address(VIRTUAL)
    assert (await c.ping("10.0.0.70")).ok
    lab.links["b:eth0"].up = False
    a.add_address(VIRTUAL, announce=False)
    assert not (await c.ping("10.0.0.70")).ok
    a.announce("10.0.0.70")
    await trio.sleep(0.001)
    assert (await c.ping("10.0.0.70")).ok


@pytest.mark.vnet(LAN)
async def test_an_announcement_is_two_gratuitous_requests_two_seconds_apart(lab):
    sink = MemorySink()
    capture = lab.captures.start(sink, ["b:eth0"], compile_filter("arp"))
    a = lab.guests["a"]
    a.add_address(VIRTUAL)
    await trio.sleep(10)
    capture.finish()
    first, second = read(sink.octets())
    assert second.instant - first.instant == 2_000_000_000
    for packet in (first, second):
        sent = arp.decode(packet.frame)
        assert packet.frame[:6] == b"\xff" * 6 and sent.operation == arp.REQUEST
        assert text(sent.sender) == text(sent.target) == "10.0.0.70" and sent.sender_mac == a.interfaces()[0].mac


@pytest.mark.vnet(LAN)
async def test_an_address_that_was_removed_is_neither_announced_nor_answered_for(lab):
    sink = MemorySink()
    capture = lab.captures.start(sink, ["b:eth0"], compile_filter("arp"))
    a = lab.guests["a"]
    a.add_address(VIRTUAL)
    a.remove_address("10.0.0.70")
    await trio.sleep(10)
    capture.finish()
    assert len(read(sink.octets())) == 1
    assert not (await lab.guests["c"].ping("10.0.0.70")).ok and (await lab.guests["c"].ping("10.0.0.1")).ok


@pytest.mark.vnet(LAN)
async def test_where_an_address_goes(lab):
    a = lab.guests["a"]
    a.add_address("10.9.0.70/24")
    a.add_address("172.16.0.1/16")
    a.add_address(IPv4Interface("172.17.0.1/16"), "eth1")
    first, second = a.interfaces()
    assert [str(each) for each in first.addresses] == ["10.0.0.1/24", "172.16.0.1/16"]
    assert [str(each) for each in second.addresses] == ["10.9.0.1/24", "10.9.0.70/24", "172.17.0.1/16"]
    for given in ("10.9.0.70/24", IPv4Address("172.16.0.1"), IPv4Interface("172.17.0.1/16")):
        a.remove_address(given)
    assert [len(each.addresses) for each in a.interfaces()] == [1, 1]
    assert str(a.address) == "10.0.0.1"


@pytest.mark.vnet(LAN)
async def test_an_ipv6_address_is_used_once_it_was_asked_for(lab):
    a, b = lab.guests["a"], lab.guests["b"]
    a.add_address("2001:db8::1/64")
    b.add_address(IPv6Interface("2001:db8::2/64"))
    assert a.address6 is None
    await trio.sleep(3)
    assert (await a.ping("2001:db8::2")).ok
    a.remove_address("2001:db8::1")
    assert a.address6 is None and b.address6 == IPv6Address("2001:db8::2")


@pytest.mark.vnet(LAN)
async def test_a_crash_forgets_what_was_added(lab):
    a = lab.guests["a"]
    a.add_address(VIRTUAL)
    lab.faults.restart("a")
    assert [str(each) for each in a.addresses] == ["10.0.0.1/24", "10.9.0.1/24"]


@pytest.mark.vnet(LAN)
async def test_what_is_no_address_or_interface(lab):
    a = lab.guests["a"]
    with pytest.raises(UsageError, match=r"'nonsense' is no address such as"):
        a.add_address("nonsense")
    with pytest.raises(UsageError, match=r"a has no interface eth7: there are eth0, eth1"):
        a.add_address(VIRTUAL, "eth7")
    with pytest.raises(UsageError, match=r"a has no address 10\.0\.0\.70"):
        a.remove_address(VIRTUAL)
    with pytest.raises(UsageError, match=r"a has no IPv4 address 10\.0\.0\.70"):
        a.announce("10.0.0.70")
    with pytest.raises(UsageError, match=r"a has no interface eth7"):
        await a.open_frame_socket("eth7")
    with pytest.raises(UsageError, match=r"70000 is no EtherType"):
        await a.open_frame_socket(ethertype=70000)


# -- raw frames

ETHERTYPE = 0x88B5
"""For experiments (IEEE 802, 9.2.4)."""


def frame_to(mac: bytes, source: bytes, payload: bytes) -> bytes:
    return mac + source + ETHERTYPE.to_bytes(2, "big") + payload


@pytest.mark.vnet(LAN)
async def test_frames_pass_as_they_are_and_their_source_is_learnt(lab):
    spoofed = bytes.fromhex("025254000099")
    async with await lab.guests["a"].open_frame_socket() as sender, await lab.guests["b"].open_frame_socket() as receiver:
        sent = frame_to(receiver.mac, spoofed, b"any octets at all")
        await sender.send(sent)
        with trio.fail_after(1):
            assert await receiver.receive() == sent
        assert spoofed in {entry.mac for entry in next(iter(lab.switches.values())).fdb}


@pytest.mark.vnet(LAN)
async def test_only_frames_of_the_ethertype_are_heard_and_the_stack_goes_on(lab):
    async with await lab.guests["b"].open_frame_socket(ethertype=0x0806) as receiver:
        assert (await lab.ping("a", "b")).ok
        asked = arp.decode(await receiver.receive())
        assert (text(asked.sender), text(asked.target)) == ("10.0.0.1", "10.0.0.2")
        with trio.move_on_after(1) as silence:
            await receiver.receive()
        assert silence.cancelled_caught, "there was one ARP request, and what b itself sends is not heard"


@pytest.mark.vnet(LAN)
async def test_a_super_frame_arrives_in_pieces_with_checksums(lab):
    heard = []

    async def hear(task_status):
        async with await lab.guests["b"].open_frame_socket(ethertype=0x0800) as receiver:
            task_status.started()
            while True:
                heard.append(await receiver.receive())

    async def count(stream):
        async for _ in stream:
            pass

    async with trio.open_nursery() as nursery:
        await nursery.start(hear)
        await nursery.start(lab.guests["b"].serve_tcp, count, 80)
        async with await lab.guests["a"].open_tcp_stream("b", 80) as stream:
            await stream.send_all(bytes(100_000))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert max(len(each) for each in heard) == 1514 and sum(len(each) for each in heard) > 100_000


@pytest.mark.vnet(LAN)
async def test_who_does_not_read_loses_frames_and_nobody_else_does(lab):
    a, b = lab.guests["a"], lab.guests["b"]
    async with await a.open_frame_socket() as sender, await b.open_frame_socket(ethertype=ETHERTYPE) as receiver:
        for number in range(frame_socket.QUEUE + 10):
            await sender.send(frame_to(receiver.mac, sender.mac, number.to_bytes(4, "big")))
        await trio.sleep(1)
        assert b.host.drops["frame-queue-full"] == 10
        assert (await receiver.receive())[14:] == bytes(4)
        assert (await lab.ping("a", "b")).ok


@pytest.mark.vnet(LAN)
async def test_frames_that_cannot_be_completed_are_counted_and_hurt_nobody(lab):
    """Such as a super-frame that is no TCP: a live peer may send any virtio-net header."""
    b = lab.guests["b"]
    async with await b.open_frame_socket() as receiver:
        for length in range(80):
            b.host.interfaces["eth0"].port.receive(bytes(range(length)), b"\x01\x01" + b"\xff" * 8)
        assert b.host.drops["frame-malformed"] == 80
        assert (await lab.ping("a", "b")).ok and arp.decode(await receiver.receive()).operation == arp.REQUEST


@pytest.mark.vnet(LAN)
async def test_frames_that_no_cable_would_carry_are_refused(lab):
    async with await lab.guests["a"].open_frame_socket() as sender:
        await sender.send(bytes(1518))
        for length in (13, 1519):
            with pytest.raises(UsageError, match=f"a frame has 14 to 1518 octets here, not {length}"):
                await sender.send(bytes(length))
    with pytest.raises(UsageError, match="the socket is closed"):
        await sender.send(bytes(60))


@pytest.mark.vnet(LAN)
async def test_a_closed_socket_hears_nothing_and_two_hear_the_same(lab):
    b = lab.guests["b"]
    async with await b.open_frame_socket() as one, await b.open_frame_socket() as other:
        await lab.guests["a"].ping("b")
        assert await one.receive() == await other.receive()
    assert b.host.interfaces["eth0"].handler == b.host.interfaces["eth0"].receive


@pytest.mark.vnet(LAN)
async def test_a_crash_closes_the_socket_and_one_that_is_opened_before_the_restart_hears_after_it(lab):
    b = lab.guests["b"]
    old = await b.open_frame_socket()
    lab.at(1, lab.faults.crash, "b")
    with pytest.raises(UsageError, match="the socket is closed"):
        await old.receive()
    async with await b.open_frame_socket(ethertype=0x0806) as new:
        lab.faults.restart("b")
        assert (await lab.ping("a", "b")).ok
        with trio.fail_after(1):
            assert text(arp.decode(await new.receive()).sender) == "10.0.0.1"


def test_it_is_all_there_in_a_lab_of_ones_own():
    async def main() -> bool:
        async with vnet.open_lab(vnet.parse_topology(LAN)) as lab:
            lab.guests["a"].add_address(VIRTUAL)
            return (await lab.ping("b", "10.0.0.70")).ok

    assert vnet.simulate(main)
