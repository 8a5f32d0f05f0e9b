"""The DHCP server in the fabric: a port, a host that owns the server's address, the machine, and the store behind it.

Frames that carry DHCP are taken out before the host sees them; the host answers ARP and ping for the server's address, and
takes the rare message that comes in fragments.

Group commit: the requests of one instant are answered together. Their bindings go to the store as one batch, and only when
``BindingStore.record`` has returned are the replies sent (RFC 2131, 4.3.1 asks for no less). Live, one instant is all that
the driver read in one go, so the busier the server, the larger its batches.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Interface
from typing import Final, final

from vnet.addresses import ZERO_MAC, Mac, format_mac
from vnet.errors import VnetError, WireError
from vnet.ports import NO_OFFLOAD, Port, Randomness, Report, Scheduler, no_report
from vnet.services.dhcp.binding import Binding, BindingStore, NoStore
from vnet.services.dhcp.policy import DhcpConfig
from vnet.services.dhcp.replies import Reply
from vnet.services.dhcp.server import DhcpServer, Effect, Save
from vnet.stack.host import Host
from vnet.wire import arp, dhcpv4
from vnet.wire.dhcpv4_frame import IP_BROADCAST, dhcp_frame, dhcp_payload, is_dhcp
from vnet.wire.ethernet import ETHERTYPE_ARP

INTERFACE: Final = "eth0"
_PORT: Final = dhcpv4.SERVER_PORT.to_bytes(2, "big")
_ARP_ETHERNET_IPV4: Final = bytes.fromhex("000108000604")
"""How an ARP packet for Ethernet and IPv4 begins (RFC 826)."""
_ANY: Final = bytes(4)


@final
class DhcpServerNode:
    """The virtual DHCP server of one network, to be plugged into a switch port.

    *store* is loaded at once and written to from then on. ``serves(mac)`` may be set to answer only some stations; requests
    of others are counted as ``not-served``. ``counters`` are those of the machine, and of what never reached it.
    """

    __slots__ = (
        "_alarm", "_changes", "_config", "_destinations", "_flush_planned", "_mac", "_outbox", "_report", "_scheduler",
        "_server_ip", "_socket", "_store", "counters", "host", "interface", "name", "port", "server", "serves",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        mac: Mac,
        config: DhcpConfig,
        store: BindingStore | None,
        streams: Callable[[str], Randomness],
        report: Report = no_report,
    ) -> None:
        self.name = name
        self.serves: Callable[[Mac], bool] | None = None
        self._scheduler = scheduler
        self._mac = mac
        self._config = config
        self._server_ip = config.server.packed
        self._destinations = (IP_BROADCAST, self._server_ip)
        self._report = report
        self._store: BindingStore = NoStore() if store is None else store
        self._changes: list[Binding] = []
        self._outbox: list[tuple[Reply, Mac | None]] = []
        self._flush_planned = False
        self.server = DhcpServer(config, scheduler.now, self._store.load(), report)
        self.counters = self.server.counters
        self.counters.update(dict.fromkeys(("malformed", "not-served", "not-stored"), 0))
        self._alarm = scheduler.alarm(self._expire)
        self.host = Host(name, scheduler, streams, report)
        self.interface = self.host.add_interface(INTERFACE, mac)
        self.interface.add_address(IPv4Interface((config.server, config.subnet.prefixlen)))
        self._socket = self.host.udp_bind(dhcpv4.SERVER_PORT, on_datagram=self._datagram)
        self.port = Port(name, self._receive)
        self.port.on_carrier = self._carrier
        self._alarm.set(self.server.next_deadline())

    def bindings(self) -> list[Binding]:
        """Return what the server knows, in the order of addresses: leases, open offers, quarantined and former addresses."""
        return list(self.server.table)

    def flush(self) -> int:
        """Forget every binding; return how many there were. Clients that renew will be told to start again."""
        effects = self.server.flush()
        self._apply(effects, None)
        return len(effects)

    # -- frames --------------------------------------------------------------------------------------------------------

    def _receive(self, frame: bytes, offload: bytes) -> None:
        if is_dhcp(frame, _PORT) and frame[30:34] in self._destinations:
            if frame[:6] != self._mac and not frame[0] & 1:
                self.interface.ignored += 1  # flooded, and meant for another server
                return
            payload = dhcp_payload(frame, offload)
            if payload is None:
                self.counters["malformed"] += 1
                return
            self._message(payload, frame[6:12])
            return
        if frame[12:14] == ETHERTYPE_ARP:
            self._observe(frame)
        self.interface.receive(frame, offload)

    def _datagram(self, payload: bytes, source: tuple[bytes, int]) -> None:
        """Take a message that came by way of the host, because its packet was in pieces or had options."""
        self._message(payload, None)

    def _message(self, payload: bytes, station: Mac | None) -> None:
        if self.serves is not None and station is not None and not self.serves(station):
            self.counters["not-served"] += 1
            return
        try:
            message = dhcpv4.decode(payload)
        except WireError:
            self.counters["malformed"] += 1
            return
        self._apply(self.server.receive(self._scheduler.now, message), station)

    def _observe(self, frame: bytes) -> None:
        """Look in an ARP packet for somebody who uses an address of the pool."""
        sender_mac, sender = frame[22:28], frame[28:32]
        if len(frame) < 42 or frame[14:20] != _ARP_ETHERNET_IPV4 or sender in (_ANY, self._server_ip):
            return
        if sender_mac not in (self._mac, ZERO_MAC) and not sender_mac[0] & 1:
            effects = self.server.observe(self._scheduler.now, sender, sender_mac)
            if effects:
                self._apply(effects, None)

    # -- effects -------------------------------------------------------------------------------------------------------

    def _apply(self, effects: list[Effect], station: Mac | None) -> None:
        for effect in effects:
            if isinstance(effect, Reply):
                self._outbox.append((effect, station))
            elif isinstance(effect, Save):
                self._changes.append(effect.binding)
            else:
                self.interface.send(arp.request_frame(self._mac, _ANY, effect.address))
        if effects and not self._flush_planned:
            self._flush_planned = True
            self._scheduler.soon(self._flush)

    def _flush(self) -> None:
        """Record the changes of this instant in one batch, then send the replies."""
        self._flush_planned = False
        changes, outbox = self._changes, self._outbox
        self._changes, self._outbox = [], []
        self._alarm.set(self.server.next_deadline())
        if changes:
            try:
                self._store.record(changes)
            except VnetError as error:
                # without its binding on disk an ACK would be a promise that a restart breaks: let the clients ask again
                self.counters["not-stored"] += len(outbox)
                self._report("dhcp-store-failed", error=str(error), changes=len(changes))
                return
        for reply, station in outbox:
            mac = reply.mac or station
            if mac is None or reply.port == dhcpv4.SERVER_PORT:
                self._socket.send_to(reply.payload, (reply.address, reply.port))
                continue
            frame = dhcp_frame(
                mac, self._mac, self._server_ip, reply.address, dhcpv4.SERVER_PORT, reply.port, reply.payload
            )  # fmt: skip
            self.port.send(frame, NO_OFFLOAD)

    def _expire(self) -> None:
        self._apply(self.server.expire(self._scheduler.now), None)
        self._alarm.set(self.server.next_deadline())

    # -- the cable -----------------------------------------------------------------------------------------------------

    def _carrier(self, up: bool) -> None:
        if not up:
            self.interface.port.unplug()
            return
        self.interface.port.plug(self._transmit)
        self.interface.probe(self._server_ip, self._probed)

    def _transmit(self, frame: bytes, offload: bytes) -> None:
        """Send what the host says: later, as the replies are, so that the node never answers within the call."""
        self._scheduler.soon(self._send, frame, offload)

    def _send(self, frame: bytes, offload: bytes) -> None:
        self.port.send(frame, offload)

    def _probed(self, taken: bool) -> None:
        if taken:
            self._report("dhcp-server-conflict", address=str(self._config.server), mac=format_mac(self._mac))
