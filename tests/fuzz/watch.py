"""Watchers that count frames at the ports themselves, and compare with what switches, links and nodes say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, final

from vnet.errors import WireError
from vnet.fabric.trace import MAX_EVENTS
from vnet.links.link import Direction
from vnet.ports import MAX_NESTING, NO_OFFLOAD, Handler, Port
from vnet.runtime.lab import Lab
from vnet.services.dhcp.node import DhcpServerNode
from vnet.services.dhcp.policy import MAX_OFFERS, MAX_TAILS
from vnet.services.firewall.conntrack import MAX_CONNECTIONS
from vnet.services.nat.translator import MAX_MAPPINGS_PER_HOST
from vnet.services.router import drops, flows, fragments
from vnet.services.router.router import Router
from vnet.stack import echo, neighbor, reassembly, udp
from vnet.stack.host import Host
from vnet.switch.port import MAX_FLOWS
from vnet.switch.switch import Switch
from vnet.wire import vlan
from vnet.wire.segmentation import complete
from vnet.wire.virtio_net import is_super, shift

OUTGOING: Final = ("icmp-rate-limit", "neighbor-queue-full", "no-neighbor")
"""What a host drops of its own packets, not of those that arrive."""


def _may_not_shift(offload: bytes) -> bool:
    """Tell whether a tag may not be put in or taken out, because the offsets would leave the frame."""
    for octets in (-4, 0, 4):
        try:
            shift(offload, octets)
        except WireError:
            return True
    return False


@final
class PortWatch:
    """What passed one port since the watch began."""

    __slots__ = ("doubtful", "rx_frames", "rx_octets", "silent", "tx_frames", "tx_octets", "tx_units")

    def __init__(self) -> None:
        self.rx_frames = self.rx_octets = self.tx_frames = self.tx_octets = 0
        self.tx_units = 0
        """Frames as a lossy link counts them: super-frames cut."""
        self.silent = 0
        """Frames that came in and left by no port."""
        self.doubtful = 0
        """Of these, those whose offload header may be the reason."""


@final
class SwitchWatch:
    """Watches every port of a switch."""

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self.sent = 0
        self.seen = {number: PortWatch() for number in switch.ports}
        switch.fold()
        self._before = {number: self._counters(number) for number in switch.ports}
        for number, port in switch.ports.items():
            port.port.hook(rx=self._rx(number), tx=self._tx(number))

    def _counters(self, number: int) -> tuple[int, int, int, int, int, int]:
        port = self.switch.ports[number]
        malformed = port.drops.get("malformed-offload", 0)
        dropped = sum(port.drops.values()) - malformed
        return port.rx_frames, port.rx_octets, port.tx_frames, port.tx_octets, dropped, malformed

    def _rx(self, number: int) -> Callable[[Handler], Handler]:
        seen = self.seen[number]

        def wrap(handler: Handler) -> Handler:
            def receive(frame: bytes, offload: bytes) -> None:
                seen.rx_frames += 1
                seen.rx_octets += len(frame)
                before = self.sent
                handler(frame, offload)
                if self.sent == before:
                    seen.silent += 1
                    if offload != NO_OFFLOAD and _may_not_shift(offload):
                        seen.doubtful += 1

            return receive

        return wrap

    def _tx(self, number: int) -> Callable[[Handler], Handler]:
        seen = self.seen[number]

        def wrap(handler: Handler) -> Handler:
            def send(frame: bytes, offload: bytes) -> None:
                self.sent += 1
                seen.tx_frames += 1
                seen.tx_octets += len(frame)
                seen.tx_units += _units(frame, offload)
                handler(frame, offload)

            return send

        return wrap

    def check(self, thrown: dict[int, tuple[int, int]]) -> None:
        """Compare: every frame that came in was counted, and left or was dropped for one reason; every one that left was.

        *thrown* gives frames and octets that the test itself put into a port's way out, past the switch.
        """
        self.switch.fold()
        for number, seen in self.seen.items():
            now, before = self._counters(number), self._before[number]
            rx, rx_octets, tx, tx_octets, dropped, malformed = (a - b for a, b in zip(now, before, strict=True))
            name = self.switch.ports[number].port.name
            own, own_octets = thrown.get(number, (0, 0))
            assert (rx, rx_octets) == (seen.rx_frames, seen.rx_octets), name
            assert (tx, tx_octets) == (seen.tx_frames - own, seen.tx_octets - own_octets), name
            assert seen.silent - seen.doubtful <= dropped <= seen.silent, name
            assert seen.silent - dropped <= malformed, name
            assert seen.silent <= seen.rx_frames


def _units(frame: bytes, offload: bytes) -> int:
    if not is_super(offload):
        return 1
    try:
        return len(complete(frame, offload))
    except WireError:
        return 1


@final
class Account:
    """The sum of a node's counters, and how much of its growth belongs to calls within the present one."""

    __slots__ = ("count", "inner", "most")

    def __init__(self, count: Callable[[], int], most: int = 1) -> None:
        self.count = count
        self.most = most
        self.inner = 0


