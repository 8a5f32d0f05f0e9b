"""What IPv6 asks of guests' sockets beyond what loopback has: links, groups, errors, two addresses of a name."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv6Address, IPv6Interface

import pytest
import trio
from socket_bed import IPV6, Guests

from vnet.errors import Unreachable, UsageError
from vnet.guests.base import Verdict
from vnet.guests.emulated import EmulatedGuest
from vnet.guests.socket_errors import errno_of_icmp
from vnet.ports import connect
from vnet.runtime.clock import simulate
from vnet.stack.transport import IcmpError
from vnet.wire import icmpv6, ipv6

s = trio.socket
GROUP = "ff02::123"
DATAGRAM = socket.SOCK_DGRAM


class TwoLinks(Guests):
    """Guest a has another cable, to c, whose NIC has the MAC address of b's: their link-local addresses are the same."""

    def __init__(self):
        super().__init__(family=IPV6)
        self.c = self.guest("c", 2)
        second = self.a.host.add_interface("eth1", bytes((0x52, 0x54, 0, 0, 1, 1)))
        second.enable_ipv6()
        self.c.host.interfaces["eth0"].enable_ipv6().add_address(IPv6Interface("2001:db8:c::3/64"))
        connect(second.port, self.c.host.interfaces["eth0"].port, defer=self.timeline)
        self.address = str(IPv6Address(ipv6.link_local(self.c.host.interfaces["eth0"].mac)))

    def own(self, name):
        return str(IPv6Address(ipv6.link_local(self.a.host.interfaces[name].mac)))


def on_guests(function):
    async def main():
        guests = TwoLinks()
        await guests.settle()
        await guests.c.settle()
        with trio.fail_after(60):
            await function(guests)

    def test():
        simulate(main, seed=7)

    test.__name__, test.__doc__ = function.__name__, function.__doc__
    return test


async def listening(guest, address="::", port=80):
    async with guest.activate():
        sock = s.socket(IPV6)
        await sock.bind((address, port))
        sock.listen()
        return sock


async def datagrams(guest, port=0, address="::"):
    async with guest.activate():
        sock = s.socket(IPV6, DATAGRAM)
        await sock.bind((address, port))
        return sock


def joining(group, number):
    return socket.inet_pton(IPV6, group) + struct.pack("i", number)


# -- link-local addresses


@on_guests
async def test_streams_to_link_local_peers(guests):
    listeners = {"eth0": await listening(guests.b), "eth1": await listening(guests.c)}
    for number, name in ((2, "eth0"), (3, "eth1")):
        for form in (
            (guests.address, 80, 0, number),
            (f"{guests.address}%{name}", 80),
            (f"{guests.address}%{number}", 80, 0),
        ):
            async with guests.a.activate():
                client = s.socket(IPV6)
                await client.connect(form)
            server, peer = await listeners[name].accept()
            assert client.getpeername() == (guests.address, 80, 0, number)
            assert client.getsockname()[0::3] == (guests.own(name), number)
            assert peer[0::3] == (guests.own(name), 2), "there the first NIC"
            assert server.getsockname() == (guests.address, 80, 0, 2)
            await client.send(b"x")
            assert await server.recv(10) == b"x"
        async with guests.a.activate():
            stream = await trio.open_tcp_stream(f"{guests.address}%{number}", 80)
        assert (await listeners[name].accept())[1][0] == guests.own(name)
        await stream.aclose()


@on_guests
async def test_a_link_local_address_is_bound_with_its_interface(guests):
    async with guests.a.activate():
        sock = s.socket(IPV6)
        await sock.bind((guests.own("eth1"), 5000, 0, 3))
        assert sock.getsockname() == (guests.own("eth1"), 5000, 0, 3)
        listener = await listening(guests.c)
        await sock.connect((guests.address, 80))
        assert (await listener.accept())[1] == (guests.own("eth1"), 5000, 0, 2)
        for address, scope, number in (
            (guests.own("eth1"), 2, errno.EADDRNOTAVAIL), (guests.own("eth1"), 0, errno.EINVAL),
            (guests.own("eth1"), 9, errno.ENODEV),
        ):  # fmt: skip
            for kind in (socket.SOCK_STREAM, DATAGRAM):
                with pytest.raises(OSError) as caught:
                    await s.socket(IPV6, kind).bind((address, 0, 0, scope))
                assert caught.value.errno == number


