"""An emulated guest: the async face of a ``stack.Host`` for user code, in both kinds of time.

The host's callbacks run inside the task that drives the lab and only set a trio event, so that whoever awaits here goes on
at the very instant of the answer. Timeouts are events on the lab clock as well, not trio's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address
from typing import TypeVar, TypeVarTuple

import trio

from vnet.errors import NoAnswer, UsageError
from vnet.guests.activation import activated
from vnet.guests.answers import Answer, UdpProbe, address_from, patience, with_reporter
from vnet.guests.base import Address, HasAddress, InterfaceState, PingReply, ProbeReply, Target, Verdict, checked_port
from vnet.guests.link_access import LinkAccess, addresses_of
from vnet.guests.names import Names, Resolver, Reverse
from vnet.guests.program import GuestProgram, Row
from vnet.guests.socket_address import interface_named
from vnet.guests.socket_stream import MAX_BACKLOG
from vnet.guests.socket_table import SocketTable
from vnet.guests.sockets import EmulatedUdpSocket
from vnet.guests.streams import open_stream, serve
from vnet.ports import Port, Scheduler
from vnet.stack.dhcp_client import DhcpClient
from vnet.stack.dhcp_lease import Lease
from vnet.stack.echo import PingResult
from vnet.stack.host import Host
from vnet.stack.interface import Interface
from vnet.stack.tcp import ProbeResult
from vnet.stack.traceroute import MAX_HOPS, Hop, Method, Traceroute

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class EmulatedGuest(LinkAccess):
    """A guest that runs on vnet's own IP stack.

    *resolver* turns the name of a guest into its address, where a target is given by name.
    """

    __slots__ = ("_clients", "_sockets", "_waiters", "host", "names", "programs")

    def __init__(self, host: Host, resolver: Resolver | None = None) -> None:
        self.host = host
        self.names = Names(host, self._leases, resolver)
        """What its programs know other nodes by, and the DNS servers they ask."""
        self._sockets: SocketTable | None = None
        self._clients: dict[str, DhcpClient] | None = None
        self._waiters: list[trio.Event] | None = None
        self.programs: list[GuestProgram] = []
        """Those that the topology has it run."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    # -- what there is

    @property
    def name(self) -> str:
        """The guest's name in the topology."""
        return self.host.name

    @property
    def kind(self) -> str:
        """Name the kind as the topology does."""
        return "emulated"

    @property
    def ports(self) -> tuple[Port, ...]:
        """The guest's ends of its cables, in the order of its NICs."""
        return tuple(self.host.nics.values())

    @property
    def addresses(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """All addresses that the guest has now; IPv6 ones that are still being asked for are not among them."""
        return tuple(address for interface in self.host.interfaces.values() for address in addresses_of(interface))

    @property
    def address(self) -> Address | None:
        """The first address that the guest has now: an IPv4 one, or else an IPv6 one beyond the link."""
        packed = self.host.any_address()
        return IPv4Address(packed) if packed is not None else self.address6

    @property
    def address6(self) -> IPv6Address | None:
        """The first IPv6 address, link-local ones left aside, that the guest has now."""
        found = (each.ip for each in self.addresses if isinstance(each, IPv6Interface) and not each.is_link_local)
        return next(found, None)

    def interfaces(self) -> tuple[InterfaceState, ...]:
        """Describe the interfaces as they are now."""
        routes = [*(() if self.host.ipv6 is None else self.host.ipv6.routes), *self.host.routes]
        gateways = {route.interface.name: route.gateway for route in routes if route.network.prefixlen == 0}
        clients = self._clients or {}
        return tuple(
            InterfaceState(
                name,
                interface.mac,
                addresses_of(interface),
                ip_address(gateway) if (gateway := gateways.get(name)) is not None else None,
                up=interface.up,
                dhcp=clients[name].state.name.lower() if name in clients else "",
                active=(interface.nics.active or "") if interface.nics is not None else "",
            )
            for name, interface in self.host.interfaces.items()
        )

    # -- DHCP and start-up

    def start_dhcp(self, interface: Interface) -> DhcpClient:
        """Have *interface* configured by DHCP from now on."""
        if self._clients is None:
            self._clients = {}
        client = self._clients.get(interface.name)
        if client is None:
            client = self._clients[interface.name] = DhcpClient(interface)
        client.start()
        return client

    def lease(self, interface: str | None = None) -> Lease | None:
        """Return the DHCP lease of an interface (without a name: the first one found), or None."""
        clients = self._clients or {}
        found = clients.values() if interface is None else [clients[interface]] if interface in clients else []
        return next((client.lease for client in found if client.lease is not None), None)

    async def dhcp(self, timeout: float = 30.0) -> IPv4Address:
        """Wait until every interface that uses DHCP has an address; return the first.

        If none does yet, those without an address begin to, but NICs with VLAN sub-interfaces do not. Raise NoAnswer after
        *timeout* s, UsageError if there is no interface to configure.
        """
        if not self._clients:
            for interface in self.host.interfaces.values():
                if interface.address is None and interface.vlans is None:
                    self.start_dhcp(interface)
        clients = list((self._clients or {}).values())
        if not clients:
            raise UsageError(f"{self.name} has no interface that could use DHCP: all have addresses")
        if not await self._until(lambda: all(client.lease is not None for client in clients), timeout):
            raise NoAnswer(f"{self.name} got no address by DHCP within {timeout:g} s")
        lease = clients[0].lease
        assert lease is not None, "all have one"
        return lease.address.ip

    async def wait_up(self, timeout: float = 30.0) -> None:
        """Wait until every interface has a carrier and an address, and is told that nobody else has it (IPv6).

        One that has VLAN sub-interfaces may be without an address of its own.
        Raise NoAnswer after *timeout* s.
        """
        interfaces = self.host.interfaces.values()
        if not await self._until(lambda: all(_is_up(each) for each in interfaces), timeout):
            raise NoAnswer(f"{self.name} is not up after {timeout:g} s")

    async def settle(self, timeout: float = 10.0) -> None:
        """Wait until no IPv6 address is being asked for any more, at most *timeout* s: 1 to 2 s after the cable is in."""
        sides = [each.ipv6 for each in self.host.interfaces.values() if each.ipv6 is not None]
        if not all(side.settled for side in sides):
            await self._until(lambda: all(side.settled for side in sides), timeout)

    async def _until(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until *done*, which is asked after each change of addresses, routes or carriers; tell whether it is."""
        await trio.lowlevel.checkpoint()
        scheduler = self._waits_by
        end = scheduler.now + patience(timeout)
        if self._waiters is None:
            self._waiters = []
            self.host.on_change = self._changed
        while not done():
            if scheduler.now >= end:
                return False
            event = trio.Event()
            self._waiters.append(event)
            timer = scheduler.alarm(event.set)
            timer.set(end)
            try:
                await event.wait()
            finally:
                timer.set(None)
                self._waiters = [other for other in self._waiters if other is not event]
        return True

    @property
    def _waits_by(self) -> Scheduler:
        """By whose time users wait."""
        return self.host.scheduler

    def _changed(self) -> None:
        for event in self._waiters or ():
            event.set()

    # -- programs

    @property
    def results(self) -> list[Row]:
        """What the programs of the topology measured, in the order of the file."""
        return [row for program in self.programs for row in program.results]

    def activate(self) -> AbstractAsyncContextManager[None]:
        """Make this guest's network that of trio, for the length of an ``async with`` block.

        ``trio.socket``, ``trio.open_tcp_stream``, ``trio.serve_tcp``, ``getaddrinfo`` and all that is made of them then use
        the guest's stack, in this task and in those it starts from within the block, whatever their nursery. Other tasks see
        nothing of it, and may have another guest active.
        """
        return activated(self._table())

    async def run(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run ``await function(*args)`` as a program of this guest."""
        async with self.activate():
            return await function(*args)

    async def open_tcp_stream(self, target: Target | HasAddress, port: int) -> trio.SocketStream:
        """Connect to a port; raise OSError as trio does: ConnectionRefusedError, TimeoutError, ..."""
        addresses, interface = await self._locate(target)
        if any(len(each) == 16 for each in addresses):
            await self.settle()
        *others, last = addresses
        for address in others:
            with suppress(OSError):
                return await open_stream(self._table(), address, checked_port(port), interface)
        return await open_stream(self._table(), last, checked_port(port), interface)

    async def serve_tcp(
        self,
        handler: Callable[[trio.SocketStream], Awaitable[object]],
        port: int,
        *,
        backlog: int = MAX_BACKLOG,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run ``handler(stream)`` for each connection to a port, until cancelled; the handlers run as programs of the guest.

        It listens over IPv4 and IPv6; with ``nursery.start`` it returns both listeners, that of IPv4 first. Raise OSError if
        the port is taken.
        """
        async with self.activate():
            await serve(self._table(), handler, checked_port(port), backlog, task_status)

    def use_names(self, resolver: Resolver, reverse: Reverse | None = None) -> None:
        """Look names up with *resolver* from now on, before DNS; it returns None for an unknown name, and may raise
        NoAnswer. *reverse* gives the name of an address, or None."""
        self.names.use(resolver, reverse)

    async def resolve(self, name: str) -> tuple[Address, ...]:
        """Look a name up as programs of this guest do: among those of the lab, then by DNS; return all its addresses.

        Raise UsageError if the guest has no server to ask, UnknownName, NoAnswer or PeerError for what the servers did.
        """
        await trio.lowlevel.checkpoint()
        return tuple(ip_address(each) for each in await self.names.addresses(name))

    def _leases(self) -> list[Lease]:
        return [client.lease for client in (self._clients or {}).values() if client.lease is not None]

    def replace_host(self, host: Host) -> None:
        """Go on as another host, as after a crash: sockets are closed, and DHCP clients and connections gone without a word.

        The old host must be off the cable by now.
        """
        old = self.host
        old.on_change, host.on_change = None, old.on_change
        for client in (self._clients or {}).values():
            client.stop()
        for connection in old.tcp.connections:
            connection.abort()
        self.names.move(host)
        if self._sockets is not None:
            self._sockets.move(host)
        for bound in old.udp.sockets:
            owner = getattr(bound.on_datagram, "__self__", None)
            (owner if isinstance(owner, EmulatedUdpSocket) else bound).close()
        old.changed()  # nothing that was looked up leads to the cable any more
        self.host = host
        self._clients = None

    def _table(self) -> SocketTable:
        if self._sockets is None:
            self._sockets = SocketTable(self.host, self.names)
        return self._sockets

    # -- probes

    async def ping(
        self, target: Target | HasAddress, count: int = 1, timeout: float = 1.0, size: int = 56, ttl: int = 64
    ) -> PingReply:
        """Send *count* echo requests of *size* octets of data, one after the other; *timeout* in seconds for each.

        To an IPv6 address they go once the guest's own addresses are in use.
        """
        destination, interface = await self._resolve_scoped(target)
        if len(destination) == 16:
            await self.settle()
        results = []
        for _ in range(count):
            answer = Answer[PingResult]()
            self.host.ping(destination, size=size, ttl=ttl, timeout=patience(timeout), on_result=answer, interface=interface)
            results.append(await answer.wait())
        good = [result for result in results if result.ok]
        if not good:
            last = results[-1] if results else PingResult(False, error="nothing sent")
            error = with_reporter(last.error or "no answer", last.source, self.host)
            return PingReply(False, error=error, sent=count, responder=address_from(last.source))
        best = min(good, key=lambda result: result.rtt or 0)
        return PingReply(True, rtt=best.rtt, sent=count, received=len(good), responder=address_from(best.source))

    async def traceroute(
        self, target: Target | HasAddress, method: str = "udp", max_hops: int = MAX_HOPS, timeout: float = 1.0
    ) -> list[Hop]:
        """List the routers on the way, the destination last if it was reached; *method* is "udp" or "icmp".

        A hop that did not answer has ``source`` None.
        """
        try:
            chosen = Method[method.upper()]
        except KeyError:
            raise UsageError(f"no traceroute method {method}: there are udp and icmp") from None
        destination = await self._resolve(target)
        if len(destination) == 16:
            await self.settle()
        answer = Answer[list[Hop]]()
        run = Traceroute(
            self.host, destination, lambda hops, _: answer(hops), method=chosen, max_hops=max_hops,
            timeout=patience(timeout),
        )  # fmt: skip
        run.start()
        return await answer.wait()

    async def tcp_probe(self, target: Target | HasAddress, port: int, timeout: float = 1.0) -> ProbeReply:
        """Find out whether a TCP port accepts connections, by one SYN."""
        answer = Answer[ProbeResult]()
        destination, interface = await self._resolve_scoped(target)
        if len(destination) == 16:
            await self.settle()
        self.host.tcp_probe(
            destination, checked_port(port), timeout=patience(timeout), on_result=answer, interface=interface
        )
        result = await answer.wait()
        if result.ok:
            return ProbeReply(Verdict.OPEN, result.rtt)
        verdict = {"refused": Verdict.CLOSED, "no answer": Verdict.SILENT}.get(result.state, Verdict.UNREACHABLE)
        error = result.state if verdict is Verdict.CLOSED else with_reporter(result.state, result.source, self.host)
        return ProbeReply(verdict, result.rtt if verdict is Verdict.CLOSED else None, error)

    async def udp_probe(
        self, target: Target | HasAddress, port: int, payload: bytes = b"vnet", timeout: float = 1.0
    ) -> ProbeReply:
        """Send one datagram and wait for an answer."""
        destination = await self._resolve(target)
        if len(destination) == 16:
            await self.settle()
        probe = UdpProbe(self.host, (destination, checked_port(port)))
        try:
            return await probe.run(payload, patience(timeout))
        finally:
            probe.close()

    async def open_udp_socket(
        self, port: int = 0, address: Address | None = None, *, errors: bool = False
    ) -> EmulatedUdpSocket:
        """Open a UDP socket, for both IP versions unless bound to an *address*; port 0 picks a free one.

        With *errors* ``receive`` raises Unreachable for ICMP errors.
        """
        await trio.lowlevel.checkpoint()
        return EmulatedUdpSocket(self.host, port, address, errors=errors, resolve=self._resolve)

    async def _locate(self, target: Target | HasAddress) -> tuple[list[bytes], Interface | None]:
        """Find the addresses of a target, and the interface behind the percent sign of a link-local one, if any."""
        scope = ""
        if isinstance(target, str | IPv6Address) and "%" in str(target):
            scope = str(target).partition("%")[2]
        found = interface_named(self.host, scope)
        if scope and found is None:
            raise UsageError(f"{target}: {self.name} has no interface {scope}")
        return await self.names.locate(target), found

    async def _resolve_scoped(self, target: Target | HasAddress) -> tuple[bytes, Interface | None]:
        """Do the same, and choose the first address."""
        (address, *_), interface = await self._locate(target)
        return address, interface

    async def _resolve(self, target: Target | HasAddress) -> bytes:
        """Turn a target into packed octets; raise UsageError for an unknown name, NoAnswer for a guest without address."""
        return (await self.names.locate(target))[0]


def _is_up(interface: Interface) -> bool:
    side = interface.ipv6
    addressed = interface.address is not None or side is not None or interface.vlans is not None
    return interface.up and addressed and (side is None or side.settled)
