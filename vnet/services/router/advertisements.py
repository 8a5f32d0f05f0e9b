"""Router advertisements (RFC 4861, section 6.2): what a router tells the hosts of a link, so that they configure themselves.

``Advertiser`` decides when: at first a few times in short intervals, then seldom, and whenever a host asks, but never more
often than every three seconds. ``RouterAdvertisements`` makes an interface of a host that of a router.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, final

from vnet.ports import Randomness
from vnet.stack.ipv6.interface import Ipv6Interface
from vnet.units import MILLISECOND, SECOND, Duration, Instant
from vnet.wire import ipv6, ndp

MAX_INTERVAL: Final[Duration] = 600 * SECOND
MIN_INTERVAL: Final[Duration] = 198 * SECOND
"""MaxRtrAdvInterval, and 0.33 of it: the defaults of RFC 4861, section 6.2.1."""
INITIAL_INTERVAL: Final[Duration] = 16 * SECOND
INITIAL: Final = 3
"""MAX_INITIAL_RTR_ADVERT_INTERVAL and MAX_INITIAL_RTR_ADVERTISEMENTS (section 10)."""
MAX_DELAY: Final[Duration] = 500 * MILLISECOND
"""MAX_RA_DELAY_TIME: answers wait for up to so long."""
MIN_DELAY: Final[Duration] = 3 * SECOND
"""MIN_DELAY_BETWEEN_RAS: no two to all hosts are nearer to each other, however many hosts ask."""
LIFETIME: Final = 3 * MAX_INTERVAL // SECOND
"""Seconds that hosts use a router, and its DNS servers, which is silent (AdvDefaultLifetime; RFC 8106, section 5.1)."""
STALE: Final = 7200
"""Seconds that addresses of a prefix stay valid at the end: hosts do not believe in less (RFC 4862, section 5.5.3 e)."""


@final
class Advertiser:
    """When to advertise on one interface (RFC 4861, sections 6.2.4 and 6.2.6)."""

    __slots__ = ("_initial", "_last", "_random", "next_deadline")

    def __init__(self, random: Randomness) -> None:
        self._random = random
        self._initial = 0
        self._last: Instant | None = None
        self.next_deadline: Instant | None = None

    def start(self, now: Instant) -> None:
        """Begin, with the first advertisement at once."""
        self._initial = INITIAL
        self.next_deadline = self._not_before(now)

    def stop(self) -> None:
        """Advertise no more."""
        self.next_deadline = None

    def solicited(self, now: Instant) -> None:
        """Answer a solicitation, by the next advertisement if that comes soon enough."""
        if self.next_deadline is not None:
            at = self._not_before(now) + self._random.below(MAX_DELAY + 1)
            self.next_deadline = min(self.next_deadline, at)

    def expire(self, now: Instant) -> bool:
        """Tell whether an advertisement is due, and count it as sent."""
        if self.next_deadline is None or now < self.next_deadline:
            return False
        self._last = now
        interval = MIN_INTERVAL + self._random.below(MAX_INTERVAL - MIN_INTERVAL + 1)
        if self._initial:
            self._initial -= 1
            if self._initial:
                interval = min(interval, INITIAL_INTERVAL)
        self.next_deadline = now + interval
        return True

    def _not_before(self, now: Instant) -> Instant:
        return now if self._last is None else max(now, self._last + MIN_DELAY)


@final
class RouterAdvertisements:
    """Makes an interface a router's, which advertises *message* from its link-local address; see ``stack.ipv6.Router``.

    The interface's MAC address and MTU are told with it. The random stream is the host's ``router-advertisements``.
    """

    def __init__(self, side: Ipv6Interface, message: ndp.RouterAdvertisement) -> None:
        host = side.node.host
        self._side = side
        self._message = message
        self._source = ipv6.link_local(side.mac)
        self._advertiser = Advertiser(host.stream("router-advertisements"))
        self._alarm = host.scheduler.alarm(self._expire)
        self.sent = 0
        side.router = self
        side.join(ipv6.ALL_ROUTERS)
        own = side.find(self._source)
        if own is not None and own.usable:
            self.ready()

    def change(self, message: ndp.RouterAdvertisement) -> None:
        """Advertise something else from now on, and tell everybody soon."""
        self._message = message
        if self._advertiser.next_deadline is not None:
            self.ready()

    def cease(self) -> None:
        """Be a router no more, and tell everybody so (RFC 4861, section 6.2.5).

        Nothing new is to come from addresses of its prefixes, since nobody may route back to them any more (RFC 9096).
        """
        if self._side.router is not self:
            return
        if self._advertiser.next_deadline is not None:
            options = self._message.options
            prefixes = tuple(replace(each, preferred=0, valid=min(each.valid, STALE)) for each in options.prefixes)
            servers = tuple(replace(each, lifetime=0) for each in options.dns)
            self._send(replace(self._message, lifetime=0, options=replace(options, prefixes=prefixes, dns=servers)))
        self.lost()
        self._side.router = None
        self._side.leave(ipv6.ALL_ROUTERS)

    def ready(self) -> None:
        """Begin, or begin anew."""
        self._advertiser.start(self._side.node.host.scheduler.now)
        self._arm()

    def solicited(self) -> None:
        """Answer a host that looks for routers."""
        self._advertiser.solicited(self._side.node.host.scheduler.now)
        self._arm()

    def lost(self) -> None:
        """Stop until the interface is ready again."""
        self._advertiser.stop()
        self._arm()

    def _expire(self) -> None:
        if self._advertiser.expire(self._side.node.host.scheduler.now):
            self._send(self._message)
        self._arm()

    def _arm(self) -> None:
        self._alarm.set(self._advertiser.next_deadline)

    def _send(self, message: ndp.RouterAdvertisement) -> None:
        self.sent += 1
        options = replace(message.options, source_mac=self._side.mac, mtu=self._side.mtu)
        self._side.send_discovery(replace(message, options=options), self._source, ipv6.ALL_NODES)