@on_guests
async def test_datagrams_between_link_local_addresses(guests):
    servers = {"eth0": await datagrams(guests.b, 7), "eth1": await datagrams(guests.c, 7)}
    client = await datagrams(guests.a)
    for number, name in ((2, "eth0"), (3, "eth1")):
        await client.sendto(b"question", (guests.address, 7, 0, number))
        payload, peer = await servers[name].recvfrom(100)
        assert payload == b"question" and peer[0::3] == (guests.own(name), 2)
        await servers[name].sendto(b"answer", peer)
        assert await client.recvfrom(100) == (b"answer", (guests.address, 7, 0, number))
    await client.sendto(b"no scope", (guests.address, 7))
    assert await servers["eth0"].recv(100) == b"no scope", "by the first interface"
    await client.connect((guests.address, 7, 0, 3))
    assert client.getpeername() == (guests.address, 7, 0, 3)
    assert client.getsockname()[0::3] == (guests.own("eth1"), 3)
    await client.send(b"connected")
    peer = (await servers["eth1"].recvfrom(100))[1]
    await servers["eth0"].sendto(b"not you", (guests.own("eth0"), peer[1], 0, 2))
    await trio.sleep(1)
    await servers["eth1"].sendto(b"you", peer)
    assert await client.recv(100) == b"you", "the same address on another link is somebody else"
    assert guests.a.host.drops == {"udp-peer": 1}


@on_guests
async def test_the_guests_own_calls_name_a_link_by_its_interface(guests):
    async with trio.open_nursery() as nursery:

        async def hello(stream):
            await stream.send_all(b"hello")

        listeners = await nursery.start(guests.c.serve_tcp, hello, 80)
        assert [each.socket.getsockname()[:2] for each in listeners] == [("0.0.0.0", 80), ("::", 80)]
        for target in (f"{guests.address}%eth1", f"{guests.address}%3", IPv6Address(f"{guests.address}%eth1")):
            async with await guests.a.open_tcp_stream(target, 80) as stream:
                assert await stream.receive_some() == b"hello"
            assert (await guests.a.tcp_probe(target, 80)).verdict is Verdict.OPEN
        assert (await guests.a.tcp_probe(f"{guests.address}%eth0", 80)).verdict is Verdict.CLOSED
        assert (await guests.a.tcp_probe(guests.address, 80)).verdict is Verdict.CLOSED, "the first interface"
        guests.b.host.interfaces["eth0"].port.unplug()
        assert (await guests.a.ping(f"{guests.address}%eth1")).ok and not (await guests.a.ping(f"{guests.address}%eth0")).ok
        with pytest.raises(UsageError, match="no interface eth7"):
            await guests.a.open_tcp_stream(f"{guests.address}%eth7", 80)
        nursery.cancel_scope.cancel()


@on_guests
async def test_the_guests_own_datagrams(guests):
    async with (
        await guests.b.open_udp_socket(7) as b, await guests.c.open_udp_socket(7) as c,
        await guests.a.open_udp_socket(5000) as a,
        await guests.a.open_udp_socket(5001, IPv6Address("2001:db8::1")) as bound,
    ):  # fmt: skip
        for server, name in ((b, "eth0"), (c, "eth1")):
            await a.send_to(b"question", (f"{guests.address}%{name}", 7))
            payload, peer = await server.receive()
            assert (payload, peer) == (b"question", (IPv6Address(f"{guests.own(name)}%eth0"), 5000))
            await server.send_to(b"answer", peer)
            assert await a.receive() == (b"answer", (IPv6Address(f"{guests.address}%{name}"), 7))
        await bound.send_to(b"bound", ("2001:db8::2", 7))
        assert await b.receive() == (b"bound", (IPv6Address("2001:db8::1"), 5001))
        for address in ("10.0.0.2", "2002::1", f"{guests.address}%eth9"):
            with pytest.raises(Unreachable):
                await bound.send_to(b"x", (address, 7))


# -- groups


def watch(guest, frames):
    """Note what comes to a guest and leaves it."""

    def noting(handler):
        def note(frame, offload):
            frames.append(frame)
            handler(frame, offload)

        return note

    guest.host.interfaces["eth0"].port.gate(noting, noting)


