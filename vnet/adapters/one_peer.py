"""Where an adapter's one peer on a stream socket comes from: it connects to us, or we dial until it is there."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Callable
from typing import final

from vnet.adapters.base import AdapterContext
from vnet.adapters.sockets import BoundSocket, Retry, address_of, family_of, placed
from vnet.topology.adapter_kinds.sockets import SocketPlace


@final
class OnePeer:
    """Listens at a place or dials it, again and again; raise HostError if it cannot listen.

    *on_connected* gets the connection, which does not block. Who comes while another is there, until that one is ``lost``,
    is turned away, and may come again.
    """

    def __init__(
        self,
        place: SocketPlace,
        *,
        listens: bool,
        context: AdapterContext,
        drops: Counter[str],
        on_connected: Callable[[socket.socket], None],
    ) -> None:
        place = placed(place, context.directory)
        self._listener = BoundSocket(place, socket.SOCK_STREAM, context.ledger) if listens else None
        self.place = place if self._listener is None else self._listener.place
        self.listens = listens
        self.is_open = False
        """Whether a peer is looked for: from ``start`` until ``stop``."""
        self.is_connected = False
        self.trouble = ""
        """Why dialling was in vain the last time."""
        self._poller = context.poller
        self._drops = drops
        self._on_connected = on_connected
        self._dialling: socket.socket | None = None
        self._retry = Retry(context.scheduler, self._dial)

    def start(self) -> None:
        """Begin to take a peer's connection, or dial."""
        self.is_open = True
        if self._listener is not None:
            self._poller.register(self._listener.socket.fileno(), self._accept)
        else:
            self._dial()

    def stop(self) -> None:
        """Look for nobody any more; the connection is its owner's to close. Calling again does nothing."""
        was_open, self.is_open = self.is_open, False
        self.is_connected = False
        self._retry.cancel()
        if self._listener is not None and was_open:
            self._poller.unregister(self._listener.socket.fileno())
        dialling, self._dialling = self._dialling, None
        if dialling is not None:
            self._poller.unregister(dialling.fileno())
            dialling.close()

    def close(self) -> None:
        """Remove the socket that listens; calling again does nothing."""
        if self._listener is not None:
            self._listener.close()

    def lost(self, *, got_somewhere: bool = True) -> None:
        """Look for the next peer; one that never *got somewhere* may be one that hangs up on everybody."""
        self.is_connected = False
        if got_somewhere:
            self._retry.begin_anew()
        if self.is_open and self._listener is None:
            self._retry.later()

    def _connected(self, connection: socket.socket) -> None:
        self.is_connected = True
        self._on_connected(connection)

    def _accept(self) -> None:
        assert self._listener is not None, "it is registered"
        connection = self._listener.accept(self._drops, has_peer=self.is_connected)
        if connection is not None:
            self._connected(connection)

    def _dial(self) -> None:
        dialling = socket.socket(family_of(self.place), socket.SOCK_STREAM)
        dialling.setblocking(False)
        number = dialling.connect_ex(address_of(self.place))
        if number == errno.EINPROGRESS:  # TCP; a Unix socket is connected at once or not at all
            self._dialling = dialling
            self._poller.register(dialling.fileno(), self._answered)
            self._poller.wants_write(dialling.fileno(), self._answered)
        else:
            self._decide(dialling, number)

    def _answered(self) -> None:
        dialling, self._dialling = self._dialling, None
        if dialling is not None:
            self._poller.unregister(dialling.fileno())
            self._decide(dialling, dialling.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _decide(self, dialling: socket.socket, number: int) -> None:
        """Have a peer, or try once more, later: the peer may just be starting."""
        if number:
            dialling.close()
            self.trouble = errno.errorcode.get(number, str(number))
            self._retry.later()
        else:
            self._connected(dialling)
