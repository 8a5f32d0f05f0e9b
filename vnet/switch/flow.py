"""One cached forwarding decision, the three ways to carry it out, and which address it rests on.

A flow is found by the first octets of a frame: destination, source and EtherType, with the tag if the port carries tags.
Everything the switch decides depends on these octets, on its configuration and on what its FDB says about two addresses. A
change of the configuration drops all flows, a change of an entry those that rest on its address (``FlowIndex``). While a
flow lives it also counts: its frames are added to the counters of its ports when somebody reads them or the flow goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, final

from vnet.errors import WireError
from vnet.ports import NO_OFFLOAD, Handler
from vnet.switch.port import ONE_FRAME, SwitchPort
from vnet.wire.virtio_net import shift

if TYPE_CHECKING:
    from vnet.switch.fdb import Entry

Station: TypeAlias = tuple[int, bytes]
"""A VID and the address of a station in that VLAN."""


@final
class Form:
    """A changed form of a frame, and who gets it: *head* takes the place of the octets that the flow's key covers."""

    __slots__ = ("handlers", "head", "ports")

    def __init__(self, head: bytes, ports: tuple[SwitchPort, ...]) -> None:
        self.head = head
        self.ports = ports
        self.handlers: tuple[Handler, ...] = tuple(port.port.send for port in ports)


@final
class Flow:
    """Where frames with one header go, and in what form.

    ``send`` carries the decision out. Ports in ``as_is`` get the frame unchanged, those of each form get its head in place
    of the first ``cut`` octets. ``source`` is the FDB entry that each frame refreshes; ``tally`` counts frames, in units of
    ``ONE_FRAME``, and below that octets. ``reason`` names why nobody gets the frame, where that is so. The flow is cached in
    *ingress* under *key*, and to be forgotten when an entry of ``rests_on`` comes, moves or goes.
    """

    __slots__ = (
        "_bad_offload", "_handlers", "as_is", "cut", "forms", "ingress", "key", "reason", "rests_on", "send", "source",
        "tally",
    )  # fmt: skip

    def __init__(
        self, ingress: SwitchPort, key: bytes, source: Entry, rests_on: tuple[Station, ...] = (), reason: str | None = None
    ) -> None:
        self.ingress = ingress
        self.key = key
        self.source = source
        self.rests_on = rests_on
        self.reason = reason
        self.tally = 0
        self.as_is: tuple[SwitchPort, ...] = ()
        self.forms: tuple[Form, ...] = ()
        self.cut = 0
        self._bad_offload = 0
        self._handlers: tuple[Handler, ...] = ()
        self.send: Handler = _drop

    def direct(self, as_is: tuple[SwitchPort, ...], forms: tuple[Form, ...], cut: int) -> None:
        """Set the egress ports and choose the shortest way to serve them."""
        self.as_is, self.forms, self.cut = as_is, forms, cut
        self._handlers = tuple(port.port.send for port in as_is)
        if forms:
            self.send = self._change
        elif len(as_is) == 1:
            self.send = self._handlers[0]
        elif as_is:
            self.send = self._fan_out

    def fold(self) -> None:
        """Add what was counted to the ports and start again from zero."""
        if not self.tally:
            return
        ingress = self.ingress
        frames, octets = divmod(self.tally, ONE_FRAME)
        lost = self._bad_offload
        self.tally = self._bad_offload = 0
        ingress.rx_frames += frames
        ingress.rx_octets += octets
        if self.reason is not None:
            ingress.count_drop(self.reason, frames)
        if lost:
            ingress.count_drop("malformed-offload", lost)
        for port in self.as_is:
            port.tx_frames += frames
            port.tx_octets += octets
        for form in self.forms:
            for port in form.ports:
                port.tx_frames += frames
                port.tx_octets += octets + (len(form.head) - self.cut) * frames

    def retire(self) -> None:
        """Count for the last time, because the flow was forgotten."""
        self.fold()
        self.send = _drop  # a method of its own would keep it until the cycle collector comes

    def _fan_out(self, frame: bytes, offload: bytes) -> None:
        for send in self._handlers:
            send(frame, offload)

    def _change(self, frame: bytes, offload: bytes) -> None:
        for send in self._handlers:
            send(frame, offload)
        rest = frame[self.cut :]
        for form in self.forms:
            head = form.head
            if offload == NO_OFFLOAD:
                moved = offload
            else:
                try:
                    moved = shift(offload, len(head) - self.cut)
                except WireError:
                    # Only a sender that lies about its offsets gets here: take back what fold() will count for this form.
                    self._bad_offload += 1
                    for port in form.ports:
                        port.tx_frames -= 1
                        port.tx_octets -= len(head) + len(rest)
                    continue
            changed = head + rest
            for send in form.handlers:
                send(changed, moved)


@final
class FlowIndex:
    """Which cached flows rest on which station.

    It holds the flows that the ports hold and no others, each for two stations at most, so the ports' bound is its bound.
    """

    __slots__ = ("_flows",)

    def __init__(self) -> None:
        self._flows: dict[Station, dict[Flow, None]] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, flow: Flow) -> None:
        """Note a flow that was put into its port's cache."""
        for station in flow.rests_on:
            self._flows.setdefault(station, {})[flow] = None

    def discard(self, flow: Flow) -> None:
        """Take out a flow that its port has forgotten, or is about to."""
        for station in flow.rests_on:
            flows = self._flows.get(station, {})
            flows.pop(flow, None)
            if not flows:
                self._flows.pop(station, None)

    def forget(self, station: Station) -> None:
        """Have the ports forget the flows that rest on *station*."""
        for flow in self._flows.pop(station, ()):
            self.discard(flow)
            del flow.ingress.flows[flow.key]
            flow.retire()

    def clear(self) -> None:
        """Forget everything, because the ports did."""
        self._flows.clear()


def _drop(frame: bytes, offload: bytes) -> None:
    """Let the frame end here; the flow counts it."""
