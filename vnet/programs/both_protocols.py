"""Sockets of a server that takes streams and datagrams at one port, over both IP versions unless it is told an address."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

import trio

from vnet.programs.closed_sockets import raise_if_closed


@asynccontextmanager
async def listening(
    port: int, host: str | None
) -> AsyncIterator[tuple[int, list[trio.SocketListener], trio.socket.SocketType]]:
    """Open the listeners and the socket for datagrams; yield the port, which is picked for port 0, and both.

    Raise OSError if the port is taken. The listeners are for ``trio.serve_listeners``, which closes them.
    """
    listeners = await trio.open_tcp_listeners(port, host=host)
    port = listeners[0].socket.getsockname()[1]
    with datagram_socket(host) as socket:
        await socket.bind((host or "", port))
        yield port, listeners, socket


async def answer_datagrams(
    socket: trio.socket.SocketType, most: int, answer: Callable[[bytes, int], bytes | None]
) -> NoReturn:
    """Send back what *answer* makes of each datagram of up to *most* octets and the port it came from; None is no answer."""
    while True:
        try:
            data, peer = await socket.recvfrom(most)
            reply = answer(data, peer[1])
            if reply is not None:
                await socket.sendto(reply, peer)
        except OSError as error:  # ICMP says that an earlier answer did not arrive, or there is no way to this peer
            raise_if_closed(error)
            await trio.lowlevel.checkpoint()


def datagram_socket(host: str | None) -> trio.socket.SocketType:
    """Make a socket for datagrams to an address; without one it is for both IP versions (RFC 3493, 3.7)."""
    is_ipv4 = host is not None and ":" not in host
    return trio.socket.socket(trio.socket.AF_INET if is_ipv4 else trio.socket.AF_INET6, trio.socket.SOCK_DGRAM)
