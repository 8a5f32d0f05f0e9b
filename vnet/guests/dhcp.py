"""vnet's own DHCP client for an interface of a namespace (``dhcp: vnet``).

It is the client of the emulated hosts, unchanged: a small emulated host shares the interface with Linux. Through packet
sockets it gets only what DHCP needs, and what it learns is configured in Linux. Once an address is in use Linux answers
for it; the small host then gets no more ARP requests, or both would answer.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final, final

import trio

from vnet.adapters.base import Poller
from vnet.adapters.packet import ETH_P_ARP, ETH_P_IP, PacketPort, packet_socket, udp_to
from vnet.addresses import Mac
from vnet.guests.space import Space
from vnet.ports import Randomness, Report, Scheduler, connect
from vnet.stack.dhcp_client import DhcpClient
from vnet.stack.dhcp_lease import Lease
from vnet.stack.host import Host
from vnet.wire import arp, dhcpv4
from vnet.wire.ethernet import ETHERTYPE_ARP

_ARP_OPERATION: Final = slice(20, 22)


@final
class NamespaceDhcp:
    """The client of one interface of a *space*.

    *configure* and *unconfigure* change Linux; they may be called with the same address again when a lease was renewed.
    """

    def __init__(
        self,
        name: str,
        space: Space,
        interface: str,
        mac: Mac,
        mtu: int,
        scheduler: Scheduler,
        streams: Callable[[str], Randomness],
        configure: Callable[[Lease], None],
        unconfigure: Callable[[Lease], None],
        report: Report,
    ) -> None:
        self.bound = trio.Event()
        host = Host(name, scheduler, streams, report)
        self._interface = host.add_interface(interface, mac, mtu)
        self._client = DhcpClient(self._interface, name)
        self._client.on_bound.append(self._on_bound)
        self._client.on_lost.append(self._on_lost)
        self._configure, self._unconfigure = configure, unconfigure
        self._scheduler = scheduler
        sockets = (
            packet_socket(_raw(space), interface, ETH_P_IP, udp_to(dhcpv4.CLIENT_PORT)),
            packet_socket(_raw(space), interface, ETH_P_ARP),
        )
        self._packets = PacketPort(f"{name}:{interface}:dhcp", sockets, self._is_ours)
        # Nobody reads it: it keeps Linux from answering the server's datagrams with "port unreachable".
        self._placeholder = space.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        self._placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        self._placeholder.bind(("", dhcpv4.CLIENT_PORT))

    @property
    def state(self) -> str:
        """Name the state of the client, as ``vnet show guests`` does."""
        return self._client.state.value

    @property
    def lease(self) -> Lease | None:
        """The lease whose address is in use."""
        return self._client.lease

    def start(self, poller: Poller) -> None:
        """Ask for an address, and keep it."""
        self._packets.start(poller)
        connect(self._interface.port, self._packets.port, defer=self._scheduler)
        self._client.start()

    def set_carrier(self, up: bool) -> None:
        """Pass on that the cable was unplugged, or plugged in: then the address is verified."""
        self._interface.port.set_carrier(up)

    def release(self) -> None:
        """Give the address back while frames still pass."""
        self._client.release()

    def stop(self) -> None:
        """Stop without a word to the server, and close the sockets."""
        self._client.stop()
        self._packets.stop()
        self._placeholder.close()

    def _is_ours(self, frame: bytes) -> bool:
        """Take everything until there is an address, and from then on no ARP requests."""
        if frame[12:14] != ETHERTYPE_ARP or self._client.lease is None:
            return True
        return frame[_ARP_OPERATION] != arp.REQUEST.to_bytes(2, "big")

    def _on_bound(self, lease: Lease) -> None:
        self._configure(lease)
        self.bound.set()

    def _on_lost(self, lease: Lease) -> None:
        self._unconfigure(lease)
        self.bound = trio.Event()


def _raw(space: Space) -> socket.socket:
    return space.socket(socket.AF_PACKET, socket.SOCK_RAW)
