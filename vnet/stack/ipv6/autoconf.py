"""Stateless address autoconfiguration (RFC 4862, section 5.5) and the host's part of router discovery (RFC 4861, 6.3).

Up to three solicitations ask for a router; every advertisement is then taken at its word, within bounds: how many routers,
prefixes and servers are remembered, and how far a stranger may cut a lifetime (the two hours of section 5.5.3 e).
"""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import TYPE_CHECKING, Final, final

from vnet.stack.ipv6.addresses import Origin, OwnAddress
from vnet.units import HOUR, MILLISECOND, SECOND, Instant
from vnet.wire import ipv6, ndp

if TYPE_CHECKING:
    from vnet.ports import Alarm
    from vnet.stack.ipv6.interface import Ipv6Interface
    from vnet.stack.routes import Route

SOLICITATIONS: Final = 3
SOLICITATION_INTERVAL: Final = 4 * SECOND
SOLICITATION_DELAY: Final = 1 * SECOND
"""RFC 4861, section 10."""
TWO_HOURS: Final = 2 * HOUR
MAX_ROUTERS: Final = 8
MAX_PREFIXES: Final = 16
"""On-link prefixes, and addresses made from prefixes, of one interface; what comes when there are as many is ignored."""
MAX_SERVERS: Final = 8
"""RFC 8106, section 5.3.1 wants at least three."""
MAX_RETRANSMIT: Final = 60 * SECOND
MAX_REACHABLE: Final = HOUR
"""RFC 4861, section 6.2.1 has one hour as the maximum of AdvReachableTime; a longer RetransTimer would stall the host."""

ROUTER_METRIC: Final = 1024
PREFIX_METRIC: Final = 256
"""What the topology states (metric 0) goes before what routers say; the values are those of Linux."""

_DEFAULT: Final = IPv6Network("::/0")


