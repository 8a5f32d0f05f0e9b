"""One suite of trio programs, on the machine's own sockets over loopback and on emulated guests: they cannot tell.

All of it runs over IPv4 and over IPv6. Here is what becomes of the octets of a stream; what single calls take and refuse is
in ``test_same_calls.py``, datagrams are in ``test_same_datagrams.py``.
"""

from __future__ import annotations

import errno
import functools

import pytest
import trio
from socket_bed import connected, in_every_place, listening


async def receive_exactly(sock, count):
    data = b""
    while len(data) < count:
        part = await sock.recv(count - len(data))
        assert part
        data += part
    return data


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