@final
class NodeWatch:
    """Watches a node's port: each frame that arrives ends in exactly one counter of the node, and none is counted for free.

    What has no counter is ARP that was answered or noted, and fragments that wait for the rest. Super-frames are cut by
    those that are addressed, so they count as one or more. Frames that a router puts off, because they are nested too deep,
    are counted in ``put_off``.
    """

    depth = 0
    """How many routers' handlers are on the stack."""

    def __init__(self, port: Port, account: Account, *, guarded: bool = False, tagged: bool = False) -> None:
        self.name = port.name
        self.seen = PortWatch()
        self.exact = 0
        self.put_off = 0
        self._account = account
        self._guarded = guarded
        self._tagged = tagged  # the node has VLAN sub-interfaces, so what is in a tag matters
        port.hook(rx=self._rx, tx=self._tx)

    def _rx(self, handler: Handler) -> Handler:
        account = self._account

        def receive(frame: bytes, offload: bytes) -> None:
            self.seen.rx_frames += 1
            outer, account.inner = account.inner, 0
            before = account.count()
            NodeWatch.depth += self._guarded
            handler(frame, offload)
            NodeWatch.depth -= self._guarded
            total = account.count() - before
            counted = total - account.inner
            account.inner = outer + total
            self._judge(frame, offload, counted)

        return receive

    def _judge(self, frame: bytes, offload: bytes, counted: int) -> None:
        if vlan.is_tagged(frame) and len(frame) >= 18 and (self._tagged or not vlan.tci(frame) & vlan.VID_MASK):
            frame = vlan.pop(frame)
        kind = frame[12:14]
        # what was put off runs one deeper than is seen here
        if self._guarded and not counted and NodeWatch.depth >= MAX_NESTING - 1:
            self.put_off += 1
        elif kind == b"\x08\x06":
            assert 0 <= counted <= 1, (self.name, counted, frame.hex())
        elif kind == b"\x08\x00" and len(frame) > 21 and (frame[20] & 0x3F or frame[21]):
            assert counted >= 0
        elif is_super(offload):
            assert counted >= 1, (self.name, counted, frame[:100].hex(), offload.hex())
        else:
            self.exact += 1
            assert 1 <= counted <= self._account.most, (self.name, counted, frame[:100].hex(), offload.hex())

    def _tx(self, handler: Handler) -> Handler:
        def send(frame: bytes, offload: bytes) -> None:
            self.seen.tx_frames += 1
            self.seen.tx_units += _units(frame, offload)
            handler(frame, offload)

        return send


def _host_count(host: Host) -> int:
    dropped = sum(count for reason, count in host.drops.items() if reason not in OUTGOING)
    return host.delivered + dropped + sum(interface.ignored for interface in host.interfaces.values())


def _router_count(router: Router) -> int:
    return _host_count(router.host) + router.forwarded + sum(router.drops.values())


def _dhcp_count(node: DhcpServerNode) -> int:
    counters = node.counters
    return _host_count(node.host) + counters["received"] + counters["malformed"] + counters["not-served"]


