"""A full-duplex link between two ports: rate, one-way delay, loss, a queue with tail drop, up and down.

Each direction is a FIFO that drains at *rate*, so a frame's departure is known the moment it is queued: one number,
``_busy_until``, stands for the whole queue, and a hop costs one event. Sizes count as on a wire: a frame is padded to 60
octets and takes 24 more for preamble, FCS and inter-frame gap (IEEE 802.3-2018, 3.1.1 and 4.4.2).

Words and units: *rate* in bit/s (None: unlimited), *latency* is the one-way delay in ns (RFC 7679), *loss* a ratio (RFC
7680), *queue* in octets on the wire, waiting and in transmission. What else may happen to
frames is told in ``vnet.links.impairments``; the queue and the wire are in ``vnet.links.direction``. All can change while
frames pass: what waits leaves at the new rate, what has left arrives when it would have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import final

from vnet.errors import UsageError
from vnet.links.checks import duration_of, rate_of, ratio_of, size_of
from vnet.links.direction import DEFAULT_QUEUE, Direction
from vnet.links.impairments import NO_IMPAIRMENTS, Impairments
from vnet.ports import Port, Randomness, Report, Scheduler, no_report
from vnet.units import Duration, Rate, Size


@final
class Link:
    """Two directions between two ports, with one setting for both.

    *stream* gives the random stream of each purpose and direction: ``loss-forward``, ``duplication-backward``, ...

    Setting an attribute takes effect at once; text such as "20ms", "5%" or "10mbit" will do as well as numbers. While the
    link has no rate, latency, loss or other impairment, a direction named *inline* hands its frames over within the
    call and is not counted here: so does the cable from a switch to a node, and both ways of a TAP's. Two emulated nodes
    must not both be inline: they would answer each other without end.
    """

    __slots__ = (
        "_impairments", "_inline_to_a", "_inline_to_b", "_is_powered", "_latency", "_loss", "_queue", "_rate", "_report",
        "_up", "a", "b", "backward", "forward", "is_unplugged", "name",
    )  # fmt: skip

    def __init__(
        self,
        scheduler: Scheduler,
        a: Port,
        b: Port,
        stream: Callable[[str], Randomness],
        *,
        name: str = "",
        rate: Rate | str | None = None,
        latency: Duration | str = 0,
        loss: float | str = 0.0,
        queue: Size | str | None = None,
        impairments: Impairments = NO_IMPAIRMENTS,
        inline_to_a: bool = False,
        inline_to_b: bool = False,
        report: Report = no_report,
    ) -> None:
        self.name = name or f"{a.name}--{b.name}"
        self.a, self.b = a, b
        self._report = report
        self._up = self._is_powered = True
        self.is_unplugged = False
        self._rate, self._latency = rate_of(rate), duration_of("latency", latency)
        self._loss, self._queue = ratio_of("loss", loss), DEFAULT_QUEUE if queue is None else size_of("queue", queue)
        self._impairments = impairments
        self._inline_to_a, self._inline_to_b = inline_to_a, inline_to_b
        self.forward = Direction(scheduler, lambda purpose: stream(f"{purpose}-forward"), b.receive)
        self.backward = Direction(scheduler, lambda purpose: stream(f"{purpose}-backward"), a.receive)
        a.plug(self.forward.send, self._wire)
        b.plug(self.backward.send, self._wire)
        self._configure()

    def _configure(self) -> None:
        self._check_plugged()
        for direction in (self.forward, self.backward):
            direction.configure(self._rate, self._latency, self._loss, self._queue, self._impairments)
        self._wire()

    def _wire(self) -> None:
        """Lead each end's frames to the other's present handler, through the model unless it has nothing to do."""
        self.forward.retarget(self.b.receive)
        self.backward.retarget(self.a.receive)
        ideal = self._up and self._rate is None and not (self._latency or self._loss or self._impairments)
        self.a.reroute(self.b.receive if ideal and self._inline_to_b else self.forward.send)
        self.b.reroute(self.a.receive if ideal and self._inline_to_a else self.backward.send)

    def _check_plugged(self) -> None:
        if self.is_unplugged:  # the ports may have another cable by now, which is none of its business
            raise UsageError(f"the link {self.name} was unplugged, and stays so; lab.links has what is plugged in now")

    def unplug(self) -> None:
        """Take the link away from both ports for good: settings raise UsageError after that. What is on its way is lost."""
        if self.is_unplugged:
            return
        self.is_unplugged, self._up = True, False
        self.forward.set_up(False)
        self.backward.set_up(False)
        self.a.unplug()
        self.b.unplug()

    @property
    def rate(self) -> Rate | None:
        """Bits per second each way; None is unlimited."""
        return self._rate

    @rate.setter
    def rate(self, value: Rate | str | None) -> None:
        self._rate = rate_of(value)
        self._configure()

    @property
    def latency(self) -> Duration:
        """One-way delay in nanoseconds."""
        return self._latency

    @latency.setter
    def latency(self, value: Duration | str) -> None:
        self._latency = duration_of("latency", value)
        self._configure()

    @property
    def loss(self) -> float:
        """Share of the frames that are lost, from 0 to 1."""
        return self._loss

    @loss.setter
    def loss(self, value: float | str) -> None:
        self._loss = ratio_of("loss", value)
        self._configure()

    @property
    def queue(self) -> Size:
        """Octets that may wait each way."""
        return self._queue

    @queue.setter
    def queue(self, value: Size | str) -> None:
        self._queue = size_of("queue", value)
        self._configure()

    @property
    def impairments(self) -> Impairments:
        """Delay variation, reordering, duplication and corruption together."""
        return self._impairments

    @impairments.setter
    def impairments(self, value: Impairments) -> None:
        self._impairments = value
        self._configure()

    @property
    def delay_variation(self) -> Duration:
        """Nanoseconds that the one-way delay varies by: each frame takes from *latency* to that much more (RFC 3393)."""
        return self._impairments.delay_variation

    @delay_variation.setter
    def delay_variation(self, value: Duration | str) -> None:
        self.impairments = replace(self._impairments, delay_variation=duration_of("delay variation", value))

    @property
    def reordering(self) -> float:
        """Share of the frames that overtake those on the wire, from 0 to 1 (RFC 4737)."""
        return self._impairments.reordering

    @reordering.setter
    def reordering(self, value: float | str) -> None:
        self.impairments = replace(self._impairments, reordering=ratio_of("reordering", value))

    @property
    def duplication(self) -> float:
        """Share of the frames that are sent twice, from 0 to 1 (RFC 5560)."""
        return self._impairments.duplication

    @duplication.setter
    def duplication(self, value: float | str) -> None:
        self.impairments = replace(self._impairments, duplication=ratio_of("duplication", value))

    @property
    def corruption(self) -> float:
        """Share of the frames in which a bit is flipped, from 0 to 1."""
        return self._impairments.corruption

    @corruption.setter
    def corruption(self, value: float | str) -> None:
        self.impairments = replace(self._impairments, corruption=ratio_of("corruption", value))

    @property
    def up(self) -> bool:
        """Whether the link carries frames; both ports see it as their carrier."""
        return self._up

    @up.setter
    def up(self, value: bool) -> None:
        if value not in (True, False):  # "down" would be true
            raise UsageError(f"a link is up, True, or down, False, not {value!r}")
        if value == self._up:
            return
        self._check_plugged()
        self._up = value
        self._report("link-up" if value else "link-down", link=self.name)
        self.forward.set_up(value)
        self.backward.set_up(value)
        self._wire()
        self.a.set_carrier(value)
        self.b.set_carrier(value and self._is_powered)

    def power(self, on: bool) -> None:
        """Give the node at the end *a* power, or none: without, the end *b* sees no carrier, as if nobody were there."""
        self._is_powered = on
        if not self.is_unplugged:
            self.b.set_carrier(on and self._up)