@on_guests
async def test_groups(guests):
    listener = await datagrams(guests.b, 9)
    sender = await datagrams(guests.a)
    everybody = (GROUP, 9, 0, 2)
    await sender.sendto(b"too early", everybody)
    await trio.sleep(1)
    listener.setsockopt(s.IPPROTO_IPV6, s.IPV6_JOIN_GROUP, joining(GROUP, 2))
    assert socket.inet_pton(IPV6, GROUP) in guests.b.host.interfaces["eth0"].ipv6.groups
    with pytest.raises(OSError) as caught:
        listener.setsockopt(s.IPPROTO_IPV6, s.IPV6_JOIN_GROUP, joining(GROUP, 2))
    assert caught.value.errno == errno.EADDRINUSE
    await sender.sendto(b"hello", everybody)
    payload, peer = await listener.recvfrom(100)
    assert (payload, peer) == (b"hello", (guests.own("eth0"), sender.getsockname()[1], 0, 2))
    listener.setsockopt(s.IPPROTO_IPV6, s.IPV6_LEAVE_GROUP, joining(GROUP, 0))
    await sender.sendto(b"too late", everybody)
    await trio.sleep(1)
    assert not listener.is_readable()
    listener.setsockopt(s.IPPROTO_IPV6, s.IPV6_JOIN_GROUP, joining(GROUP, 0))
    listener.close()
    assert socket.inet_pton(IPV6, GROUP) not in guests.b.host.interfaces["eth0"].ipv6.groups, "closing leaves"


@on_guests
async def test_the_interface_and_reach_of_what_is_sent_to_groups(guests):
    listeners = {2: await datagrams(guests.b, 9), 3: await datagrams(guests.c, 9)}
    for listener in listeners.values():
        listener.setsockopt(s.IPPROTO_IPV6, s.IPV6_JOIN_GROUP, joining(GROUP, 2))
    frames = []
    for guest in (guests.b, guests.c):
        watch(guest, frames)
    sender = await datagrams(guests.a)
    for number, hops in ((2, 1), (3, 9)):
        sender.setsockopt(s.IPPROTO_IPV6, s.IPV6_MULTICAST_IF, number)
        sender.setsockopt(s.IPPROTO_IPV6, s.IPV6_MULTICAST_HOPS, hops)
        assert sender.getsockopt(s.IPPROTO_IPV6, s.IPV6_MULTICAST_IF) == number
        frames.clear()
        await sender.sendto(b"x", (GROUP, 9))
        assert await listeners[number].recv(10) == b"x"
        assert [frame[21] for frame in frames if frame[20] == 17] == [hops]
        assert not any(each.is_readable() for each in listeners.values())
        other = await datagrams(guests.a)
        other.setsockopt(s.IPPROTO_IPV6, s.IPV6_MULTICAST_IF, number)
        await other.connect((GROUP, 9))
        assert other.getpeername() == (GROUP, 9, 0, number)
        assert other.getsockname()[0::3] == (guests.own(f"eth{number - 2}"), number)
        await other.send(b"y")
        assert await listeners[number].recv(10) == b"y"


@on_guests
async def test_what_a_host_sends_to_its_own_groups(guests):
    listener, sender = await datagrams(guests.a, 9), await datagrams(guests.a)
    listener.setsockopt(s.IPPROTO_IPV6, s.IPV6_JOIN_GROUP, joining(GROUP, 2))
    outside = await datagrams(guests.b, 9)
    outside.setsockopt(s.IPPROTO_IPV6, s.IPV6_JOIN_GROUP, joining(GROUP, 2))
    for loop, hops, inside_gets, outside_gets in ((1, 1, True, True), (0, 1, False, True), (1, 0, True, False)):
        sender.setsockopt(s.IPPROTO_IPV6, s.IPV6_MULTICAST_LOOP, loop)
        sender.setsockopt(s.IPPROTO_IPV6, s.IPV6_MULTICAST_HOPS, hops)
        await sender.sendto(b"x", (GROUP, 9, 0, 2))
        await trio.sleep(1)
        assert (listener.is_readable(), outside.is_readable()) == (inside_gets, outside_gets), (loop, hops)
        for sock in (listener, outside):
            if sock.is_readable():
                assert (await sock.recvfrom(10))[1][0] == guests.own("eth0")


@on_guests
async def test_hop_limit_and_traffic_class(guests):
    server = await datagrams(guests.b, 9)
    seen = []
    watch(guests.b, seen)
    sock = await datagrams(guests.a)
    for hops, traffic_class in ((64, 0), (5, 0x2E << 2), (-1, -1)):
        sock.setsockopt(s.IPPROTO_IPV6, s.IPV6_UNICAST_HOPS, hops)
        sock.setsockopt(s.IPPROTO_IPV6, s.IPV6_TCLASS, traffic_class)
        seen.clear()
        await sock.sendto(b"x", ("2001:db8::2", 9))
        await server.recv(10)
        (frame,) = [frame for frame in seen if frame[20] == 17]
        assert frame[21] == (64 if hops < 0 else hops)
        assert (frame[14] << 8 | frame[15]) >> 4 & 0xFF == max(traffic_class, 0)


