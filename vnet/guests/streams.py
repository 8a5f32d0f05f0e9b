"""TCP of an emulated guest without trio's own functions: trio's streams over the guest's sockets."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import trio

from vnet.guests.socket_table import SocketTable
from vnet.guests.trio_sockets import GuestSocket


async def open_stream(table: SocketTable, address: bytes, port: int) -> trio.SocketStream:
    """Connect to a packed address."""
    made = GuestSocket(table)
    try:
        await made.connect((socket.inet_ntoa(address), port))
    except BaseException:
        made.close()
        raise
    return trio.SocketStream(made)


async def serve(
    table: SocketTable,
    handler: Callable[[trio.SocketStream], Awaitable[object]],
    port: int,
    backlog: int,
    task_status: trio.TaskStatus[list[trio.SocketListener]],
) -> None:
    """Run a handler for each connection until cancelled."""
    with GuestSocket(table) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await made.bind(("", port))
        made.listen(backlog)
        await trio.serve_listeners(handler, [trio.SocketListener(made)], task_status=task_status)
