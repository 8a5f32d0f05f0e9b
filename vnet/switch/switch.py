"""The VLAN-aware learning switch (IEEE 802.1Q-2018, clause 8), without spanning tree.

A frame's first octets lead to a ``Flow``; ``decide`` makes the flow when there is none: ingress stages (``pipeline``),
learning and look-up (``fdb``), egress by member set. When an address is learned, moves, ages out or gives way, the flows
that rest on it are forgotten and no others: whatever one port sends, the rest keep their short way. All flows go when a
port or a VLAN changes, or somebody changes the FDB by hand.
"""

from __future__ import annotations

from typing import Final, final

from vnet.addresses import is_group
from vnet.errors import UsageError
from vnet.ports import Report, ReportLimit, Scheduler, no_report
from vnet.switch import pipeline
from vnet.switch.fdb import DEFAULT_AGEING, DEFAULT_SIZE, Entry, Fdb, Learned
from vnet.switch.flow import Flow, FlowIndex, Form
from vnet.switch.port import MAX_FLOWS, TAGGED_KEY, UNTAGGED_KEY, SwitchPort, nowhere
from vnet.switch.vlan import VlanConfig
from vnet.units import Duration
from vnet.wire.ethernet import ETHERTYPE_VLAN, MAX_FRAME

_NOBODY: Final = Entry(0, b"", 0, 0)
"""Stands for the source of frames that nobody learns from."""


