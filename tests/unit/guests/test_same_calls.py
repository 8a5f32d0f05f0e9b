"""What calls on a stream socket take and refuse: states, addresses, options, arguments; see ``test_same_sockets.py``."""

from __future__ import annotations

import errno

import pytest
import trio
from socket_bed import connected, in_every_place, listening


@in_every_place
async def test_calls_in_the_wrong_state(place):
    client, server = await connected(place)
    listener = await listening(place)
    async with place.as_client():
        fresh = trio.socket.socket(place.family)
    assert fresh.getsockname()[:2] == (place.wildcard, 0)
    for number, call in (
        (errno.ENOTCONN, lambda: fresh.recv(10)),
        (errno.EPIPE, lambda: fresh.send(b"x")),
        (errno.EINVAL, fresh.accept),
        (errno.EINVAL, client.accept),
        (errno.ENOTCONN, lambda: listener.recv(1)),
        (errno.EPIPE, lambda: listener.send(b"x")),
        (errno.EINVAL, lambda: listener.bind((place.server_address, 0))),
    ):
        with pytest.raises(OSError) as caught:
            await call()
        assert caught.value.errno == number
    for number, call in (
        (errno.ENOTCONN, fresh.getpeername),
        (errno.ENOTCONN, listener.getpeername),
        (errno.ENOTCONN, lambda: fresh.shutdown(trio.socket.SHUT_WR)),
        (errno.EINVAL, client.listen),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == number


@in_every_place
async def test_taken_and_foreign_addresses(place):
    listener = await listening(place)
    async with place.as_server():
        other = trio.socket.socket(place.family)
        with pytest.raises(OSError) as caught:
            await other.bind(listener.getsockname())
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError) as caught:
            await other.bind((place.foreign_address, 0))
        assert caught.value.errno == errno.EADDRNOTAVAIL
        await other.bind(("", 0))
        name = other.getsockname()
        assert name[0] == place.wildcard and name[1] > 1023
        other.listen()
        other.listen()
        assert other.getsockname() == name
    listener.close()


@in_every_place
async def test_bound_before_connecting(place):
    listener = await listening(place)
    async with place.as_client():
        client = trio.socket.socket(place.family)
        await client.bind(("", 0))
        port = client.getsockname()[1]
        await client.connect(listener.getsockname())
        assert client.getsockname()[1] == port
    assert (await listener.accept())[1][1] == port


@in_every_place
async def test_options(place):
    client, server = await connected(place)
    s = trio.socket
    for level, name, value in (
        (s.SOL_SOCKET, s.SO_REUSEADDR, 1), (s.SOL_SOCKET, s.SO_KEEPALIVE, 1), (s.IPPROTO_TCP, s.TCP_NODELAY, 1),
        (s.IPPROTO_TCP, s.TCP_KEEPIDLE, 90), (s.IPPROTO_TCP, s.TCP_NOTSENT_LOWAT, 16384), (s.IPPROTO_IP, s.IP_TTL, 33),
    ):  # fmt: skip
        client.setsockopt(level, name, value)
        assert client.getsockopt(level, name) == value
        assert client.getsockopt(level, name, 4) == value.to_bytes(4, "little")
    client.setsockopt(s.IPPROTO_TCP, s.TCP_NODELAY, b"\0\0\0\0")
    assert client.getsockopt(s.IPPROTO_TCP, s.TCP_NODELAY) == 0
    assert client.getsockopt(s.SOL_SOCKET, s.SO_ERROR) == 0
    assert client.getsockopt(s.SOL_SOCKET, s.SO_ACCEPTCONN) == 0
    assert (await listening(place)).getsockopt(s.SOL_SOCKET, s.SO_ACCEPTCONN) == 1
    assert client.getsockopt(s.SOL_SOCKET, s.SO_TYPE) == s.SOCK_STREAM
    with pytest.raises(OSError) as caught:
        client.setsockopt(s.IPPROTO_TCP, 9999, 1)
    assert caught.value.errno == errno.ENOPROTOOPT
    with pytest.raises(OSError) as caught:
        client.setsockopt(s.IPPROTO_IP, s.IP_TTL, 256)
    assert caught.value.errno == errno.EINVAL
    assert (client.family, client.type, client.proto) == (place.family, s.SOCK_STREAM, 0)