@final
class LabWatch:
    """Watches every port of a lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.switches = {name: SwitchWatch(switch) for name, switch in lab.switches.items()}
        self.nodes: dict[str, NodeWatch] = {}
        for guest in lab.guests.values():
            account = Account(partial(_host_count, guest.host))  # type: ignore[attr-defined]  # all are emulated here
            for port in guest.ports:
                tagged = any(interface.vlans for interface in guest.host.interfaces.values())  # type: ignore[attr-defined]
                self.nodes[port.name] = NodeWatch(port, account, tagged=tagged)
        for router in lab.routers.values():
            account = Account(partial(_router_count, router))
            for interface in router.interfaces.values():
                self.nodes[interface.port.name] = NodeWatch(interface.port, account, guarded=True)
        for node in lab.dhcp.values():
            # what comes to the server by way of its host is counted by both
            self.nodes[node.port.name] = NodeWatch(node.port, Account(partial(_dhcp_count, node), most=2))
        self._link_before = {
            name: (_link_counts(link.forward), _link_counts(link.backward)) for name, link in lab.links.items()
        }
        self.thrown: dict[str, tuple[int, int]] = {}

    def note_thrown(self, port: Port, octets: int) -> None:
        """Note that the test itself sends a frame out of *port*."""
        frames, total = self.thrown.get(port.name, (0, 0))
        self.thrown[port.name] = frames + 1, total + octets

    def check_counters(self) -> None:
        """Compare what was seen with all counters; nothing may be under way."""
        for watch in self.switches.values():
            ports = watch.switch.ports
            watch.check({n: self.thrown[p.port.name] for n, p in ports.items() if p.port.name in self.thrown})
        for name, link in self.lab.links.items():
            modelled = bool(link.rate or link.latency or link.loss)
            near = link.a.name.split(":")[0]
            # switches, routers and DHCP servers hand frames over an ideal cable within the call, guests do not
            if modelled or near in self.lab.guests or near in self.lab.switches:
                self._check_direction(name, link.forward, link.a, bool(link.loss), self._link_before[name][0])
            if modelled or near in self.lab.switches:
                self._check_direction(name, link.backward, link.b, bool(link.loss), self._link_before[name][1])

    def _check_direction(self, name: str, direction: Direction, near: Port, lossy: bool, before: tuple[int, int]) -> None:
        seen = self._seen(near)
        delivered, dropped = (now - then for now, then in zip(_link_counts(direction), before, strict=True))
        assert delivered + dropped == (seen.tx_units if lossy else seen.tx_frames), name
        assert delivered > 0, name

    def _seen(self, port: Port) -> PortWatch:
        if port.name in self.nodes:
            return self.nodes[port.name].seen
        switch, name = port.name.split(":", 1)
        watch = self.switches[switch]
        return next(watch.seen[n] for n, p in watch.switch.ports.items() if p.name == name)

    def check_bounds(self) -> None:
        """Look whether every table that frames can make grow keeps within its bound."""
        check_bounds(self.lab)


def _link_counts(direction: Direction) -> tuple[int, int]:
    return direction.delivered, sum(direction.drops.values())


def hosts(lab: Lab) -> Iterator[Host]:
    """Yield every IP stack of a simulated lab."""
    for guest in lab.guests.values():
        yield guest.host  # type: ignore[attr-defined]
    for router in lab.routers.values():
        yield router.host
    for node in lab.dhcp.values():
        yield node.host


def check_bounds(lab: Lab) -> None:
    """Look whether every table that frames can make grow keeps within its bound."""
    for switch in lab.switches.values():
        fdb = switch.fdb
        assert fdb.count == sum(len(entries) for entries in fdb.vlans.values()) <= fdb.size
        assert sum(fdb._held.values()) == sum(not entry.static for entry in fdb)
        assert all(len(heap) <= 2 * fdb.size + 65 for heap in fdb._heaps.values())
        assert len(switch._index) <= 2 * sum(len(port.flows) for port in switch.ports.values())
        for port in switch.ports.values():
            assert len(port.flows) <= MAX_FLOWS
            assert len(port.drops) < 32
    for host in hosts(lab):
        for interface in host.interfaces.values():
            assert len(interface.neighbors.entries) <= neighbor.MAX_ENTRIES
            assert len(interface.watched) <= neighbor.MAX_ENTRIES + 16
            queued = [len(entry._queue) for entry in interface.neighbors.entries.values() if entry._queue]
            assert max(queued, default=0) <= neighbor.MAX_QUEUE
        reassembler = host._input._reassembler
        if reassembler is not None:
            assert len(reassembler._partials) <= reassembly.MAX_DATAGRAMS
            assert sum(partial.size for partial in reassembler._partials.values()) == reassembler._octets
            assert reassembler._octets <= reassembly.MAX_OCTETS
        assert len(host.udp.flows) <= udp.MAX_FLOWS
        assert len(host.icmp._requests._pings) <= echo.MAX_PINGS
        assert len(host.drops) < 64
    for router in lab.routers.values():
        connections = router._sessions.connections
        assert len(connections) <= MAX_CONNECTIONS
        assert len(connections._heap) <= 2 * len(connections) + 1025
        assert sum(connections._hosts.values()) + len(connections._ended) == len(connections)
        assert len(connections._unanswered) <= len(connections)
        translator = router._sessions.translator
        if translator is not None:
            held = sum(len(mappings) for mappings in router._sessions._held.values())
            assert sum(mapping.uses for mapping in translator) == held
            assert all(mapping.uses > 0 for mapping in translator)
            assert max(translator._hosts.values(), default=0) <= MAX_MAPPINGS_PER_HOST
        forwarder = router._forwarder
        assert len(forwarder.flows) <= flows.MAX_FLOWS
        assert len(forwarder.fragments._packets) <= fragments.MAX_PACKETS
        assert 0 <= forwarder.fragments._octets <= fragments.MAX_OCTETS
        assert len(router._log._seen) <= drops.MAX_REMEMBERED
        assert len(router.drops) < 64
    for node in lab.dhcp.values():
        table = node.server.table
        assert len(table.offers) <= MAX_OFFERS
        assert len(table) <= node.server.pool_size + len(node.server._reserved)
        assert len(node.server._tails._tails) <= MAX_TAILS
        assert len(table.expiries._heap) <= 2 * len(table.expiries._scheduled) + 64
        assert len(node.server._quiet_until) <= len(node.server._reserved) + node.server.pool_size
        assert len(node._outbox) == len(node._changes) == 0 or node._flush_planned
    assert len(lab.events) <= MAX_EVENTS
