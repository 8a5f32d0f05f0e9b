"""One suite of trio programs, on the machine's own sockets over loopback and on emulated guests: they cannot tell.

All of it runs over IPv4 and over IPv6.
"""

from __future__ import annotations

import errno
import functools
import socket

import pytest
import trio
from socket_bed import in_place

PLACES = ["loopback", "fake", "guests"]


def in_every_place(function):
    @pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
    @pytest.mark.parametrize("place", PLACES)
    def test(place, family):
        in_place(place, function, family)

    test.__name__, test.__doc__ = function.__name__, function.__doc__
    return test


async def listening(place, backlog=16):
    async with place.as_server():
        sock = trio.socket.socket(place.family)
        await sock.bind((place.server_address, 0))
        sock.listen(backlog)
        return sock


async def connected(place):
    """Return the sockets of a client and a server."""
    listener = await listening(place)
    async with place.as_client():
        client = trio.socket.socket(place.family)
        await client.connect(listener.getsockname())
    server, address = await listener.accept()
    assert address == client.getsockname()
    listener.close()
    return client, server


async def receive_exactly(sock, count):
    data = b""
    while len(data) < count:
        part = await sock.recv(count - len(data))
        assert part
        data += part
    return data


async def pair_of_datagram_sockets(place):
    async with place.as_server():
        server = trio.socket.socket(place.family, trio.socket.SOCK_DGRAM)
        await server.bind((place.server_address, 0))
    async with place.as_client():
        client = trio.socket.socket(place.family, trio.socket.SOCK_DGRAM)
    return client, server


@in_every_place
async def test_an_echo_server(place):
    async def echo(stream):
        async for part in stream:
            await stream.send_all(part.upper())

    async with trio.open_nursery() as nursery:
        async with place.as_server():
            serve = functools.partial(trio.serve_tcp, echo, 0, host=place.server_address)
            (listener, *_) = await nursery.start(serve)
        port = listener.socket.getsockname()[1]
        async with place.as_client(), await trio.open_tcp_stream(place.server_address, port) as stream:
            assert stream.socket.getpeername()[:2] == (place.server_address, port)
            for text in (b"hello", b"world"):
                await stream.send_all(text)
                assert await receive_exactly(stream.socket, 5) == text.upper()
            await stream.send_eof()
            assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()


@in_every_place
async def test_a_megabyte_each_way_at_once(place):
    client, server = await connected(place)
    data = bytes(range(256)) * 4096

    async def send(sock):
        rest = memoryview(data)
        while rest:
            rest = rest[await sock.send(rest) :]
        sock.shutdown(trio.socket.SHUT_WR)

    async def receive(sock):
        got = bytearray()
        while part := await sock.recv(10_000):
            got += part
        assert got == data

    async with trio.open_nursery() as nursery:
        for sock in (client, server):
            nursery.start_soon(send, sock)
            nursery.start_soon(receive, sock)
    client.close()
    server.close()


@in_every_place
async def test_half_close(place):
    client, server = await connected(place)
    await client.send(b"question")
    client.shutdown(trio.socket.SHUT_WR)
    assert client.did_shutdown_SHUT_WR and not server.did_shutdown_SHUT_WR
    with pytest.raises(BrokenPipeError):
        await client.send(b"more")
    assert await receive_exactly(server, 8) == b"question"
    assert await server.recv(10) == b"" == await server.recv(10)
    await server.send(b"answer")
    assert await receive_exactly(client, 6) == b"answer"


@in_every_place
async def test_refused(place):
    listener = await listening(place)
    address = listener.getsockname()
    listener.close()
    async with place.as_client():
        client = trio.socket.socket(place.family)
        with pytest.raises(ConnectionRefusedError) as caught:
            await client.connect(address)
        assert caught.value.errno == errno.ECONNREFUSED
        with pytest.raises(OSError, match="all attempts to connect") as caught:
            await trio.open_tcp_stream(*address[:2])
        assert isinstance(caught.value.__cause__.exceptions[0], ConnectionRefusedError)


@in_every_place
async def test_closing_with_unread_data_resets(place):
    client, server = await connected(place)
    await client.send(b"never read")
    assert await server.recv(1, trio.socket.MSG_PEEK)
    server.close()
    with pytest.raises(ConnectionResetError):
        await client.recv(10)
    assert await client.recv(10) == b"", "an error is told once"
    with pytest.raises(BrokenPipeError):
        await client.send(b"x")


@in_every_place
async def test_lingering_for_no_time_resets(place):
    client, server = await connected(place)
    client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert client.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, 8) == b"\1\0\0\0\0\0\0\0"
    client.close()
    with pytest.raises(ConnectionResetError):
        await server.recv(10)


@in_every_place
async def test_what_arrived_before_a_reset_is_read_first(place):
    client, server = await connected(place)
    await server.send(b"last words")
    assert await client.recv(4, trio.socket.MSG_PEEK) == b"last"
    server.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    server.close()
    with pytest.raises(OSError, match="not connected"):
        while True:  # the reset is on its way
            client.getpeername()
            await trio.sleep(0.001)
    assert await receive_exactly(client, 10) == b"last words"
    with pytest.raises(ConnectionResetError):
        await client.recv(10)
    assert await client.recv(10) == b""