@in_every_place
async def test_all_ways_to_receive_and_send(place):
    client, server = await connected(place)
    assert await client.sendmsg([b"ab", b"cd", b"efghij"]) == 10
    assert await server.recv(100, trio.socket.MSG_PEEK) == b"abcdefghij"
    buffer = bytearray(4)
    assert await server.recv_into(buffer, 2) == 2 and buffer == b"ab\0\0"
    assert (await server.recvfrom(1))[0] == b"c"
    assert (await server.recvfrom_into(buffer))[0] == 4 and buffer == b"defg"
    assert (await server.recvmsg(1))[0] == b"h"
    parts = [bytearray(1), bytearray(5)]
    assert (await server.recvmsg_into(parts))[0] == 2 and parts == [b"i", b"j\0\0\0\0"]
    assert not server.is_readable()
    with pytest.raises(ValueError):
        await server.recv(-1)
    with pytest.raises(ValueError):
        await server.recv_into(buffer, 5)
    assert await server.recv(0) == b"" and await server.send(b"") == 0


@in_every_place
async def test_addresses_that_are_none(place):
    async with place.as_client():
        sock = trio.socket.socket(place.family)
        for address in ("10.0.0.1", ("10.0.0.1",), ("10.0.0.1", 80, 0, 0, 0)):
            with pytest.raises(ValueError, match="should be a"):
                await sock.connect(address)
        with pytest.raises(OverflowError):
            await sock.connect((place.server_address, 65536))
        with pytest.raises(trio.socket.gaierror):
            await sock.connect(("no-such-name.invalid", 80))


@in_every_place
async def test_operations_are_checkpoints(place):
    client, server = await connected(place)
    with trio.testing.assert_checkpoints():
        await client.send(b"hello")
    assert await server.recv(1, trio.socket.MSG_PEEK)
    with trio.testing.assert_checkpoints():
        await server.recv(10)
    with trio.testing.assert_checkpoints():
        await client.wait_writable()
    with trio.testing.assert_checkpoints(), pytest.raises(OSError):
        await client.accept()
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.send(b"x")
    assert scope.cancelled_caught and not server.is_readable()


@in_every_place
async def test_odd_arguments(place):
    client, server = await connected(place)
    s = trio.socket
    with pytest.raises(OSError):
        await server.recv(10, s.MSG_OOB)
    for call in (
        lambda: client.shutdown(99),
        lambda: client.setsockopt(s.SOL_SOCKET, s.SO_LINGER, 1),
        lambda: client.setsockopt(s.SOL_SOCKET, s.SO_LINGER, b"\1\0"),
        lambda: client.setsockopt(s.SOL_SOCKET, s.SO_KEEPALIVE, b"\1"),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(TypeError):
        client.setsockopt(s.SOL_SOCKET, s.SO_KEEPALIVE, None)
    with pytest.raises(TypeError):
        client.setsockopt(s.SOL_SOCKET, s.SO_KEEPALIVE, 1, 4)
    with pytest.raises(OSError):
        client.getsockopt(s.IPPROTO_TCP, 9999)
    with pytest.raises((TypeError, ValueError)):
        await client.sendto(b"x")
    with pytest.raises(TypeError):
        await client.recv(1.5)
    assert await client.sendto(b"to its peer", server.getsockname()) == 11
    assert await server.recv(100) == b"to its peer"
    client.shutdown(s.SHUT_RD)
    assert await client.recv(10) == b""
    client.shutdown(s.SHUT_RDWR)
    assert await server.recv(10) == b""
