"""Sockets of a server that takes streams and datagrams at one port, over both IP versions unless it is told an address."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


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


def datagram_socket(host: str | None) -> trio.socket.SocketType:
    """Make a socket for datagrams to an address; without one it is for both IP versions (RFC 3493, 3.7)."""
    is_ipv4 = host is not None and ":" not in host
    return trio.socket.socket(trio.socket.AF_INET if is_ipv4 else trio.socket.AF_INET6, trio.socket.SOCK_DGRAM)
