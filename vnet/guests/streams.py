"""TCP of an emulated guest without trio's own functions: trio's streams over the guest's sockets."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import trio

from vnet.guests.socket_address import needs_scope, number_of, written
from vnet.guests.socket_table import SocketTable
from vnet.guests.trio_sockets import GuestSocket
from vnet.stack.interface import Interface


async def open_stream(table: SocketTable, address: bytes, port: int, interface: Interface | None) -> trio.SocketStream:
    """Connect to a packed address, a link-local one on the link of *interface*, or else of the first with IPv6."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    if interface is None and needs_scope(address):
        interface = next((each for each in table.host.interfaces.values() if each.ipv6 is not None), None)
    made = GuestSocket(table, family)
    try:
        await made.connect(written(family, address, port, number_of(table.host, interface)))
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
    """Run a handler for each connection over IPv4 or IPv6 until cancelled: each has a listener, at the same port."""
    with GuestSocket(table) as ipv4, GuestSocket(table, socket.AF_INET6) as ipv6:
        ipv6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for made in (ipv4, ipv6):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await made.bind(("", port or ipv4.getsockname()[1]))
            made.listen(backlog)
        await trio.serve_listeners(handler, [trio.SocketListener(ipv4), trio.SocketListener(ipv6)], task_status=task_status)
