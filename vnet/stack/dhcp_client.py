"""A DHCP client on an interface of an emulated host: ``DhcpMachine`` bound to the stack and the timeline.

Whoever runs the machine elsewhere (on a packet socket in a namespace) does what ``_apply`` does here, and writes the frames
with ``wire.dhcpv4_frame``.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Final, final

from vnet.addresses import BROADCAST
from vnet.errors import WireError
from vnet.stack.dhcp_lease import Lease
from vnet.stack.dhcp_machine import CancelProbe, Configure, DhcpMachine, Effect, Probe, Send, Unconfigure
from vnet.stack.dhcp_states import State
from vnet.stack.interface import Interface
from vnet.stack.routes import Route
from vnet.stack.udp import UdpSocket
from vnet.wire import dhcpv4
from vnet.wire.dhcpv4_frame import IP_BROADCAST

DEFAULT_NETWORK: Final = IPv4Network("0.0.0.0/0")


@final
class DhcpClient:
    """Keeps one interface configured.

    ``start`` may come before the cable: the client begins when the link is up, and verifies its address whenever the link
    comes up again. ``on_bound`` are called with the lease when an address is ready to be used and after each renewal,
    ``on_lost`` when it must not be used any more. ``malformed`` counts what was no DHCP message.
    """

    __slots__ = (
        "_alarm", "_interface", "_link_listener", "_machine", "_route", "_socket", "malformed", "on_bound", "on_lost",
    )  # fmt: skip

    def __init__(self, interface: Interface, hostname: str = "", probe: bool = True) -> None:
        host = interface.host
        self._interface = interface
        self._machine = DhcpMachine(
            interface.mac, host.stream(f"dhcp-client {interface.name}"), hostname or host.name, probe
        )  # fmt: skip
        self._alarm = host.scheduler.alarm(self._expire)
        self._socket: UdpSocket | None = None
        self._route: Route | None = None
        self._link_listener: Callable[[bool], None] | None = None
        self.malformed = 0
        self.on_bound: list[Callable[[Lease], None]] = []
        self.on_lost: list[Callable[[Lease], None]] = []

    @property
    def state(self) -> State:
        """Where the client stands."""
        return self._machine.state

    @property
    def lease(self) -> Lease | None:
        """The lease whose address is in use."""
        return self._machine.lease

    def start(self) -> None:
        """Get an address and keep it."""
        if self._socket is not None:
            return
        interface = self._interface
        self._socket = interface.host.udp_bind(dhcpv4.CLIENT_PORT, interface=interface, on_datagram=self._datagram)
        self._link_listener = interface.on_link
        interface.on_link = self._link
        if interface.up:
            self._apply(self._machine.start(self._now))

    def stop(self) -> None:
        """Stop without telling the server; a later ``start`` asks for the same address."""
        self._close(self._machine.stop(self._now))

    def release(self) -> None:
        """Give the address back and stop."""
        self._close(self._machine.release(self._now))

    def renew(self) -> None:
        """Ask for a longer lease now."""
        self._apply(self._machine.renew(self._now))

    @property
    def _now(self) -> int:
        return self._interface.host.scheduler.now

    def _close(self, effects: list[Effect]) -> None:
        self._apply(effects)
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._interface.on_link = self._link_listener

    def _link(self, up: bool) -> None:
        if self._link_listener is not None:
            self._link_listener(up)
        if up:
            machine = self._machine
            self._apply(machine.start(self._now) if machine.state is State.OFF else machine.link_up(self._now))

    def _datagram(self, payload: bytes, source: tuple[bytes, int]) -> None:
        try:
            message = dhcpv4.decode(payload)
        except WireError:
            self.malformed += 1
            return
        self._apply(self._machine.receive(self._now, message))

    def _expire(self) -> None:
        self._apply(self._machine.expire(self._now))

    def _probed(self, taken: bool) -> None:
        self._apply(self._machine.probed(self._now, taken))

    def _apply(self, effects: list[Effect]) -> None:
        interface = self._interface
        for effect in effects:
            match effect:
                case Send():
                    self._send(effect)
                case Probe(address):
                    interface.probe(address, self._probed)
                case CancelProbe(address):
                    interface.cancel_probe(address)
                case Configure(lease):
                    self._configure(lease)
                case Unconfigure(lease):
                    self._unconfigure(lease)
        self._alarm.set(self._machine.next_deadline())

    def _send(self, send: Send) -> None:
        if send.destination == IP_BROADCAST or self._socket is None:
            self._interface.send_udp_raw(
                BROADCAST, send.source, send.destination, dhcpv4.CLIENT_PORT, dhcpv4.SERVER_PORT, send.payload
            )
        else:
            self._socket.send_to(send.payload, (send.destination, dhcpv4.SERVER_PORT))

    def _configure(self, lease: Lease) -> None:
        interface = self._interface
        is_new = lease.address not in interface.addresses
        interface.add_address(lease.address)
        gateway = None if lease.gateway is None else lease.gateway.packed
        if self._route is None or self._route.gateway != gateway:
            self._drop_route()
            if gateway is not None:
                self._route = interface.host.routes.add(DEFAULT_NETWORK, gateway, interface)
        if is_new:
            interface.announce(lease.address.ip.packed)
            interface.host.report(
                "dhcp-lease", interface=interface.name, address=str(lease.address), server=str(lease.server)
            )
        for listener in tuple(self.on_bound):
            listener(lease)

    def _unconfigure(self, lease: Lease) -> None:
        interface = self._interface
        self._drop_route()
        interface.remove_address(lease.address)
        interface.host.report("dhcp-lost", interface=interface.name, address=str(lease.address))
        for listener in tuple(self.on_lost):
            listener(lease)

    def _drop_route(self) -> None:
        if self._route is not None:
            self._interface.host.routes.remove(self._route)
            self._route = None