@in_every_place
async def test_writing_stops_when_nobody_reads(place):
    client, server = await connected(place)
    sent = 0
    with trio.move_on_after(place.patience):
        while True:
            sent += await client.send(bytes(65536))
    assert sent > 10_000
    with trio.move_on_after(0.1) as scope:
        await client.wait_writable()
    assert scope.cancelled_caught

    async def drain():
        received = 0
        while received < sent:
            received += len(await server.recv(1 << 20))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await client.wait_writable()
    assert await client.send(b"x") == 1
    assert await server.recv(10) == b"x"


@in_every_place
async def test_cancelled_receiving_loses_nothing(place):
    client, server = await connected(place)
    with trio.move_on_after(0.01) as scope:
        await server.recv(10)
    assert scope.cancelled_caught
    await client.send(b"late")
    with trio.CancelScope() as scope:
        scope.cancel()
        await server.recv(10)
    assert scope.cancelled_caught
    assert await receive_exactly(server, 4) == b"late"


@in_every_place
async def test_two_tasks_cannot_wait_for_one_direction(place):
    client, server = await connected(place)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.recv, 10)
            nursery.start_soon(server.recv, 10)
    assert caught.group_contains(trio.BusyResourceError)


@in_every_place
async def test_closing_wakes_who_waits(place):
    client, server = await connected(place)

    async def wait():
        with pytest.raises(trio.ClosedResourceError):
            await server.recv(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        server.close()
    for call in (lambda: server.recv(1), lambda: server.send(b"x"), server.accept, lambda: server.bind(("", 0))):
        with pytest.raises(OSError, match="Bad file descriptor"):
            await call()
    with pytest.raises(OSError, match="Bad file descriptor"):
        server.getsockname()
    assert server.fileno() == -1
    server.close()


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
async def test_datagrams(place):
    client, server = await pair_of_datagram_sockets(place)
    assert await client.sendto(b"one", server.getsockname()) == 3
    payload, source = await server.recvfrom(100)
    assert payload == b"one" and source[1] == client.getsockname()[1]
    await server.sendto(b"twotwo", 0, source)
    assert await client.recvfrom(3) == (b"two", server.getsockname())
    with pytest.raises(OSError) as caught:
        await client.send(b"x")
    assert caught.value.errno == errno.EDESTADDRREQ
    await client.connect(server.getsockname())
    assert client.getpeername() == server.getsockname()
    for payload in (b"", b"x"):
        assert await client.send(payload) == len(payload)
        assert await server.recv(10) == payload
    with pytest.raises(OSError) as caught:
        await client.send(bytes(place.largest_datagram + 1))
    assert caught.value.errno == errno.EMSGSIZE
    server.close()
    with trio.fail_after(5), pytest.raises(ConnectionRefusedError):
        while True:
            await client.send(b"is anybody there?")
            with trio.move_on_after(0.05):
                await client.recv(10)


@in_every_place
async def test_datagram_sockets_have_no_streams(place):
    client, server = await pair_of_datagram_sockets(place)
    with pytest.raises(OSError) as caught:
        server.listen()
    assert caught.value.errno == errno.EOPNOTSUPP
    with pytest.raises(OSError):
        await server.accept()
    with pytest.raises(OSError) as caught:
        client.getpeername()
    assert caught.value.errno == errno.ENOTCONN
    with pytest.raises(PermissionError):
        await client.sendto(b"x", ("255.255.255.255", 9))
    client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_BROADCAST, 1)
    with pytest.raises(OSError) as caught:
        other = (await pair_of_datagram_sockets(place))[1]
        other.close()
        async with place.as_server():
            third = trio.socket.socket(place.family, trio.socket.SOCK_DGRAM)
            await third.bind(server.getsockname())
    assert caught.value.errno == errno.EADDRINUSE


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
async def test_a_cancelled_connect_closes_the_socket(place):
    listener = await listening(place)
    async with place.as_client():
        sock = trio.socket.socket(place.family)
        with trio.CancelScope() as scope:
            scope.cancel()
            await sock.connect(listener.getsockname())
        assert scope.cancelled_caught and sock.fileno() == -1


@in_every_place
async def test_nobody_listens_at_port_0(place):
    async with place.as_client():
        with pytest.raises(ConnectionRefusedError):
            await trio.socket.socket(place.family).connect((place.server_address, 0))


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


@in_every_place
async def test_odd_datagrams(place):
    client, server = await pair_of_datagram_sockets(place)
    fresh, _ = await pair_of_datagram_sockets(place)
    s = trio.socket
    name = server.getsockname()
    for number, call in (
        (errno.EINVAL, lambda: client.sendto(b"x", (name[0], 0))),
        (errno.EDESTADDRREQ, lambda: client.sendmsg([b"x"])),
        (errno.EINVAL, lambda: server.bind(("", 0))),
        (errno.EADDRNOTAVAIL, lambda: fresh.bind((place.foreign_address, 0))),
    ):
        with pytest.raises(OSError) as caught:
            await call()
        assert caught.value.errno == number
    with pytest.raises(OSError) as caught:
        server.shutdown(s.SHUT_WR)
    assert caught.value.errno == errno.ENOTCONN
    assert await client.sendmsg([b"one", b"two"], [], 0, name) == 6
    assert await server.recv(3, s.MSG_PEEK) == b"one"
    assert (await server.recvmsg(100))[0] == b"onetwo"
    await client.connect(name)
    with pytest.raises(OSError) as caught:
        client.shutdown(99)
    assert caught.value.errno == errno.EINVAL
    client.shutdown(s.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        await client.send(b"x")
    client.close()
    client.close()
