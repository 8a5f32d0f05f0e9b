"""Sockets for both IP versions, on the machine's own loopback and on emulated guests: they cannot tell (RFC 3493)."""

from __future__ import annotations

import errno
import functools
import socket
import struct

import pytest
import trio
from socket_bed import IPV4, IPV6, in_place

s = trio.socket
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
GROUP = "ff02::123"


def in_every_place(function):
    @pytest.mark.parametrize("place", ["loopback", "fake", "guests"])
    def test(place):
        in_place(place, function, IPV6)

    test.__name__, test.__doc__ = function.__name__, function.__doc__
    return test


def make(kind=STREAM, family=IPV6, only=None):
    sock = s.socket(family, kind)
    if only is not None:
        sock.setsockopt(s.IPPROTO_IPV6, s.IPV6_V6ONLY, only)
    return sock


async def number_of(call, *args):
    """Return the errno with which a call fails, 0 if it does not."""
    try:
        result = call(*args)
        if hasattr(result, "__await__"):
            await result
    except OSError as error:
        return error.errno
    return 0


@in_every_place
async def test_a_listener_for_both(place):
    async with place.as_server():
        listener = make()
        await listener.bind(("", 0))
        listener.listen()
    host, port, flow, scope = listener.getsockname()
    assert (host, flow, scope) == ("::", 0, 0)
    for family, seen in ((IPV4, f"::ffff:{place.addresses[IPV4]}"), (IPV6, place.addresses[IPV6])):
        async with place.as_client():
            client = make(family=family)
            await client.connect((place.addresses[family], port))
        server, peer = await listener.accept()
        assert server.family == IPV6 and len(peer) == 4 and peer == server.getpeername()
        assert server.getsockname() == (seen, port, 0, 0)
        assert peer[0].endswith(client.getsockname()[0]) and peer[1] == client.getsockname()[1]
        await server.send(b"hello")
        assert await client.recv(10) == b"hello"
        client.close()
        server.close()


@in_every_place
async def test_a_listener_for_ipv6_alone(place):
    async with place.as_server():
        listener = make(only=1)
        await listener.bind(("::", 0))
        listener.listen()
    port = listener.getsockname()[1]
    async with place.as_client():
        assert await number_of(make(family=IPV4).connect, (place.addresses[IPV4], port)) == errno.ECONNREFUSED
        assert await number_of(make().connect, (f"::ffff:{place.addresses[IPV4]}", port)) == errno.ECONNREFUSED
        client = make()
        await client.connect((place.addresses[IPV6], port))
        assert client.getpeername() == (place.addresses[IPV6], port, 0, 0)


@in_every_place
async def test_mapped_addresses(place):
    mapped = f"::ffff:{place.addresses[IPV4]}"
    async with place.as_server():
        listener = make(family=IPV4)
        await listener.bind((place.addresses[IPV4], 0))
        listener.listen()
        bound = make()
        await bound.bind((mapped, 0))
        assert bound.getsockname()[0] == mapped
        assert await number_of(make(only=1).bind, (mapped, 0)) == errno.EINVAL
    port = listener.getsockname()[1]
    async with place.as_client():
        for name in (mapped, place.addresses[IPV4]):
            client = make()
            await client.connect((name, port))
            assert client.getpeername() == (mapped, port, 0, 0)
            assert client.getsockname()[0].startswith("::ffff:")
            assert (await listener.accept())[1] == (client.getsockname()[0][7:], client.getsockname()[1])
        assert await number_of(make(only=1).connect, (mapped, port)) == errno.ENETUNREACH
        assert await number_of(make(DATAGRAM, only=1).sendto, b"x", (mapped, port)) == errno.ENETUNREACH
        with pytest.raises(s.gaierror) as caught:
            await make(only=1).connect((place.addresses[IPV4], port))
        assert caught.value.errno == s.EAI_ADDRFAMILY
        with pytest.raises(s.gaierror) as caught:
            await make(family=IPV4).connect((place.addresses[IPV6], port))
        assert caught.value.errno == s.EAI_ADDRFAMILY


