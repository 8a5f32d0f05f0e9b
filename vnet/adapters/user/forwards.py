"""The way in: what the machine listens on for guests, exactly as it is stated, and changeable at any time."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, final

from vnet.adapters.resources import FileResource, Ledger
from vnet.adapters.user.flows import FlowTable
from vnet.adapters.user.outside import Outside
from vnet.adapters.user.tcp import TcpRelay
from vnet.errors import HostError, UsageError
from vnet.stack.transport import TransportAddress
from vnet.stack.udp import UdpSocket
from vnet.topology.adapter_kinds.user import Forward
from vnet.units import MILLISECOND, SECOND, Duration, Instant

BACKLOG: Final = 256
TAKEN_A_WAKE_UP: Final = 64
"""Connections or datagrams taken from one socket before others have their turn."""
BREATH: Final[Duration] = 100 * MILLISECOND
"""How long a listener rests that cannot take a connection."""
MAX_CLIENTS: Final = 1024
"""Peers of one UDP forward; the ones that were silent longest give way."""
LIFETIME: Final[Duration] = 300 * SECOND
_LARGEST: Final = 65535


@final
class _Client:
    """A peer of a UDP forward: the guest sees it as a port of the adapter."""

    __slots__ = ("_inside", "_peer", "_scheduler", "_sock", "_to", "used")

    def __init__(self, outside: Outside, sock: socket.socket, peer: tuple[str, int], to: TransportAddress) -> None:
        self._sock = sock
        self._peer = peer
        self._to = to
        self._scheduler = outside.scheduler
        self._inside: UdpSocket = outside.host.udp_bind(0, outside.source_for(to[0]), on_datagram=self._back)
        self.used: Instant = outside.scheduler.now

    def send(self, payload: bytes) -> None:
        """Let a datagram go on to the guest."""
        self.used = self._scheduler.now
        self._inside.send_to(payload, self._to)

    def close(self) -> None:
        """Forget the peer."""
        self._inside.close()

    def _back(self, payload: bytes, source: TransportAddress) -> None:
        if source == self._to:
            self.used = self._scheduler.now
            with contextlib.suppress(OSError):
                self._sock.sendto(payload, self._peer)


@final
class _Open:
    """A forward that listens; made in any thread."""

    def __init__(self, forward: Forward, sock: socket.socket, file: FileResource | None) -> None:
        self.forward = forward
        self.sock = sock
        self.file = file
        self.clients: FlowTable[_Client] | None = None

    def lead_to(self, forward: Forward) -> None:
        """Have the same place lead to where *forward* says; TCP connections that are there stay."""
        if forward != self.forward and self.clients is not None:
            self.clients.clear()
        self.forward = forward


@final
class Forwards:
    """All forwards of an adapter."""

    def __init__(self, outside: Outside, tcp: TcpRelay, ledger: Ledger) -> None:
        self._outside = outside
        self._tcp = tcp
        self._ledger = ledger
        self._open: dict[Forward, _Open] = {}
        self._is_started = False

    @property
    def all(self) -> tuple[Forward, ...]:
        """What is forwarded now."""
        return tuple(self._open)

    def change(self, wanted: Sequence[Forward]) -> None:
        """Listen on what is *wanted* and nothing else; raise HostError, and change nothing, if the machine refuses."""
        places = {found.forward.place: found for found in self._open.values()}
        opened: list[_Open] = []
        try:
            for forward in wanted:
                if forward.place not in places:
                    opened.append(self._listen(forward))
        except HostError:
            for found in opened:
                self._close(found)
            raise
        listening = places | {found.forward.place: found for found in opened}
        kept = {forward.place for forward in wanted}
        for place, found in places.items():
            if place not in kept:
                self._close(found)
        self._open = {forward: listening[forward.place] for forward in wanted}
        for forward, found in self._open.items():
            found.lead_to(forward)
        if self._is_started:
            for found in opened:
                self._start(found)

    def start(self) -> None:
        """Begin to take what comes."""
        self._is_started = True
        for found in self._open.values():
            self._start(found)

    def retire(self) -> None:
        """Take nothing more."""
        self._is_started = False
        for found in self._open.values():
            self._outside.poller.unregister(found.sock.fileno())
            if found.clients is not None:
                found.clients.clear()

    def close(self) -> None:
        """Listen no more."""
        for found in self._open.values():
            self._close(found)
        self._open.clear()

    def _listen(self, forward: Forward) -> _Open:
        kind = socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM
        family = socket.AF_UNIX if forward.is_path else socket.AF_INET6 if ":" in forward.listen else socket.AF_INET
        file = None
        try:
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            raise HostError(f"forward {forward}: {error.strerror}") from error
        try:
            if family == socket.AF_UNIX:
                sock.bind(forward.listen)
                file = FileResource.of(forward.listen)
                self._ledger.add(file)
            else:
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # what is stated, and no more
                sock.bind((forward.listen, forward.port))
            if kind == socket.SOCK_STREAM:
                sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise HostError(f"cannot listen for forward {forward}: {error.strerror}") from error
        return _Open(forward, sock, file)

    def _start(self, found: _Open) -> None:
        take: Callable[[_Open], None] = self._accept
        if found.forward.protocol == "udp":
            found.clients = FlowTable(self._outside.scheduler, LIFETIME, MAX_CLIENTS, self._is_full)
            take = self._receive
        self._outside.poller.wants_read(found.sock.fileno(), partial(take, found))

    def _close(self, found: _Open) -> None:
        if found.clients is not None:
            found.clients.clear()
        self._outside.close(found.sock)
        if found.file is not None:
            found.file.remove()
            self._ledger.done(found.file)

    def _accept(self, found: _Open) -> None:
        outside = self._outside
        for _ in range(TAKEN_A_WAKE_UP):
            try:
                sock, _ = found.sock.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor is left, most likely; it would be told again at once
                outside.drops["forward-accept"] += 1
                outside.poller.wants_read(found.sock.fileno(), None)
                outside.scheduler.at(outside.scheduler.now + BREATH, self._resume, found)
                return
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._tcp.fit_buffers()
            try:
                to = found.forward.to.packed, found.forward.to_port
                connection = outside.host.tcp.connect(*to, source=outside.source_for(to[0]))
            except UsageError:
                outside.drops["forward-full"] += 1
                outside.reset(sock)
                continue
            self._tcp.join(connection, sock)

    def _resume(self, found: _Open) -> None:
        if self._is_started and self._open.get(found.forward) is found:
            self._outside.poller.wants_read(found.sock.fileno(), partial(self._accept, found))

    def _receive(self, found: _Open) -> None:
        clients = found.clients
        if clients is None:
            return
        for _ in range(TAKEN_A_WAKE_UP):
            try:
                payload, peer = found.sock.recvfrom(_LARGEST)
            except OSError:
                return
            key = repr(peer).encode()
            client = clients.flows.get(key)
            if client is None:
                try:
                    client = _Client(self._outside, found.sock, peer, (found.forward.to.packed, found.forward.to_port))
                except UsageError:
                    self._outside.drops["forward-full"] += 1
                    return
                clients.add(key, client)
            client.send(payload)

    def _is_full(self) -> None:
        self._outside.drops["forward-clients-full"] += 1