@final
class Switch:
    """A switch with numbered ports.

    *max_frame* is the largest frame without its tag, in octets. Handlers of its ports never raise.
    """

    __slots__ = ("_alarm", "_egress", "_index", "_moves", "_scheduler", "fdb", "max_frame", "name", "ports", "report")

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        *,
        ageing: Duration | None = DEFAULT_AGEING,
        fdb_size: int = DEFAULT_SIZE,
        max_frame: int = MAX_FRAME,
        report: Report = no_report,
    ) -> None:
        self.name = name
        self.fdb = Fdb(fdb_size, ageing)
        self.max_frame = max_frame
        self.ports: dict[int, SwitchPort] = {}
        self.report = report
        self._scheduler = scheduler
        self._alarm = scheduler.alarm(self._expire)
        self._egress: dict[int, tuple[SwitchPort, ...]] = {}
        self._index = FlowIndex()
        self._moves = ReportLimit(report)

    def add_port(self, vlan: VlanConfig, name: str = "", number: int | None = None) -> SwitchPort:
        """Add a port, numbered from 1; plug a cable into its ``port``."""
        number = number if number is not None else max(self.ports, default=0) + 1
        if number in self.ports:
            raise UsageError(f"switch {self.name} has a port {number} already")
        port = SwitchPort(number, name or str(number), self.name, vlan, self.max_frame)
        port.port.set_handler(port.make_receiver(self._scheduler, self.decide))
        port.port.on_carrier = lambda up: self._carrier(port, up)
        port.port.on_change = self.forget_flows
        self.ports[number] = port
        self._changed()
        return port

    def remove_port(self, number: int) -> None:
        """Take a port away; its entries go with it."""
        port = self._port(number)
        self.forget_flows()
        port.port.on_carrier = port.port.on_change = None
        port.port.set_handler(nowhere)
        del self.ports[number]
        for entry in [entry for entry in self.fdb if entry.port == number]:
            self.fdb.remove(entry.vid, entry.mac)
        self._changed()

    def set_vlan(self, number: int, vlan: VlanConfig) -> None:
        """Reconfigure a port's VLANs; what was learned on it is forgotten."""
        port = self._port(number)
        self.forget_flows()
        port.vlan = vlan
        port.port.set_handler(port.make_receiver(self._scheduler, self.decide))
        self.fdb.flush(port=number)
        self._changed()

    def set_enabled(self, number: int, enabled: bool) -> None:
        """Switch a port on or off by hand."""
        port = self._port(number)
        if port.enabled != enabled:
            port.enabled = enabled
            self._state_changed(port)

    def add_static(self, vid: int, mac: bytes, number: int) -> None:
        """Enter an address by hand; it neither ages nor moves."""
        self._port(number)
        self.fdb.add_static(vid, mac, number, self._scheduler.now)
        self.forget_flows()

    def remove_entry(self, vid: int, mac: bytes) -> bool:
        """Take one address out of the FDB; tell whether it was there."""
        self.forget_flows()
        return self.fdb.remove(vid, mac)

    def flush(self, number: int | None = None, vid: int | None = None) -> int:
        """Forget the dynamic entries of one port, one VLAN, or all; return how many."""
        self.forget_flows()
        return self.fdb.flush(number, vid)

    def fold(self) -> None:
        """Bring the counters of all ports up to date; call before reading them."""
        for port in self.ports.values():
            port.fold()

    def forget_flows(self) -> None:
        """Drop every cached decision of every port."""
        for port in self.ports.values():
            port.forget_flows()
        self._index.clear()

    def decide(self, port: SwitchPort, frame: bytes, key: bytes) -> Flow:
        """Make the flow for a frame that has none, and cache it under *key*, its first octets."""
        ingress = pipeline.Ingress(port, frame)
        reason = pipeline.run(ingress)
        flow = Flow(port, key, _NOBODY, reason=reason) if reason is not None else self._forward(ingress, key)
        if len(port.flows) >= MAX_FLOWS:
            for other in port.flows.values():
                self._index.discard(other)
            port.forget_flows()
        port.flows[key] = flow
        self._index.add(flow)
        return flow

    def _forward(self, ingress: pipeline.Ingress, key: bytes) -> Flow:
        frame, vid, port = ingress.frame, ingress.vid, ingress.port
        destination, source = frame[:6], frame[6:12]
        learned = self._learn(vid, source, port)
        members = self._egress_ports(vid)
        if is_group(destination):
            flow = Flow(port, key, learned, ((vid, source),))
            targets = tuple(member for member in members if member is not port)
        else:
            flow = Flow(port, key, learned, ((vid, source), (vid, destination)))
            entry = self.fdb.lookup(vid, destination)
            if entry is None:
                targets = tuple(member for member in members if member is not port)
            elif entry.port == port.number:
                flow.reason = pipeline.SAME_PORT
                return flow
            else:
                targets = tuple(member for member in members if member.number == entry.port)
        if targets:
            self._direct(flow, ingress, targets)
        else:
            flow.reason = pipeline.NO_EGRESS
        return flow

    def _direct(self, flow: Flow, ingress: pipeline.Ingress, targets: tuple[SwitchPort, ...]) -> None:
        """Sort the egress ports into those that take the frame as it came and those that need it tagged or untagged."""
        frame, vid = ingress.frame, ingress.vid
        untagged = tuple(port for port in targets if vid in port.vlan.untagged)
        tagged = tuple(port for port in targets if vid not in port.vlan.untagged)
        tag = ETHERTYPE_VLAN + (ingress.priority | vid).to_bytes(2, "big")
        cut = TAGGED_KEY if ingress.tagged else UNTAGGED_KEY
        ethertype = frame[cut - 2 : cut]
        forms: list[Form] = []
        as_is: tuple[SwitchPort, ...] = ()
        for ports, head in ((untagged, frame[:12] + ethertype), (tagged, frame[:12] + tag + ethertype)):
            if head == frame[:cut]:
                as_is = ports
            elif ports:
                forms.append(Form(head, ports))
        flow.direct(as_is, tuple(forms), cut)

    def _learn(self, vid: int, mac: bytes, port: SwitchPort) -> Entry:
        learned, entry, gone = self.fdb.learn(vid, mac, port.number, self._scheduler.now)
        if entry is None:
            return _NOBODY
        if learned is Learned.KNOWN:
            return entry
        self._index.forget((vid, mac))
        if learned is Learned.MOVED and gone is not None:
            self._moves.report(self._scheduler.now, "mac-moved", vid=vid, mac=mac.hex(":"), old=gone.port, new=port.number)
        elif gone is not None:
            self._index.forget((gone.vid, gone.mac))
        self._alarm_at_next()
        return entry

    def _egress_ports(self, vid: int) -> tuple[SwitchPort, ...]:
        ports = self._egress.get(vid)
        if ports is None:
            ports = tuple(port for port in self.ports.values() if port.is_up and port.vlan.is_member(vid))
            self._egress[vid] = ports
        return ports

    def _port(self, number: int) -> SwitchPort:
        if number not in self.ports:
            raise UsageError(f"switch {self.name} has no port {number}")
        return self.ports[number]

    def _carrier(self, port: SwitchPort, up: bool) -> None:
        self.report("port-up" if up else "port-down", port=port.name)
        self._state_changed(port)

    def _state_changed(self, port: SwitchPort) -> None:
        if not port.is_up:
            self.fdb.flush(port=port.number)
        self._changed()

    def _changed(self) -> None:
        self._egress.clear()
        self.forget_flows()

    def _alarm_at_next(self) -> None:
        if self._alarm.deadline is None:
            self._alarm.set(self.fdb.next_deadline())

    def _expire(self) -> None:
        for entry in self.fdb.expire(self._scheduler.now):
            self._index.forget((entry.vid, entry.mac))
        self._alarm.set(self.fdb.next_deadline())
