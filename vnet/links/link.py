"""A full-duplex link between two ports: rate, one-way delay, loss, a queue with tail drop, up and down.

Each direction is a FIFO that drains at *rate*, so a frame's departure is known the moment it is queued: one number,
``_busy_until``, stands for the whole queue, and a hop costs one event. Sizes count as on a wire: a frame is padded to 60
octets and takes 24 more for preamble, FCS and inter-frame gap (IEEE 802.3-2018, 3.1.1 and 4.4.2).

Words and units: *rate* in bit/s (None: unlimited), *latency* is the one-way delay in ns (RFC 7679), *loss* a ratio (RFC
7680), *queue* in octets on the wire, waiting and in transmission. All can change while frames pass: what waits leaves at the
new rate, what has left arrives when it would have.
"""

from __future__ import annotations

from math import gcd
from typing import Final, cast, final

from vnet.errors import UsageError, WireError
from vnet.ports import NO_OFFLOAD, Handler, Port, Randomness, Report, Scheduler, no_report
from vnet.units import SECOND, Duration, Instant, Rate, Size
from vnet.wire.segmentation import complete, frame_count, largest_frame, wire_octets
from vnet.wire.virtio_net import is_super

DEFAULT_QUEUE: Final = 256 * 1024
"""Octets that wait at most for a link with a rate: about 170 full frames."""
WIRE_OVERHEAD: Final = 24
"""Octets a frame takes on the wire beside its own: preamble and SFD 8, FCS 4, inter-frame gap 12."""
MIN_WIRE_FRAME: Final = 60
"""Octets to which a frame is padded, FCS not counted."""

_NS_PER_OCTET_AT_1_BPS: Final = 8 * SECOND


