"""What an interface does with neighbor discovery messages (RFC 4861, sections 6.3 and 7.2; RFC 4862, section 5.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard, final

from vnet.addresses import ZERO_MAC, Mac, is_group
from vnet.errors import WireError
from vnet.stack.ipv6.addresses import AddressState
from vnet.wire import ipv6, ndp
from vnet.wire.icmpv6 import Icmpv6

if TYPE_CHECKING:
    from vnet.stack.ipv6.interface import Ipv6Interface


@final
class Discovery:
    """Reads the messages that come in by one interface."""

    __slots__ = ("_interface",)

    def __init__(self, interface: Ipv6Interface) -> None:
        self._interface = interface

    def receive(self, packet: bytes, message: Icmpv6, sender: Mac) -> None:
        """Take a message whose checksum is right, from a frame of *sender*."""
        host = self._interface.node.host
        source, destination = packet[8:24], packet[24:40]
        try:
            found = ndp.decode(message, source, destination, packet[7])
        except WireError:
            host.drop("ndp-malformed")
            return
        host.delivered += 1
        match found:
            case ndp.NeighborSolicitation():
                self._solicited(found, source, sender)
            case ndp.NeighborAdvertisement():
                self._advertised(found, sender)
            case ndp.RouterAdvertisement():
                self._router(found, source)
            case ndp.RouterSolicitation():
                self._asked(found, source)
            case ndp.Redirect():
                pass  # routes are not learned from redirects, as for IPv4

    def _solicited(self, message: ndp.NeighborSolicitation, source: bytes, sender: Mac) -> None:
        interface = self._interface
        own = interface.find(message.target)
        if own is None or own.state is AddressState.DUPLICATE:
            return
        if own.state is AddressState.TENTATIVE:
            if source == ipv6.ANY:  # somebody else asks at the same time (RFC 4862, 5.4.3)
                interface.taken(own, sender)
            return
        mac = message.options.source_mac
        options = ndp.Options(target_mac=interface.mac)
        if source == ipv6.ANY:
            answer = ndp.NeighborAdvertisement(own.address, interface.is_router, False, True, options)
            interface.send_discovery(answer, own.address, ipv6.ALL_NODES)
            return
        answer = ndp.NeighborAdvertisement(own.address, interface.is_router, True, True, options)
        if _is_individual(mac):
            entry = interface.neighbors.lookup(source)
            entry.spoke(mac)
            interface.send_discovery(answer, own.address, source, mac)
        else:
            entry = interface.neighbors.lookup(source)
            octets = ndp.encode(answer).encode(own.address, source)
            head = ipv6.build(own.address, source, ipv6.PROTOCOL_ICMPV6, len(octets), hop_limit=ndp.HOP_LIMIT)
            entry.send(head + octets)

    def _advertised(self, message: ndp.NeighborAdvertisement, sender: Mac) -> None:
        interface = self._interface
        own = interface.find(message.target)
        if own is not None and own.state is not AddressState.DUPLICATE:  # that one is a neighbor's
            if own.state is AddressState.TENTATIVE:
                interface.taken(own, sender)
            else:
                interface.defended(own, sender)
            return
        entry = interface.neighbors.entries.get(message.target)
        mac = message.options.target_mac
        if entry is not None:
            entry.advertised(
                mac if _is_individual(mac) else None,
                solicited=message.solicited, override=message.override, is_router=message.is_router,
            )  # fmt: skip

    def _router(self, message: ndp.RouterAdvertisement, source: bytes) -> None:
        interface = self._interface
        if interface.autoconf is None:
            return
        mac = message.options.source_mac
        if _is_individual(mac):
            interface.neighbors.lookup(source).spoke(mac)
        entry = interface.neighbors.entries.get(source)
        if entry is not None:
            entry.is_router = True
        interface.autoconf.receive(message, source)

    def _asked(self, message: ndp.RouterSolicitation, source: bytes) -> None:
        """Have a router answer a host that looks for one (RFC 4861, section 6.2.6); others let it be."""
        interface = self._interface
        if interface.router is None:
            return
        mac = message.options.source_mac
        if source != ipv6.ANY and _is_individual(mac):
            entry = interface.neighbors.lookup(source)
            entry.spoke(mac)
            entry.is_router = False
        interface.router.solicited()


def _is_individual(mac: Mac | None) -> TypeGuard[Mac]:
    return mac is not None and not is_group(mac) and mac != ZERO_MAC
