"""The node that a user adapter is on its network: a host with the gateway's address, whose packets to all others go on.

It takes packets to any address (``Host.transparent``). TCP to the outside ends in its stack; UDP and ICMP have transports of
their own in front, which keep what is for the adapter itself.
"""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import replace
from ipaddress import IPv4Interface
from typing import Final, final

from vnet.adapters.base import AdapterContext
from vnet.adapters.user.destinations import Destinations
from vnet.adapters.user.dns import DnsForwarder, Resolvers
from vnet.adapters.user.echo import EchoRelay
from vnet.adapters.user.forwards import Forwards
from vnet.adapters.user.outside import Outside
from vnet.adapters.user.tcp import TcpRelay
from vnet.adapters.user.udp import UdpRelay
from vnet.errors import HostError
from vnet.stack.host import Host
from vnet.stack.interface import Interface
from vnet.stack.tcp.short import ShortWay
from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.adapter_kinds.user import UserSpec
from vnet.wire.ipv4 import PROTOCOL_ICMP, PROTOCOL_UDP

DESCRIPTORS: Final = 65536
"""Open files wanted: one for each connection and flow, as far as the user's hard limit allows."""


@final
class UserAdapter:
    """A way to the outside; raise HostError if the machine cannot listen on what is forwarded."""

    def __init__(self, spec: UserSpec, context: AdapterContext) -> None:
        self._spec = spec
        self._context = context
        self._host = host = Host(context.port.name, context.scheduler, context.streams, context.report)
        host.transparent = True
        interface = host.add_interface("eth0", spec.mac, context.mtu)
        interface.add_address(spec.address)
        if spec.host is not None:
            interface.add_address(IPv4Interface(f"{spec.host}/32"))
        for prefix, via in spec.routes:
            host.routes.add(prefix, via.packed, interface)
        try:
            own = [spec.address.network, *(prefix for prefix, _ in spec.routes if prefix.prefixlen)]
            alias = spec.host.packed if spec.host is not None else None
            destinations = Destinations(own, alias, context.scheduler)
        except OSError as error:
            raise HostError(f"cannot ask the machine for its routes: {error.strerror}") from error
        self._outside = outside = Outside(
            host=host,
            interface=interface,
            poller=context.poller,
            scheduler=context.scheduler,
            destinations=destinations,
            own=spec.address.ip.packed,
            source=str(spec.source) if spec.source is not None else None,
        )
        self._resolvers = Resolvers(outside, spec.dns)
        self._tcp = TcpRelay(outside, self._resolvers)
        self._udp = UdpRelay(outside)
        self._echo = EchoRelay(outside)
        self._dns = DnsForwarder(outside, self._resolvers)
        host.protocols[PROTOCOL_UDP] = self._udp
        host.protocols[PROTOCOL_ICMP] = self._echo
        host.on_change = self._udp.forget_paths
        short, long = ShortWay(host.tcp), host.deliver_ipv4

        def receive(interface: Interface, frame: bytes, offload: bytes) -> None:
            if not short.take(frame, offload):
                long(interface, frame, offload)

        host.on_ipv4 = receive
        self._forwards = Forwards(outside, self._tcp, context.ledger)
        try:
            self._forwards.change(spec.forwards)
        except HostError:
            destinations.close()
            raise
        self._is_retired = False
        _raise_limit()
        self._plug()

    @property
    def drops(self) -> Counter[str]:
        """What did not go on, and what the stack did not take."""
        return self._outside.drops + Counter(self._host.drops)

    @property
    def problem(self) -> str:
        """There is always a way: what the outside says is for the guests."""
        return ""

    def start(self) -> None:
        """Announce the gateway's address, which another way out may have had until now (RFC 5227, 2.3), and take what comes
        by forwards from now on; frames are taken from the first."""
        self._outside.interface.announce_addresses()
        self._forwards.start()

    def retire(self) -> None:
        """Reset and end everything."""
        if not self._is_retired:
            self._is_retired = True
            self._forwards.retire()
            self._tcp.retire()
            self._udp.retire()
            self._echo.retire()
            self._dns.retire()

    def stop(self) -> None:
        """Give back what is left."""
        self._context.port.set_handler(_nowhere)
        self._forwards.close()
        self._outside.destinations.close()

    def close(self) -> None:
        """There is nothing left."""

    def adapt(self, spec: AdapterSpec) -> bool:
        """Change the forwards; connections that came in by one that goes stay."""
        if not isinstance(spec, UserSpec) or _without_forwards(spec) != _without_forwards(self._spec):
            return False
        self._forwards.change(spec.forwards)
        self._spec = spec
        return True

    def details(self) -> dict[str, object]:
        """Tell what passes."""
        return {
            "address": str(self._spec.address),
            "tcp": len(self._tcp),
            "tcp_opening": self._tcp.opening,
            "udp": len(self._udp),
            "echo": len(self._echo),
            "dns": list(self._resolvers.servers),
            "dns_answered": self._dns.answered,
            "forwards": [str(forward) for forward in self._forwards.all],
        }

    def _plug(self) -> None:
        """Make the port that we were given the interface's."""
        port, inner = self._context.port, self._outside.interface.port
        port.set_handler(inner.receive)
        port.on_change = lambda: inner.reroute(port.send)
        port.on_carrier = lambda up: inner.plug(port.send) if up else inner.unplug()


def _without_forwards(spec: UserSpec) -> UserSpec:
    return replace(spec, forwards=())


def _raise_limit() -> None:
    """Take as many descriptors as may be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _nowhere(frame: bytes, offload: bytes) -> None:
    """Stand for an adapter that is gone."""
