"""Which guest's network a trio program sees: trio's socket factory and name resolver, by the guest that is active.

trio lets a run replace both, once and for all tasks. Ours ask a context variable which guest is active, so the choice is the
task's own and is inherited by the tasks it starts. Where none is active they do what was done before.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final, Literal, TypeAlias, final

import trio

from vnet.guests.socket_address import interface_of
from vnet.guests.socket_table import ANY, ANY6, LOOPBACK, LOOPBACK6, SocketTable
from vnet.guests.trio_sockets import GuestSocket

Resolved: TypeAlias = list[
    tuple[Literal[socket.AddressFamily.AF_INET], socket.SocketKind, int, str, tuple[str, int]]
    | tuple[
        Literal[socket.AddressFamily.AF_INET6],
        socket.SocketKind,
        int,
        str,
        tuple[str, int, int, int] | tuple[int, bytes],
    ]
]
"""What getaddrinfo returns."""

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
            return _look_up(table, host, port, family, type, proto, flags)
        if self.previous is not None:
            return await self.previous.getaddrinfo(host, port, family, type, proto, flags)
        return await trio.to_thread.run_sync(
            socket.getaddrinfo, host, port, family, type, proto, flags, abandon_on_cancel=True
        )

    async def getnameinfo(self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
        table = _active.get()
        if table is not None:
            await trio.lowlevel.checkpoint()
            return _look_back(table, sockaddr, flags)
        if self.previous is not None:
            return await self.previous.getnameinfo(sockaddr, flags)
        return await trio.to_thread.run_sync(socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True)


def _look_back(table: SocketTable, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
    """Write an address; the C library does not see its scope, for which it would name an interface of the machine."""
    if len(sockaddr) == 2:
        return socket.getnameinfo(sockaddr, flags | socket.NI_NUMERICHOST)
    host, service = socket.getnameinfo((*sockaddr[:3], 0), flags | socket.NI_NUMERICHOST)
    interface = interface_of(table.host, sockaddr[3])
    return (host if interface is None else f"{host}%{interface.name}"), service


def _look_up(
    table: SocketTable, host: bytes | None, port: bytes | str | int | None, family: int, type: int, proto: int, flags: int
) -> Resolved:
    """Find the address here, and let the C library make entries of it: with a number for a host it asks nobody."""
    flags &= ~socket.AI_ADDRCONFIG  # it would ask what addresses the machine has, not the guest
    name = "" if host is None else host.decode("ascii", "replace")
    if host is not None:
        addresses = table.addresses(name)
    else:
        addresses = [ANY, ANY6] if flags & socket.AI_PASSIVE else [LOOPBACK6, LOOPBACK]
    found = []
    for packed in addresses:
        its_family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
        if family in (0, its_family) or len(addresses) == 1:
            address = socket.inet_ntop(its_family, packed) + table.numbered_scope(name)
            found += socket.getaddrinfo(address, port, family, type, proto, flags | socket.AI_NUMERICHOST)
    if flags & socket.AI_CANONNAME:
        family_found, kind, protocol, _, where = found[0]
        found[0] = (family_found, kind, protocol, name, where)  # type: ignore[assignment]
    return found