@final
class Autoconfiguration:
    """What one interface knows from routers; ``servers`` are recursive DNS servers with the instants at which they end."""

    __slots__ = ("_alarm", "_asked", "_heard", "_interface", "_prefixes", "_routers", "_run", "servers")

    def __init__(self, interface: Ipv6Interface) -> None:
        self._interface = interface
        self._routers: dict[bytes, tuple[Route, Instant]] = {}
        self._prefixes: dict[tuple[bytes, int], tuple[Route, Instant | None]] = {}
        self.servers: dict[bytes, Instant | None] = {}
        self._alarm: Alarm | None = None
        self._asked = 0
        self._heard = False
        self._run = 0

    @property
    def routers(self) -> tuple[bytes, ...]:
        """The default routers, the preferred one first."""
        return tuple(self._routers)

    def start(self) -> None:
        """Ask for routers, beginning within a second (RFC 4861, section 6.3.7)."""
        self._run += 1
        self._asked, self._heard = 0, False
        host = self._interface.node.host
        host.scheduler.at(host.scheduler.now + host.stream("ndp").below(SOLICITATION_DELAY + 1), self._ask, self._run)

    def stop(self) -> None:
        """Ask no more; what is known stays until it ends."""
        self._run += 1

    def receive(self, message: ndp.RouterAdvertisement, source: bytes) -> None:
        """Take an advertisement that was checked (RFC 4861, section 6.3.4)."""
        interface, now = self._interface, self._interface.node.host.scheduler.now
        self._heard = True
        before = interface.hop_limit, interface.mtu
        if message.hop_limit:
            interface.hop_limit = message.hop_limit
        if message.reachable:
            interface.base_reachable = min(message.reachable * MILLISECOND, MAX_REACHABLE)
        if message.retransmit:
            interface.retransmit_time = min(message.retransmit * MILLISECOND, MAX_RETRANSMIT)
        if message.options.mtu is not None and ipv6.MIN_MTU <= message.options.mtu <= interface.interface.mtu:
            interface.mtu = message.options.mtu
        if before != (interface.hop_limit, interface.mtu):
            interface.node.host.changed()  # connections keep both with their path
        if message.lifetime == 0:
            self.forget_router(source)
        else:
            self._router(source, now + message.lifetime * SECOND)
        for prefix in message.options.prefixes:
            if ipv6.is_link_local(prefix.prefix) or ipv6.is_multicast(prefix.prefix):
                continue
            if prefix.on_link:
                self._on_link(now, prefix)
            if prefix.autonomous:
                self._address(now, prefix)
        for option in message.options.dns:
            for server in option.servers:
                self._server(server, _until(now, option.lifetime), option.lifetime)
        self._arm()

    def forget_router(self, address: bytes) -> None:
        """Use a default router no more."""
        found = self._routers.pop(address, None)
        if found is not None:
            self._interface.node.routes.remove(found[0])
            self._arm()

    def router_lost(self, address: bytes) -> None:
        """Put a router that does not answer behind the others."""
        found = self._routers.get(address)
        if found is not None and len(self._routers) > 1:
            self.forget_router(address)
            self._router(address, found[1])
            self._arm()

    def _ask(self, run: int) -> None:
        interface = self._interface
        if run != self._run or self._heard or not interface.interface.up or self._asked >= SOLICITATIONS:
            return
        self._asked += 1
        source = ipv6.link_local(interface.mac)
        message = ndp.RouterSolicitation(ndp.Options(source_mac=interface.mac))
        interface.send_discovery(message, source, ipv6.ALL_ROUTERS)
        scheduler = interface.node.host.scheduler
        scheduler.at(scheduler.now + SOLICITATION_INTERVAL, self._ask, run)

    def _router(self, address: bytes, until: Instant) -> None:
        found = self._routers.get(address)
        if found is not None:
            self._routers[address] = found[0], until
        elif len(self._routers) < MAX_ROUTERS:
            interface = self._interface
            route = interface.node.routes.add(_DEFAULT, address, interface.interface, ROUTER_METRIC)
            self._routers[address] = route, until

    def _on_link(self, now: Instant, prefix: ndp.Prefix) -> None:
        routes, interface = self._interface.node.routes, self._interface.interface
        network = IPv6Network((prefix.prefix, prefix.length), strict=False)
        key = network.network_address.packed, prefix.length
        found = self._prefixes.get(key)
        if prefix.valid == 0:
            if found is not None:
                routes.remove(found[0])
                del self._prefixes[key]
            return
        if found is None:
            if len(self._prefixes) >= MAX_PREFIXES:
                return
            found = routes.add(network, None, interface, PREFIX_METRIC), None
        self._prefixes[key] = found[0], _until(now, prefix.valid)

    def _address(self, now: Instant, prefix: ndp.Prefix) -> None:
        """Make an address of a prefix, or renew it (RFC 4862, section 5.5.3)."""
        interface = self._interface
        if prefix.length != 64 or prefix.preferred > prefix.valid:
            return
        address = prefix.prefix[:8] + ipv6.interface_id(interface.mac)
        own = interface.find(address)
        preferred, valid = _until(now, prefix.preferred), _until(now, prefix.valid)
        if own is None:
            made = sum(each.origin is Origin.AUTO for each in interface.addresses)
            if prefix.valid == 0 or made >= MAX_PREFIXES:
                return
            own = OwnAddress(address, prefix.length, Origin.AUTO)
            own.preferred_until, own.valid_until = preferred, valid
            interface.add_auto(own)
            return
        if own.origin is not Origin.AUTO:
            return
        own.preferred_until = preferred
        left = None if own.valid_until is None else own.valid_until - now
        if prefix.valid * SECOND > TWO_HOURS or valid is None or (left is not None and valid - now > left):
            own.valid_until = valid
        elif left is None or left > TWO_HOURS:
            own.valid_until = now + TWO_HOURS
        if own.usable:
            own.settle(now)

    def _server(self, server: bytes, until: Instant | None, lifetime: int) -> None:
        if lifetime == 0:
            self.servers.pop(server, None)
        elif server in self.servers or len(self.servers) < MAX_SERVERS:
            self.servers[server] = until

    def _arm(self) -> None:
        scheduler = self._interface.node.host.scheduler
        deadlines = [until for _, until in self._routers.values()]
        deadlines += [until for _, until in self._prefixes.values() if until is not None]
        deadlines += [until for until in self.servers.values() if until is not None]
        for own in self._interface.addresses:
            for each in (own.preferred_until, own.valid_until):
                if each is not None and each > scheduler.now:
                    deadlines.append(each)
        if self._alarm is None:
            self._alarm = scheduler.alarm(self._expire)
        self._alarm.set(min(deadlines, default=None))

    def _expire(self) -> None:
        """Let go what has ended."""
        interface, now = self._interface, self._interface.node.host.scheduler.now
        for router in [address for address, (_, until) in self._routers.items() if until <= now]:
            self.forget_router(router)
        for key, (route, ends) in list(self._prefixes.items()):
            if ends is not None and ends <= now:
                interface.node.routes.remove(route)
                del self._prefixes[key]
        for server in [each for each, ends in self.servers.items() if ends is not None and ends <= now]:
            del self.servers[server]
        for own in list(interface.addresses):
            if own.valid_until is not None and own.valid_until <= now:
                interface.remove_address(own.address)
            elif own.usable:
                own.settle(now)
        self._arm()


def _until(now: Instant, seconds: int) -> Instant | None:
    return None if seconds == ndp.INFINITE else now + seconds * SECOND
