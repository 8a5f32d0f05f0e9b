"""Servers of anyio as programs of guests.

anyio makes listening sockets by the standard library and hands them to trio afterwards, so trio's socket factory never sees
them, and a server would listen on the machine without a word. Where anyio was imported, its name ``socket`` gets a stand-in
that asks which guest is active, and trio takes the guest's sockets that come from there. All else is passed through.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Final, final

import trio

from vnet.guests.socket_errors import os_error
from vnet.guests.socket_table import SocketTable
from vnet.guests.trio_sockets import GuestSocket

_MODULE: Final = "anyio._core._sockets"


def catch_servers(active: Callable[[], SocketTable | None]) -> None:
    """Have anyio, if it is there, make sockets of the guest that *active* names; again is no error."""
    if "anyio" not in sys.modules:
        return
    module = import_module(_MODULE)  # anyio itself puts that off until a name from there is used
    if not isinstance(getattr(module, "socket", None), type(socket)):
        return
    setattr(module, "socket", _SocketModule(active))  # noqa: B010 - a module whose names mypy need not know
    plain = trio.socket.from_stdlib_socket

    def from_stdlib_socket(sock: socket.socket | _BareSocket) -> trio.socket.SocketType:
        return sock.guest_socket if isinstance(sock, _BareSocket) else plain(sock)

    setattr(trio.socket, "from_stdlib_socket", from_stdlib_socket)  # noqa: B010 - it takes more than trio's own


@final
class _SocketModule:
    """What anyio takes for the module ``socket``."""

    def __init__(self, active: Callable[[], SocketTable | None]) -> None:
        self._active = active

    def __getattr__(self, name: str) -> object:
        return getattr(socket, name)

    def socket(self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0) -> object:
        """Make a socket of the active guest, or of the machine if there is none."""
        table = self._active()
        return socket.socket(family, type, proto) if table is None else _BareSocket(table, family, type, proto)


@final
class _BareSocket:
    """What anyio takes for a socket of the standard library: it binds at once, as it is given numbers only."""

    def __init__(self, table: SocketTable, family: int, type: int, proto: int) -> None:
        self.guest_socket = GuestSocket(table, family, type, proto)

    def __getattr__(self, name: str) -> object:
        return getattr(self.guest_socket, name)

    def setblocking(self, flag: bool) -> None:
        """Do nothing: a guest's sockets wait in trio's way."""

    def bind(self, address: tuple[object, ...]) -> None:
        """Choose this end's address, given as numbers; raise OSError (EINVAL) for a name, which could take time."""
        resolving = self.guest_socket._resolve(address, local=True)
        try:
            resolving.send(None)
        except StopIteration as done:
            target = done.value
        else:
            resolving.close()
            raise os_error(errno.EINVAL, f"{address[0]!r} is no address")
        self.guest_socket._open().bind(target)
