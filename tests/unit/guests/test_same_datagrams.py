"""Datagram sockets on the machine's own loopback and on emulated guests: see ``test_same_sockets.py``."""

from __future__ import annotations

import errno

import pytest
import trio
from socket_bed import in_every_place


async def pair_of_datagram_sockets(place):
    async with place.as_server():
        server = trio.socket.socket(place.family, trio.socket.SOCK_DGRAM)
        await server.bind((place.server_address, 0))
    async with place.as_client():
        client = trio.socket.socket(place.family, trio.socket.SOCK_DGRAM)
    return client, server


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
