"""The small interfaces at which everything meets: ports, the scheduler, randomness.

A *port* is where frames pass between a node and its cable::

    node  --send-->  [cable]  --receive-->  other node

The node sets ``receive`` (the cable calls it with each frame that arrives) and calls ``send`` (set by whoever plugs the
cable in). Both take ``(frame, offload)``: the octets of the frame without FCS, and its virtio-net header, which is
``NO_OFFLOAD`` (ten zero octets) for a plain frame; see ``vnet.wire.virtio_net``. A handler never blocks, never raises, and
is done with the frame when it returns.

Hooks (capture, counters, faults) replace a handler while they are there and cost nothing when they are not: whoever keeps
``port.send`` in a cache listens to ``port.on_change``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeAlias, final

from vnet.units import SECOND, Duration, Instant

Handler: TypeAlias = Callable[[bytes, bytes], None]
"""Takes (frame, offload)."""

NO_OFFLOAD: Final = bytes(10)
"""The virtio-net header of a plain frame: checksums are complete, no segmentation is pending (VIRTIO 1.2, 5.1.6)."""

MAX_NESTING: Final = 8
"""Guarded nodes that may be at work within one call; each takes some ten frames of Python's stack."""

REPORT_BURST: Final = 32
REPORT_WINDOW: Final[Duration] = 1 * SECOND
"""How many events of one ``ReportLimit`` a stretch of lab time has room for."""


class Alarm(Protocol):
    """A timer with one deadline at a time."""

    deadline: Instant | None

    def set(self, deadline: Instant | None) -> None:
        """Go off at *deadline*, in place of any earlier setting; None disarms."""


class Scheduler(Protocol):
    """What a node needs of the timeline."""

    @property
    def now(self) -> Instant:
        """The instant by the node's clock."""

    def at(self, when: Instant, action: Callable[..., None], *args: object) -> None:
        """Run ``action(*args)`` at *when*."""

    def soon(self, action: Callable[..., None], *args: object) -> None:
        """Run ``action(*args)`` at this instant, after what is already due."""

    def alarm(self, action: Callable[[], None]) -> Alarm:
        """Make a timer that calls *action*."""

    def withdraw(self, action: Callable[..., None]) -> list[tuple[Instant, tuple[object, ...]]]:
        """Take back every call of *action* that is still to come; return their instants and arguments, in order."""


class Randomness(Protocol):
    """One node's random stream for one purpose."""

    def random(self) -> float:
        """Draw from [0, 1)."""

    def below(self, bound: int) -> int:
        """Draw a whole number from 0 to *bound* - 1."""

    def octets(self, count: int) -> bytes:
        """Draw *count* octets."""


Report: TypeAlias = Callable[..., None]
"""``report(kind, **fields)``: note an event (a binding, a drop, a state change) in the lab's event log. Values are str, int,
bool or None; the fabric adds the instant and the node's name."""


def no_report(kind: str, **fields: str | int | bool | None) -> None:
    """Forget the event: for machines that run outside a lab."""


@final
class ReportLimit:
    """Keeps what a peer can repeat at will from filling the event log: ``REPORT_BURST`` events in a ``REPORT_WINDOW``.

    How many were left out stands in the next event that is let through, as ``not_reported``. Instants alone decide, so two
    runs of one lab log the same.
    """

    __slots__ = ("_left_out", "_report", "_reported", "_window")

    def __init__(self, report: Report) -> None:
        self._report = report
        self._window: Instant = 0
        self._reported = 0
        self._left_out = 0

    def allows(self, now: Instant) -> bool:
        """Tell whether an event may be reported now; if not it counts as left out."""
        if now >= self._window + REPORT_WINDOW:
            self._window, self._reported = now, 0
        if self._reported >= REPORT_BURST:
            self._left_out += 1
            return False
        return True

    def report(self, now: Instant, kind: str, **fields: str | int | bool | None) -> None:
        """Report an event unless there were too many."""
        if self.allows(now):
            self._reported += 1
            if self._left_out:
                fields["not_reported"], self._left_out = self._left_out, 0
            self._report(kind, **fields)


