"""Which guest's network a trio program sees: trio's socket factory and name resolver, by the guest that is active.

trio lets a run replace both, once and for all tasks. Ours ask a context variable which guest is active, so the choice is the
task's own and is inherited by the tasks it starts. Where none is active they do what was done before.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final, final

import trio

from vnet.guests.address_info import Resolved, get_addresses, get_name
from vnet.guests.anyio_servers import catch_servers
from vnet.guests.socket_table import SocketTable
from vnet.guests.trio_sockets import GuestSocket

_active: Final[ContextVar[SocketTable | None]] = ContextVar("vnet.active_guest", default=None)
_is_installed: Final[trio.lowlevel.RunVar[bool]] = trio.lowlevel.RunVar("vnet.sockets", default=False)


@asynccontextmanager
async def activated(table: SocketTable) -> AsyncIterator[None]:
    """Let this task, and the tasks it starts from within the block, use a guest's sockets and names."""
    if not _is_installed.get():
        _is_installed.set(True)
        factory, resolver = _SocketFactory(), _HostnameResolver()
        factory.previous = trio.socket.set_custom_socket_factory(factory)
        resolver.previous = trio.socket.set_custom_hostname_resolver(resolver)
    catch_servers(_active.get)
    token = _active.set(table)
    try:
        yield
    finally:
        _active.reset(token)


@final
class _SocketFactory(trio.abc.SocketFactory):
    previous: trio.abc.SocketFactory | None = None

    def socket(self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0) -> trio.socket.SocketType:
        table = _active.get()
        if table is not None:
            return GuestSocket(table, family, type, proto)
        if self.previous is not None:
            return self.previous.socket(family, type, proto)
        return trio.socket.from_stdlib_socket(socket.socket(family, type, proto))


@final
class _HostnameResolver(trio.abc.HostnameResolver):
    previous: trio.abc.HostnameResolver | None = None

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Resolved:
        table = _active.get()
        if table is not None:
            await trio.lowlevel.checkpoint()
            return await get_addresses(table, host, port, family, type, proto, flags)
        if self.previous is not None:
            return await self.previous.getaddrinfo(host, port, family, type, proto, flags)
        return await trio.to_thread.run_sync(
            socket.getaddrinfo, host, port, family, type, proto, flags, abandon_on_cancel=True
        )

    async def getnameinfo(self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
        table = _active.get()
        if table is not None:
            await trio.lowlevel.checkpoint()
            return await get_name(table, sockaddr, flags)
        if self.previous is not None:
            return await self.previous.getnameinfo(sockaddr, flags)
        return await trio.to_thread.run_sync(socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True)
