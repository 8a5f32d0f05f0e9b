"""The async face of an emulated host's sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address, ip_address
from types import TracebackType
from typing import Final, TypeAlias, final

import trio

from vnet.errors import Unreachable, UsageError
from vnet.guests.base import Address
from vnet.guests.socket_address import interface_named, needs_scope
from vnet.stack.host import Host
from vnet.stack.transport import IcmpError, TransportAddress

QUEUE: Final = 1024
"""Datagrams that wait to be received; what comes when that many wait is dropped, as by a full socket buffer."""

Peer: TypeAlias = tuple[Address, int]
"""Address and port, as user code sees them."""


@final
class EmulatedUdpSocket:
    """A UDP socket of an emulated guest.

    Link-local addresses are those on the link of the interface behind their percent sign (``fe80::1%eth0``), or else of the
    first with IPv6.

    With *errors* an ICMP error about a datagram sent from here makes the next ``receive`` raise Unreachable; without, as
    usual for an unconnected socket, nobody hears of it.
    """

    def __init__(
        self,
        host: Host,
        port: int = 0,
        address: Address | None = None,
        *,
        errors: bool = False,
        resolve: Callable[[str], Awaitable[bytes]] | None = None,
    ) -> None:
        self._host = host
        self._resolve = resolve
        packed = None if address is None else address.packed
        self._socket = host.udp_bind(port, packed, on_datagram=self._arrived, both=True)
        if errors:
            self._socket.on_error = self._failed
        self._waiting: deque[tuple[bytes, TransportAddress, str] | IcmpError] = deque()
        self._readers = trio.lowlevel.ParkingLot()
        self._closed = False

    @property
    def port(self) -> int:
        """The port that it is bound to."""
        return self._socket.port

    async def send_to(self, payload: bytes, peer: tuple[Address | str, int]) -> None:
        """Send a datagram to an address or a name; raise Unreachable if there is no way, or it is too long."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        address = await self._address_of(peer[0])
        interface = None
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            interface = interface_named(self._host, address.scope_id)
            if interface is None:
                raise Unreachable(f"{self._host.name} cannot send to {peer[0]}: it has no interface {address.scope_id}")
        if interface is None:
            problem = self._socket.send_to(payload, (address.packed, peer[1]))
        else:
            problem = self._socket.send_by(interface, payload, (address.packed, peer[1]))
        if problem is not None:
            raise Unreachable(f"{self._host.name} cannot send to {peer[0]}: {problem}")

    async def _address_of(self, target: Address | str) -> Address:
        try:
            return ip_address(target)
        except ValueError:
            if not isinstance(target, str) or self._resolve is None:
                raise
            found = ip_address(await self._resolve(target))
            self._check_open()
            return found

    async def receive(self) -> tuple[bytes, Peer]:
        """Wait for a datagram; return its payload and where it came from."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        while not self._waiting:
            await self._readers.park()
            self._check_open()
        found = self._waiting.popleft()
        if isinstance(found, IcmpError):
            raise Unreachable(f"{found.text} from {ip_address(found.reporter)}")
        payload, (packed, port), scope = found
        address = ip_address(packed)
        return payload, (IPv6Address(f"{address}%{scope}") if scope else address, port)

    def close(self) -> None:
        """Free the port; whoever waits gets UsageError."""
        self._closed = True
        self._socket.close()
        self._readers.unpark_all()

    async def __aenter__(self) -> EmulatedUdpSocket:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the socket is closed")

    def _arrived(self, payload: bytes, source: TransportAddress) -> None:
        by = self._socket.arrived_by if needs_scope(source[0]) else None
        self._put((payload, source, "" if by is None else by.name))

    def _failed(self, destination: TransportAddress, error: IcmpError) -> None:
        self._put(error)

    def _put(self, item: tuple[bytes, TransportAddress, str] | IcmpError) -> None:
        if len(self._waiting) >= QUEUE:
            self._host.drop("udp-queue-full")
            return
        self._waiting.append(item)
        self._readers.unpark()