# -- errors of the network


@on_guests
async def test_errors(guests):
    async with guests.a.activate():
        for address, number in (
            ("2001:db8::99", errno.EHOSTUNREACH),
            ("2002::1", errno.ENETUNREACH),
            ("ff02::1", errno.ENETUNREACH),
        ):
            with pytest.raises(OSError) as caught:
                await s.socket(IPV6).connect((address, 80))
            assert caught.value.errno == number, address
        sock = s.socket(IPV6, DATAGRAM)
        with pytest.raises(OSError) as caught:
            await sock.sendto(b"x", ("2002::1", 80))
        assert caught.value.errno == errno.ENETUNREACH
        await sock.connect(("2001:db8::2", 9))
        assert sock.getsockname()[0] == "2001:db8::1"
        await sock.send(b"is anybody there?")
        with pytest.raises(ConnectionRefusedError):
            await sock.recv(10)
        with pytest.raises(OSError) as caught:
            await sock.send(bytes(65528))
        assert caught.value.errno == errno.EMSGSIZE
    old = EmulatedGuest(guests.guest("d", 4).host)
    async with old.activate():
        with pytest.raises(OSError) as caught:
            await s.socket(IPV6).connect(("2001:db8::2", 80))
        assert caught.value.errno == errno.ENETUNREACH


@pytest.mark.parametrize(
    ("kind", "code", "number"),
    [
        (icmpv6.UNREACHABLE, 0, 0), (icmpv6.UNREACHABLE, 1, errno.EACCES), (icmpv6.UNREACHABLE, 3, 0),
        (icmpv6.UNREACHABLE, 4, errno.ECONNREFUSED), (icmpv6.UNREACHABLE, 6, errno.EACCES), (icmpv6.UNREACHABLE, 99, 0),
        (icmpv6.PACKET_TOO_BIG, 0, 0), (icmpv6.TIME_EXCEEDED, 0, 0), (icmpv6.PARAMETER_PROBLEM, 1, errno.EPROTO),
        (icmpv6.PARAMETER_PROBLEM, 0, 0),
    ],
)  # fmt: skip
def test_what_a_connected_datagram_socket_is_told(kind, code, number):
    assert errno_of_icmp(IcmpError(kind, code, bytes(16), "text")) == number


@on_guests
async def test_a_tentative_address_is_not_there_yet(guests):
    guests.a.host.interfaces["eth0"].ipv6.add_address(IPv6Interface("2001:db8::aa/64"))
    async with guests.a.activate():
        with pytest.raises(OSError) as caught:
            await s.socket(IPV6).bind(("2001:db8::aa", 0))
        assert caught.value.errno == errno.EADDRNOTAVAIL
        await trio.sleep(3)
        await s.socket(IPV6).bind(("2001:db8::aa", 0))


# -- two addresses of one name


@pytest.mark.parametrize(("dead", "delay"), [("2001:db8::99", 0.25), ("2002::1", 0)])
def test_happy_eyeballs(dead, delay, monkeypatch):
    @on_guests
    async def test(guests):
        async with guests.b.activate():
            listener = s.socket()
            await listener.bind(("10.0.0.2", 80))
            listener.listen()
        addresses = [dead, "10.0.0.2"]

        async def both(name, port, **options):
            return [entry for each in addresses for entry in await s.getaddrinfo(each, port, **options)]

        monkeypatch.setattr("trio._highlevel_open_tcp_stream.getaddrinfo", both)
        async with guests.a.activate():
            began = trio.current_time()
            async with await trio.open_tcp_stream("two-addresses", 80) as stream:
                assert stream.socket.getpeername() == ("10.0.0.2", 80)
                assert trio.current_time() - began == pytest.approx(delay, abs=0.01)
            addresses[0] = "2001:db8::2"
            await listening(guests.b, "2001:db8::2")
            async with await trio.open_tcp_stream("two-addresses", 80) as stream:
                assert stream.socket.getpeername()[0] == "2001:db8::2", "the first is taken while it answers"

    test()