@final
class Direction:
    """One way through a link."""

    __slots__ = (
        "_busy_until", "_impaired", "_latency", "_loss", "_ns_per_queue", "_octet_dividend", "_octet_divisor", "_queue",
        "_random", "_rate", "_scheduler", "_target", "_up",
        "delivered", "dropped_down", "dropped_loss", "dropped_malformed", "dropped_queue", "octets",
    )  # fmt: skip

    def __init__(self, scheduler: Scheduler, random: Randomness, target: Handler) -> None:
        self._scheduler = scheduler
        self._random = random
        self._target = target
        self._rate: Rate | None = None
        self._latency: Duration = 0
        self._loss = 0.0
        self._queue: Size = DEFAULT_QUEUE
        self._ns_per_queue = 0
        self._octet_dividend = self._octet_divisor = (
            1  # ns per octet, in lowest terms: small numbers are quick to reckon with
        )
        self._busy_until = 0
        self._up = True
        self._impaired = False  # lossy or down
        self.delivered = 0
        self.octets = 0
        self.dropped_queue = 0
        self.dropped_loss = 0
        self.dropped_down = 0
        self.dropped_malformed = 0

    def configure(self, rate: Rate | None, latency: Duration, loss: float, queue: Size) -> None:
        """Set the model; frames that wait get new times, those on the wire keep theirs."""
        if self._busy_until > self._scheduler.now:
            self._retime(rate, latency)
        self._rate, self._latency, self._loss, self._queue = rate, latency, loss, queue
        self._impaired = bool(loss) or not self._up
        if rate:
            common = gcd(_NS_PER_OCTET_AT_1_BPS, rate)
            self._octet_dividend, self._octet_divisor = _NS_PER_OCTET_AT_1_BPS // common, rate // common
        self._ns_per_queue = queue * _NS_PER_OCTET_AT_1_BPS // rate if rate else 0

    @property
    def drops(self) -> dict[str, int]:
        """Frames that did not arrive, by reason."""
        return {
            "queue-full": self.dropped_queue,
            "loss": self.dropped_loss,
            "link-down": self.dropped_down,
            "malformed-offload": self.dropped_malformed,
        }

    def backlog(self) -> Size:
        """Tell how many octets are queued now."""
        waiting = self._busy_until - self._scheduler.now
        return waiting * self._rate // _NS_PER_OCTET_AT_1_BPS if self._rate and waiting > 0 else 0

    def send(self, frame: bytes, offload: bytes) -> None:
        """Take a frame from the near end."""
        if self._impaired:
            self._send_impaired(frame, offload)
            return
        scheduler = self._scheduler
        now = scheduler.now
        rate = self._rate
        if rate is None:
            scheduler.at(now + self._latency, self._arrive, frame, offload, now)
            return
        if offload[1]:
            size = _size_on_wire(frame, offload)
        else:
            size = len(frame)
            size = (size if size > MIN_WIRE_FRAME else MIN_WIRE_FRAME) + WIRE_OVERHEAD
        busy = self._busy_until
        if busy <= now:
            busy = now + size * self._octet_dividend // self._octet_divisor
        else:
            busy += size * self._octet_dividend // self._octet_divisor
            if busy - now > self._ns_per_queue:
                self.dropped_queue += 1
                return
        self._busy_until = busy
        scheduler.at(busy + self._latency, self._arrive, frame, offload, busy)

    def set_up(self, up: bool) -> None:
        """Cut or mend: what is queued or on its way when the link is cut never arrives."""
        self._up = up
        self._impaired = bool(self._loss) or not up
        if not up:
            self.dropped_down += len(self._scheduler.withdraw(self._arrive))
            self._busy_until = self._scheduler.now

    def retarget(self, target: Handler) -> None:
        """Deliver to another handler from now on."""
        self._target = target

    def _send_impaired(self, frame: bytes, offload: bytes) -> None:
        if not self._up:
            self.dropped_down += 1
            return
        # Loss strikes frames as a wire carries them, so a super-frame is cut first.
        frames = [frame]
        if is_super(offload):
            try:
                frames, offload = complete(frame, offload), NO_OFFLOAD
            except WireError:
                self.dropped_malformed += 1
                return
        self._impaired = False
        for single in frames:
            if self._random.random() < self._loss:
                self.dropped_loss += 1
            else:
                self.send(single, offload)
        self._impaired = True

    def _retime(self, rate: Rate | None, latency: Duration) -> None:
        """Let what waits leave at the new rate: its time until departure is in proportion to the octets before it."""
        now = self._scheduler.now

        def rescale(departs: Instant) -> Instant:
            return now + (departs - now) * (self._rate or 0) // rate if rate else now

        for arrives, args in self._scheduler.withdraw(self._arrive):
            frame, offload, departs = cast("tuple[bytes, bytes, Instant]", args)
            if departs > now:
                departs = rescale(departs)
                arrives = departs + latency
            self._scheduler.at(arrives, self._arrive, frame, offload, departs)
        self._busy_until = rescale(self._busy_until)

    def _arrive(self, frame: bytes, offload: bytes, departed: Instant) -> None:
        self.delivered += 1
        self.octets += len(frame)
        self._target(frame, offload)


def _size_on_wire(frame: bytes, offload: bytes) -> Size:
    """Count what a super-frame takes on the wire once cut, as if each of its frames were sent by itself."""
    count = frame_count(frame, offload)
    octets = wire_octets(frame, offload)
    last = octets - (count - 1) * largest_frame(frame, offload)
    return octets + max(0, MIN_WIRE_FRAME - last) + count * WIRE_OVERHEAD


def _check(rate: Rate | None, latency: Duration, loss: float, queue: Size) -> None:
    if rate is not None and rate <= 0:
        raise UsageError("a link's rate is more than 0 bit/s")
    if latency < 0:
        raise UsageError("a link's latency is not negative")
    if not 0 <= loss <= 1:
        raise UsageError("a link's loss is a ratio from 0 to 1, or a percentage")
    if queue < 0:
        raise UsageError("a link's queue is not negative")


