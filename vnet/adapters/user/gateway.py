"""The node that a user adapter is on its network: a host with the gateway's address, whose packets to all others go on.

It takes packets to any address (``Host.transparent``). TCP to the outside ends in its stack; UDP and ICMP have transports of
their own in front, which keep what is for the adapter itself. With an IPv6 address it is an IPv6 router, too, as guests see
it: its advertisements tell them the prefix, itself as their router, and its DNS server.
"""

from __future__ import annotations

import resource
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Final, TypeAlias, final

from vnet.adapters.base import AdapterContext
from vnet.adapters.user.destinations import Destinations
from vnet.adapters.user.dns import DnsForwarder, Resolvers
from vnet.adapters.user.echo import EchoRelay
from vnet.adapters.user.forwards import Forwards
from vnet.adapters.user.outside import Outside
from vnet.adapters.user.tcp import TcpRelay
from vnet.adapters.user.udp import UdpRelay
from vnet.errors import HostError
from vnet.services.router.advertisements import LIFETIME, RouterAdvertisements
from vnet.stack.host import Host
from vnet.stack.interface import Interface
from vnet.stack.tcp.short import Ipv6ShortWay, ShortWay
from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.adapter_kinds.user import UserSpec
from vnet.wire import ipv6, ndp
from vnet.wire.ipv4 import PROTOCOL_ICMP, PROTOCOL_UDP

DESCRIPTORS: Final = 65536
"""Open files wanted: one for each connection and flow, as far as the user's hard limit allows."""
LAST: Final = 1 << 16
"""The metric of the route to all others: whoever is on the link is a neighbor, though its address be of another prefix (RFC
5942), such as one that an adapter before this one advertised."""
_Receive: TypeAlias = Callable[[Interface, bytes, bytes], None]


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
        self._advertisements = None if spec.address6 is None else _be_router(interface, spec, spec.address6)
        for prefix, via in spec.routes:
            if isinstance(prefix, IPv4Network):
                host.routes.add(prefix, via.packed, interface)
            else:
                host.use_ipv6().routes.add(prefix, via.packed, interface)
        try:
            own: list[IPv4Network | IPv6Network] = [prefix for prefix, _ in spec.routes if prefix.prefixlen]
            own += [each.network for each in (spec.address, spec.address6) if each is not None]
            aliases = [each.packed for each in (spec.host, spec.host6) if each is not None]
            destinations = Destinations(own, aliases, context.scheduler)
        except OSError as error:
            raise HostError(f"cannot ask the machine for its routes: {error.strerror}") from error
        self._outside = outside = Outside(
            host=host,
            interface=interface,
            poller=context.poller,
            scheduler=context.scheduler,
            destinations=destinations,
            own=_own(spec),
            sources={
                family: str(source)
                for family, source in ((socket.AF_INET, spec.source), (socket.AF_INET6, spec.source6))
                if source is not None
            },
        )
        self._resolvers = Resolvers(outside, spec.dns)
        self._tcp = TcpRelay(outside, self._resolvers)
        self._udp = UdpRelay(outside)
        self._echo = EchoRelay(outside)
        self._dns = DnsForwarder(outside, self._resolvers)
        host.protocols[PROTOCOL_UDP] = self._udp
        host.protocols[PROTOCOL_ICMP] = self._echo
        host.on_change = self._udp.forget_paths
        host.on_ipv4 = _first(ShortWay(host.tcp).take, host.deliver_ipv4)
        if host.ipv6 is not None:
            host.ipv6.protocols[PROTOCOL_UDP] = self._udp
            host.ipv6.icmp.foreign = self._echo.receive_ipv6
            host.ipv6.on_frame = _first(Ipv6ShortWay(host.tcp, interface).take, host.ipv6.receive)
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
            self._context.port.set_handler(_nowhere)  # what still came would open flows that nobody closes
            self._forwards.retire()
            self._tcp.retire()
            self._udp.retire()
            self._echo.retire()
            self._dns.retire()
            if self._advertisements is not None:
                self._advertisements.cease()

    def stop(self) -> None:
        """Give back what is left."""
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
            "ipv6": None if self._spec.address6 is None else str(self._spec.address6),
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


def _be_router(interface: Interface, spec: UserSpec, address: IPv6Interface) -> RouterAdvertisements:
    """Make the interface that of an IPv6 router (RFC 4861, section 6.2), whose hosts make addresses of its prefix."""
    side = interface.enable_ipv6()
    side.transmits = 0  # the topology says whose they are; one frame of a guest would take them from all others for good
    side.add_address(address)
    side.node.routes.add(IPv6Network("::/0"), None, interface, LAST)
    if spec.host6 is not None:
        side.add_address(IPv6Interface((spec.host6, 128)), deprecated=True)  # it answers, and says nothing by itself
    options = ndp.Options(
        prefixes=(ndp.Prefix(address.network.network_address.packed, address.network.prefixlen),),
        dns=(ndp.DnsServers((address.ip.packed,), LIFETIME),),
    )
    return RouterAdvertisements(side, ndp.RouterAdvertisement(lifetime=LIFETIME, options=options))


def _first(short: Callable[[bytes, bytes], bool], long: _Receive) -> _Receive:
    """Try the short way in before the long one."""

    def receive(interface: Interface, frame: bytes, offload: bytes) -> None:
        if not short(frame, offload):
            long(interface, frame, offload)

    return receive


def _own(spec: UserSpec) -> tuple[bytes, ...]:
    if spec.address6 is None:
        return (spec.address.ip.packed,)
    return spec.address.ip.packed, spec.address6.ip.packed, ipv6.link_local(spec.mac)


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