@in_every_place
async def test_datagrams_of_both(place):
    async with place.as_server():
        server = make(DATAGRAM)
        await server.bind(("::", 0))
    port = server.getsockname()[1]
    for family in (IPV4, IPV6):
        async with place.as_client():
            client = make(DATAGRAM, family)
            await client.connect((place.addresses[family], port))
        await client.send(b"question")
        payload, peer = await server.recvfrom(100)
        assert payload == b"question" and peer[0].endswith(client.getsockname()[0]) and len(peer) == 4
        assert peer[0].startswith("::ffff:") == (family == IPV4)
        await server.sendto(b"answer", peer)
        assert await client.recv(100) == b"answer"
    async with place.as_client():
        client = make(DATAGRAM)
        assert await client.sendto(b"x", (f"::ffff:{place.addresses[IPV4]}", port)) == 1
        assert client.getsockname()[0] == "::"
        assert (await server.recvfrom(10))[1][0].startswith("::ffff:")
        await client.sendto(b"y", (place.addresses[IPV6], port))
        assert not (await server.recvfrom(10))[1][0].startswith("::ffff:")


@in_every_place
async def test_who_may_bind_beside_whom(place):
    four, six = place.addresses[IPV4], place.addresses[IPV6]
    mapped = f"::ffff:{four}"
    for one, other, clash in (
        ((IPV4, "", 0), (IPV6, "", 0), True), ((IPV4, "", 0), (IPV6, "", 1), False), ((IPV6, "", 0), (IPV4, four, 0), True),
        ((IPV6, "", 1), (IPV4, four, 0), False), ((IPV6, "", 0), (IPV6, six, 0), True),
        ((IPV6, six, 0), (IPV4, four, 0), False), ((IPV6, mapped, 0), (IPV4, four, 0), True),
        ((IPV6, mapped, 0), (IPV4, "", 0), True),
        ((IPV6, mapped, 0), (IPV6, six, 0), False), ((IPV6, mapped, 0), (IPV6, "::", 1), False),
        ((IPV6, mapped, 0), (IPV6, "::", 0), True),
    ):  # fmt: skip
        for kind in (STREAM, DATAGRAM):
            async with place.as_server():
                first = make(kind, one[0], one[2] if one[0] == IPV6 else None)
                await first.bind((one[1], 0))
                if kind == STREAM:
                    first.listen()
                second = make(kind, other[0], other[2] if other[0] == IPV6 else None)
                found = await number_of(second.bind, (other[1], first.getsockname()[1]))
                assert found == (errno.EADDRINUSE if clash else 0), (one, other, kind)
                first.close()
                second.close()


@in_every_place
async def test_addresses_that_cannot_be_bound(place):
    async with place.as_server():
        assert make().getsockname() == ("::", 0, 0, 0)
        for number, address in (
            (errno.EADDRNOTAVAIL, ("2001:db8:9::1", 0)), (errno.EINVAL, ("fe80::99", 0)), (errno.EINVAL, ("ff0e::1", 0)),
            (errno.ENODEV, ("fe80::99", 0, 0, 9999)),
        ):  # fmt: skip
            assert await number_of(make().bind, address) == number, address
        assert await number_of(make(DATAGRAM).bind, (GROUP, 0)) == errno.EINVAL
        assert await number_of(make(DATAGRAM).bind, ("ff0e::1", 0)) == 0
        for address in (("::1", 0), ("::1", 0, 0), ("::1", 0, 0, 0), (b"::1", 0)):
            sock = make()
            await sock.bind(address)
            assert sock.getsockname()[0] == "::1"


@in_every_place
async def test_addresses_that_cannot_be_reached(place):
    mapped = f"::ffff:{place.addresses[IPV4]}"
    async with place.as_server():
        for kind in (STREAM, DATAGRAM):
            assert await number_of(make(kind).connect, ("fe80::99", 9)) == errno.EINVAL
            assert await number_of(make(kind).connect, ("fe80::99", 9, 0, 9999)) == errno.ENETUNREACH
            sock = make(kind)
            await sock.bind((place.addresses[IPV6], 0))
            assert await number_of(sock.connect, (mapped, 9)) == errno.ENETUNREACH
            sock = make(kind)
            await sock.bind((mapped, 0))
            assert await number_of(sock.connect, (place.addresses[IPV6], 9)) == errno.EAFNOSUPPORT
        assert await number_of(make(DATAGRAM).connect, (GROUP, 9)) == errno.EINVAL
        assert await number_of(make(DATAGRAM).sendto, b"x", ("fe80::99", 9, 0, 9999)) == errno.ENETUNREACH
        assert await number_of(make().connect, ("::1", 0)) == errno.ECONNREFUSED
        listener = make()
        await listener.bind(("::", 0))
        listener.listen()
        for address in ("::", "::1", None, ""):
            client = make()
            await client.connect((address, listener.getsockname()[1]))
            assert client.getpeername()[0] == "::1" == client.getsockname()[0]
        client = make()
        await client.connect(("::ffff:0.0.0.0", listener.getsockname()[1]))
        assert client.getpeername()[0] == "::ffff:127.0.0.1"