@final
class Link:
    """Two directions between two ports, with one setting for both.

    Setting an attribute takes effect at once. While the link has no rate, latency or loss, a direction named *inline* hands
    its frames over within the call and is not counted here: so does the cable from a switch to a node, and both ways of a
    TAP's. Two emulated nodes must not both be inline: they would answer each other without end.
    """

    __slots__ = (
        "_inline_to_a", "_inline_to_b", "_latency", "_loss", "_queue", "_rate", "_report", "_up",
        "a", "b", "backward", "forward", "name",
    )  # fmt: skip

    def __init__(
        self,
        scheduler: Scheduler,
        a: Port,
        b: Port,
        randoms: tuple[Randomness, Randomness],
        *,
        name: str = "",
        rate: Rate | None = None,
        latency: Duration = 0,
        loss: float = 0.0,
        queue: Size | None = None,
        inline_to_a: bool = False,
        inline_to_b: bool = False,
        report: Report = no_report,
    ) -> None:
        self.name = name or f"{a.name}--{b.name}"
        self.a, self.b = a, b
        self._report = report
        self._up = True
        queue = DEFAULT_QUEUE if queue is None else queue
        _check(rate, latency, loss, queue)
        self._rate, self._latency, self._loss, self._queue = rate, latency, loss, queue
        self._inline_to_a, self._inline_to_b = inline_to_a, inline_to_b
        self.forward = Direction(scheduler, randoms[0], b.receive)
        self.backward = Direction(scheduler, randoms[1], a.receive)
        a.plug(self.forward.send, self._wire)
        b.plug(self.backward.send, self._wire)
        self._configure()

    def _configure(self) -> None:
        for direction in (self.forward, self.backward):
            direction.configure(self._rate, self._latency, self._loss, self._queue)
        self._wire()

    def _wire(self) -> None:
        """Lead each end's frames to the other's present handler, through the model unless it has nothing to do."""
        self.forward.retarget(self.b.receive)
        self.backward.retarget(self.a.receive)
        ideal = self._up and self._rate is None and not self._latency and not self._loss
        self.a.reroute(self.b.receive if ideal and self._inline_to_b else self.forward.send)
        self.b.reroute(self.a.receive if ideal and self._inline_to_a else self.backward.send)

    def unplug(self) -> None:
        """Take the link away from both ports; what is on its way is lost."""
        self.forward.set_up(False)
        self.backward.set_up(False)
        self.a.unplug()
        self.b.unplug()

    @property
    def rate(self) -> Rate | None:
        """Bits per second each way; None is unlimited."""
        return self._rate

    @rate.setter
    def rate(self, value: Rate | None) -> None:
        _check(value, self._latency, self._loss, self._queue)
        self._rate = value
        self._configure()

    @property
    def latency(self) -> Duration:
        """One-way delay in nanoseconds."""
        return self._latency

    @latency.setter
    def latency(self, value: Duration) -> None:
        _check(self._rate, value, self._loss, self._queue)
        self._latency = value
        self._configure()

    @property
    def loss(self) -> float:
        """Share of the frames that are lost, from 0 to 1."""
        return self._loss

    @loss.setter
    def loss(self, value: float) -> None:
        _check(self._rate, self._latency, value, self._queue)
        self._loss = value
        self._configure()

    @property
    def queue(self) -> Size:
        """Octets that may wait each way."""
        return self._queue

    @queue.setter
    def queue(self, value: Size) -> None:
        _check(self._rate, self._latency, self._loss, value)
        self._queue = value
        self._configure()

    @property
    def up(self) -> bool:
        """Whether the link carries frames; both ports see it as their carrier."""
        return self._up

    @up.setter
    def up(self, value: bool) -> None:
        if value == self._up:
            return
        self._up = value
        self._report("link-up" if value else "link-down", link=self.name)
        self.forward.set_up(value)
        self.backward.set_up(value)
        self._wire()
        self.a.set_carrier(value)
        self.b.set_carrier(value)
