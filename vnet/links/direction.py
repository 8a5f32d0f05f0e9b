"""One way through a link: a queue that drains at the link's rate, the wire behind it, and what goes wrong there.

``send`` is the path of every hop, so it knows nothing of impairments but one flag: a direction that is lossy, otherwise
impaired or down takes frames by ``_send_impaired``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Final, cast, final

from vnet.errors import WireError
from vnet.links.impairments import Impairer, Impairments
from vnet.ports import NO_OFFLOAD, Handler, Randomness, Scheduler
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
    """One way through a link; *stream* gives the random stream of each purpose: ``loss``, ``delay-variation``, ..."""

    __slots__ = (
        "_busy_until", "_impaired", "_impairer", "_impairments", "_latency", "_loss", "_ns_per_queue", "_octet_dividend",
        "_octet_divisor", "_queue", "_random", "_rate", "_scheduler", "_stream", "_target", "_up",
        "delivered", "dropped_down", "dropped_loss", "dropped_malformed", "dropped_queue", "octets",
    )  # fmt: skip

    def __init__(self, scheduler: Scheduler, stream: Callable[[str], Randomness], target: Handler) -> None:
        self._scheduler = scheduler
        self._stream = stream
        self._random = stream("loss")
        self._impairer: Impairer | None = None  # made when first asked for, and kept: its streams and counts go on
        self._impairments: Impairer | None = None  # the same while it has something to do
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
        self._impaired = False  # lossy, impaired or down
        self.delivered = 0
        self.octets = 0
        self.dropped_queue = 0
        self.dropped_loss = 0
        self.dropped_down = 0
        self.dropped_malformed = 0

    def configure(self, rate: Rate | None, latency: Duration, loss: float, queue: Size, impairments: Impairments) -> None:
        """Set the model; frames that wait get new times, those on the wire keep theirs."""
        if impairments and self._impairer is None:
            self._impairer = Impairer(self._stream)
        if self._busy_until > self._scheduler.now:
            self._retime(rate, latency, bool(impairments))
        if self._impairer is not None:
            self._impairer.configure(impairments)
        self._impairments = self._impairer if impairments else None
        self._rate, self._latency, self._loss, self._queue = rate, latency, loss, queue
        self._note_impaired()
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

    @property
    def altered(self) -> dict[str, int]:
        """Frames that arrive otherwise than they were sent, by what was done to them."""
        impairer = self._impairer
        return {
            "reordered": impairer.reordered if impairer is not None else 0,
            "duplicated": impairer.duplicated if impairer is not None else 0,
            "corrupted": impairer.corrupted if impairer is not None else 0,
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
        self._note_impaired()
        if not up:
            if self._impairer is not None:
                self._impairer.forget()
            self.dropped_down += len(self._scheduler.withdraw(self._arrive))
            self._busy_until = self._scheduler.now

    def retarget(self, target: Handler) -> None:
        """Deliver to another handler from now on."""
        self._target = target

    def _note_impaired(self) -> None:
        self._impaired = bool(self._loss) or self._impairments is not None or not self._up

    def _send_impaired(self, frame: bytes, offload: bytes) -> None:
        if not self._up:
            self.dropped_down += 1
            return
        # Impairments strike frames as a wire carries them, so a super-frame is cut first.
        frames = [frame]
        if is_super(offload):
            try:
                frames, offload = complete(frame, offload), NO_OFFLOAD
            except WireError:
                self.dropped_malformed += 1
                return
        impairer = self._impairments
        self._impaired = False
        for single in frames:
            if self._loss and self._random.random() < self._loss:
                self.dropped_loss += 1
            elif impairer is None:
                self.send(single, offload)
            else:
                self._send_by(impairer, single, offload)
                if impairer.duplicates():
                    self._send_by(impairer, single, offload)
        self._impaired = True

    def _send_by(self, impairer: Impairer, frame: bytes, offload: bytes) -> None:
        """Queue one frame, which is no super-frame, and let it arrive as and when the impairer says."""
        damage = impairer.corrupts(frame)
        if damage:
            try:  # a checksum that is filled in later would hide the damage
                (frame,), offload = complete(frame, offload), NO_OFFLOAD
            except WireError:
                self.dropped_malformed += 1
                return
        departs = now = self._scheduler.now
        if self._rate is not None:
            size = (len(frame) if len(frame) > MIN_WIRE_FRAME else MIN_WIRE_FRAME) + WIRE_OVERHEAD
            departs = max(self._busy_until, now) + size * self._octet_dividend // self._octet_divisor
            if self._busy_until > now and departs - now > self._ns_per_queue:
                self.dropped_queue += 1
                return
            self._busy_until = departs
        if damage:
            frame = impairer.damage(frame)
        self._scheduler.at(impairer.arrival(departs, self._latency), self._arrive, frame, offload, departs)

    def _retime(self, rate: Rate | None, latency: Duration, impaired: bool) -> None:
        """Let what waits leave at the new rate: its time until departure is in proportion to the octets before it."""
        impairer = self._impairer if impaired or self._impairments is not None else None
        now = self._scheduler.now

        def rescale(departs: Instant) -> Instant:
            return now + (departs - now) * (self._rate or 0) // rate if rate else now

        if impairer is not None:
            impairer.forget()
        for arrives, args in self._scheduler.withdraw(self._arrive):
            frame, offload, departs = cast("tuple[bytes, bytes, Instant]", args)
            overtakes = arrives - departs < self._latency
            if departs > now:
                extra = arrives - departs - self._latency  # what delay variation added, or all of it taken away
                departs = rescale(departs)
                arrives = departs if overtakes else departs + latency + extra
            if impairer is not None and not overtakes:
                arrives = impairer.keep_order(arrives)
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