@in_every_place
async def test_options(place):
    everywhere = {
        s.IPV6_V6ONLY: [0, (1, 1), (0, 0), (5, 1)], s.IPV6_UNICAST_HOPS: [64, (5, 5), (0, 0), (-1, 64), (256, errno.EINVAL)],
        s.IPV6_MULTICAST_LOOP: [1, (0, 0), (1, 1), (2, errno.EINVAL)],
        s.IPV6_TCLASS: [0, (8, 8), (-1, 0), (256, errno.EINVAL)],
    }  # fmt: skip
    for_datagrams = {
        s.IPV6_MULTICAST_HOPS: [1, (5, 5), (0, 0), (-1, 1), (256, errno.EINVAL)],
        s.IPV6_MULTICAST_IF: [0, (0, 0), (9999, errno.ENODEV)],
    }
    async with place.as_client():
        for kind, options in ((STREAM, everywhere), (DATAGRAM, everywhere | for_datagrams)):
            for name, (default, *steps) in options.items():
                sock = make(kind)
                assert sock.getsockopt(s.IPPROTO_IPV6, name) == default
                for value, expected in steps:
                    number = await number_of(sock.setsockopt, s.IPPROTO_IPV6, name, value)
                    assert expected == (number or sock.getsockopt(s.IPPROTO_IPV6, name)), (kind, name, value)
        sock = make()
        await sock.bind(("::", 0))
        assert await number_of(sock.setsockopt, s.IPPROTO_IPV6, s.IPV6_V6ONLY, 1) == errno.EINVAL
        assert make().getsockopt(s.SOL_SOCKET, s.SO_DOMAIN) == IPV6
        for sock in (make(family=IPV4), make(DATAGRAM, IPV4)):
            assert await number_of(sock.setsockopt, s.IPPROTO_IPV6, s.IPV6_UNICAST_HOPS, 1) == errno.ENOPROTOOPT
        for name in (s.IPV6_MULTICAST_HOPS, s.IPV6_MULTICAST_IF):
            assert await number_of(make().setsockopt, s.IPPROTO_IPV6, name, 1) == errno.ENOPROTOOPT


@in_every_place
async def test_groups_that_cannot_be_joined(place):
    async with place.as_client():
        for number, name, value in (
            (errno.EINVAL, s.IPV6_JOIN_GROUP, socket.inet_pton(IPV6, "::1") + struct.pack("i", 0)),
            (errno.ENODEV, s.IPV6_JOIN_GROUP, socket.inet_pton(IPV6, GROUP) + struct.pack("i", 9999)),
            (errno.EINVAL, s.IPV6_JOIN_GROUP, b"short"), (errno.EINVAL, s.IPV6_JOIN_GROUP, 3),
            (errno.EADDRNOTAVAIL, s.IPV6_LEAVE_GROUP, socket.inet_pton(IPV6, GROUP) + struct.pack("i", 0)),
        ):  # fmt: skip
            assert await number_of(make(DATAGRAM).setsockopt, s.IPPROTO_IPV6, name, value) == number


@in_every_place
async def test_a_server_without_a_host_listens_to_both(place):
    async def echo(stream):
        async for part in stream:
            await stream.send_all(part)

    async with trio.open_nursery() as nursery:
        async with place.as_server():
            listeners = await nursery.start(functools.partial(trio.serve_tcp, echo, 0))
        assert sorted(each.socket.family for each in listeners) == [IPV4, IPV6]
        for listener in listeners:
            address = place.addresses[listener.socket.family]
            async with place.as_client(), await trio.open_tcp_stream(address, listener.socket.getsockname()[1]) as stream:
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"
                assert stream.socket.getpeername()[0] == address
        nursery.cancel_scope.cancel()