@final
class Port:
    """One place where frames pass in and out of a node; two of them are joined by ``connect``.

    ``name`` is ``node:interface``. ``carrier`` tells whether a cable is plugged in and up; ``on_carrier`` is called when
    that changes, ``on_change`` when ``send`` was replaced. While a port has no carrier, what is sent into it is counted in
    ``unsent`` and forgotten.
    """

    __slots__ = (
        "_handler", "_keeper", "_outlet", "_peer_changed", "_rx_gate", "_rx_hook", "_tx_gate", "_tx_hook",
        "carrier", "name", "on_carrier", "on_change", "receive", "send", "unsent",
    )  # fmt: skip

    def __init__(self, name: str, handler: Handler) -> None:
        self.name = name
        self.carrier = False
        self.unsent = 0
        self.on_carrier: Callable[[bool], None] | None = None
        self.on_change: Callable[[], None] | None = None
        self._handler = handler
        self._outlet: Handler = self._discard
        self._peer_changed: Callable[[], None] | None = None
        self._rx_hook: Callable[[Handler], Handler] | None = None
        self._tx_hook: Callable[[Handler], Handler] | None = None
        self._rx_gate: Callable[[Handler], Handler] | None = None
        self._tx_gate: Callable[[Handler], Handler] | None = None
        self._keeper: tuple[Handler, Handler] | None = None
        self.receive: Handler = handler
        self.send: Handler = self._discard

    def plug(self, outlet: Handler, peer_changed: Callable[[], None] | None = None) -> None:
        """Join the cable: what the node sends goes to *outlet*; *peer_changed* is called when ``receive`` is replaced."""
        self._outlet = outlet
        self._peer_changed = peer_changed
        self._rewire_send()
        self.set_carrier(True)

    def unplug(self) -> None:
        """Leave the cable; frames sent from now on are counted in ``unsent``."""
        self._outlet = self._discard
        self._peer_changed = None
        self._rewire_send()
        self.set_carrier(False)

    def set_carrier(self, up: bool) -> None:
        """Tell the node that the far end, or the link, went up or down; the cable stays plugged in."""
        if up != self.carrier:
            self.carrier = up
            if self.on_carrier is not None:
                self.on_carrier(up)

    def set_handler(self, handler: Handler) -> None:
        """Replace what the node does with frames that arrive; the far end takes it up at once."""
        self._handler = handler
        self._rewire_receive()

    def reroute(self, outlet: Handler) -> None:
        """Replace where sent frames go, because the far end changed its handler."""
        self._outlet = outlet
        self._rewire_send()

    def hook(self, rx: Callable[[Handler], Handler] | None = None, tx: Callable[[Handler], Handler] | None = None) -> None:
        """Wrap the two handlers while the hook is wanted; ``hook()`` takes it off again.

        *rx* and *tx* get the plain handler and return the one to use in its place.
        """
        self._rx_hook, self._tx_hook = rx, tx
        self._rewire_receive()
        self._rewire_send()

    def gate(self, rx: Callable[[Handler], Handler] | None = None, tx: Callable[[Handler], Handler] | None = None) -> None:
        """Do the same on the cable's side of the hook: for faults, since a capture shows what passes the port.

        What the node sends is recorded and then lost; what is lost on its way to the node is not recorded.
        """
        self._rx_gate, self._tx_gate = rx, tx
        self._rewire_receive()
        self._rewire_send()

    def keep(self, received: Handler, sent: Handler) -> None:
        """Give what arrives and what the node sends to these two instead, because the node stands still: on its own side of
        the hook, so that a capture shows what arrives now, and what is sent once it goes out."""
        self._keeper = (received, sent)
        self._rewire_receive()
        self._rewire_send()

    def let_go(self) -> tuple[Handler, Handler]:
        """Pass frames on again; return what takes those that were kept: the node's handler, and its way out."""
        self._keeper = None
        self._rewire_receive()
        self._rewire_send()
        return self._handler, self.send

    def _rewire_receive(self) -> None:
        handler = self._handler if self._keeper is None else self._keeper[0]
        receive = self._rx_hook(handler) if self._rx_hook else handler
        self.receive = self._rx_gate(receive) if self._rx_gate else receive
        if self._peer_changed is not None:
            self._peer_changed()

    def _rewire_send(self) -> None:
        outlet = self._tx_gate(self._outlet) if self._tx_gate else self._outlet
        send = self._tx_hook(outlet) if self._tx_hook else outlet
        self.send = send if self._keeper is None else self._keeper[1]
        if self.on_change is not None:
            self.on_change()

    def _discard(self, frame: bytes, offload: bytes) -> None:
        self.unsent += 1


def connect(a: Port, b: Port, defer: Scheduler | None = None) -> None:
    """Join two ports by an ideal cable: no delay, no limit.

    Without *defer* a frame arrives within the call that sends it. With it, what *a* sends arrives as an event of the same
    instant: emulated nodes are plugged in so (they are *a*), because nodes that answer each other within the call would
    recurse without end.
    """

    def to_b() -> Handler:
        if defer is None:
            return b.receive
        soon, receive = defer.soon, b.receive
        return lambda frame, offload: soon(receive, frame, offload)

    a.plug(to_b(), lambda: b.reroute(a.receive))
    b.plug(a.receive, lambda: a.reroute(to_b()))


def disconnect(a: Port, b: Port) -> None:
    """Take the cable between two ports away."""
    a.unplug()
    b.unplug()


@final
class Nesting:
    """Bounds how deep nodes call into each other within one event; one for each lab.

    A node whose handlers are guarded may be plugged in without *defer*: its frames arrive within the call, which saves an
    event for each. Where routers pass a frame in a circle, or stand in a long row, the innermost call becomes an event of
    the same instant before the stack gets deep.
    """

    __slots__ = ("_depth", "_scheduler")

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._depth = 0

    def guard(self, handler: Handler) -> Handler:
        """Wrap a port's handler."""
        soon = self._scheduler.soon

        def receive(frame: bytes, offload: bytes) -> None:
            if self._depth >= MAX_NESTING:
                soon(receive, frame, offload)
                return
            self._depth += 1
            try:
                handler(frame, offload)
            finally:
                self._depth -= 1

        return receive
