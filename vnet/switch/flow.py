"""One cached forwarding decision, and the three ways to carry it out.

A flow is found by the first octets of a frame: destination, source and EtherType, with the tag if the port carries tags.
Everything the switch decides depends on these octets and on its tables, so whatever changes a table drops the flows. While
a flow lives it also counts: its frames are added to the counters of its ports when somebody reads them or the flow goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from vnet.errors import WireError
from vnet.ports import NO_OFFLOAD, Handler
from vnet.switch.port import ONE_FRAME, SwitchPort
from vnet.wire.virtio_net import shift

if TYPE_CHECKING:
    from vnet.switch.fdb import Entry


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
    ``ONE_FRAME``, and below that octets. ``reason`` names why nobody gets the frame, where that is so.
    """

    __slots__ = ("_bad_offload", "_handlers", "as_is", "cut", "forms", "reason", "send", "source", "tally")

    def __init__(self, source: Entry, reason: str | None = None) -> None:
        self.source = source
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

    def fold(self, ingress: SwitchPort) -> None:
        """Add what was counted to the ports and start again from zero."""
        if not self.tally:
            return
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


def _drop(frame: bytes, offload: bytes) -> None:
    """Let the frame end here; the flow counts it."""
