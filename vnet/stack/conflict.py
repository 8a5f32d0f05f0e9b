"""Address conflict detection (RFC 5227): ask before an address is used, announce it, defend it.

One ``ConflictDetector`` serves one interface. It is made when first needed: a host that never probes pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from vnet.addresses import format_mac
from vnet.units import SECOND, Instant
from vnet.wire import arp
from vnet.wire.ipv4 import ANY, text

if TYPE_CHECKING:
    from vnet.stack.interface import Interface

PROBE_WAIT: Final = 1 * SECOND
PROBE_NUM: Final = 3
PROBE_MIN: Final = 1 * SECOND
PROBE_MAX: Final = 2 * SECOND
ANNOUNCE_WAIT: Final = 2 * SECOND
ANNOUNCE_NUM: Final = 2
ANNOUNCE_INTERVAL: Final = 2 * SECOND
MAX_CONFLICTS: Final = 10
RATE_LIMIT_INTERVAL: Final = 60 * SECOND
DEFEND_INTERVAL: Final = 10 * SECOND
"""RFC 5227, section 1.1."""

Done = Callable[[bool], None]
"""Called with True if the address is taken, False if it is free."""


@final
class _Probing:
    """One address that is being asked for."""

    __slots__ = ("done", "sent")

    def __init__(self, done: Done) -> None:
        self.done = done
        self.sent = 0


@final
class ConflictDetector:
    """Probes, announces and defends the addresses of one interface."""

    __slots__ = ("_conflicts", "_defended", "_interface", "_probing")

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._probing: dict[bytes, _Probing] = {}
        self._defended: dict[bytes, Instant] = {}
        self._conflicts = 0

    def probing(self, address: bytes) -> bool:
        """Tell whether this address is being probed."""
        return address in self._probing

    def probe(self, address: bytes, done: Done) -> None:
        """Ask three times whether somebody has *address* and call *done* (RFC 5227, 2.1.1): 4 to 7 s when it is free.

        Probing an address again replaces the first probe, whose *done* is not called.
        """
        self._probing[address] = probing = _Probing(done)
        self._interface.watched[address] = None
        limited = RATE_LIMIT_INTERVAL if self._conflicts >= MAX_CONFLICTS else 0
        self._later(limited + self._draw(0, PROBE_WAIT), address, probing)

    def cancel(self, address: bytes) -> None:
        """Stop probing; *done* is not called."""
        if self._probing.pop(address, None) is not None:
            self._interface.unwatch(address)

    def announce(self, address: bytes) -> None:
        """Tell everybody that *address* is ours, twice, 2 s apart (RFC 5227, 2.3)."""
        self._announce(address, ANNOUNCE_NUM)

    def receive(self, packet: arp.Arp) -> None:
        """Look for a conflict in an ARP packet that somebody else sent."""
        if packet.sender in self._probing:
            self._taken(packet.sender, packet.sender_mac)
        elif packet.is_probe and packet.target in self._probing:
            self._taken(packet.target, packet.sender_mac)  # two hosts probe for one address: both give way
        if packet.sender != ANY and self._interface.owns(packet.sender):
            self._defend(packet)

    def _defend(self, packet: arp.Arp) -> None:
        """Keep the address, and say so at most once in 10 s: choice (c) of RFC 5227, 2.4, as fits a server."""
        interface = self._interface
        address, now = packet.sender, interface.host.scheduler.now
        last = self._defended.get(address)
        interface.conflict(address, packet.sender_mac)
        if last is None or now - last >= DEFEND_INTERVAL:
            self._defended[address] = now
            self._announce(address, 1)

    def _taken(self, address: bytes, mac: bytes) -> None:
        probing = self._probing.pop(address)
        self._interface.unwatch(address)
        self._conflicts += 1
        self._interface.host.report(
            "address-taken", interface=self._interface.name, address=text(address), by=format_mac(mac)
        )
        probing.done(True)

    def _step(self, address: bytes, probing: _Probing) -> None:
        if self._probing.get(address) is not probing:
            return  # decided, cancelled or started anew meanwhile
        if probing.sent == PROBE_NUM:
            del self._probing[address]
            self._interface.unwatch(address)
            self._conflicts = 0
            probing.done(False)
            return
        probing.sent += 1
        self._interface.send(arp.request_frame(self._interface.mac, ANY, address))
        self._later(ANNOUNCE_WAIT if probing.sent == PROBE_NUM else self._draw(PROBE_MIN, PROBE_MAX), address, probing)

    def _announce(self, address: bytes, times: int) -> None:
        interface = self._interface
        if interface.owns(address):
            interface.send(arp.request_frame(interface.mac, address, address))
            if times > 1:
                scheduler = interface.host.scheduler
                scheduler.at(scheduler.now + ANNOUNCE_INTERVAL, self._announce, address, times - 1)

    def _later(self, delay: int, address: bytes, probing: _Probing) -> None:
        scheduler = self._interface.host.scheduler
        scheduler.at(scheduler.now + delay, self._step, address, probing)

    def _draw(self, low: int, high: int) -> int:
        return low + self._interface.host.stream("arp").below(high - low + 1)
