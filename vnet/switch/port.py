"""A port of a switch: its VLAN configuration, its cached flows, its counters, and the frame path's first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from vnet.ports import NO_OFFLOAD, Handler, Port, Scheduler
from vnet.switch.vlan import Admit, VlanConfig
from vnet.wire.ethernet import MAX_FRAME
from vnet.wire.segmentation import largest_frame
from vnet.wire.vlan import TAG_OCTETS, is_tagged

if TYPE_CHECKING:
    from vnet.switch.flow import Flow

MAX_FLOWS: Final = 4096
"""Cached decisions of one port; when there are more they are all forgotten and made anew."""
UNTAGGED_KEY: Final = 14
TAGGED_KEY: Final = 18


@final
class SwitchPort:
    """One numbered port. ``port`` is its face to the cable.

    Octets are counted as the frames cross the switch: a super-frame is one frame of its own length.
    """

    __slots__ = (
        "drops", "enabled", "flows", "max_frame", "name", "number", "port", "rx_frames", "rx_octets",
        "tx_frames", "tx_octets", "vlan",
    )  # fmt: skip

    def __init__(self, number: int, name: str, switch: str, vlan: VlanConfig, max_frame: int = MAX_FRAME) -> None:
        self.number = number
        self.name = name
        self.vlan = vlan
        self.max_frame = max_frame
        self.enabled = True
        self.flows: dict[bytes, Flow] = {}
        self.drops: dict[str, int] = {}
        self.rx_frames = 0
        self.rx_octets = 0
        self.tx_frames = 0
        self.tx_octets = 0
        self.port = Port(f"{switch}:{name}", nowhere)

    @property
    def is_up(self) -> bool:
        """Whether frames pass: enabled, with a carrier."""
        return self.enabled and self.port.carrier

    def count_drop(self, reason: str, frames: int = 1) -> None:
        """Count frames that came in and went nowhere."""
        self.drops[reason] = self.drops.get(reason, 0) + frames

    def fold(self) -> None:
        """Bring the counters up to date with the flows."""
        for flow in self.flows.values():
            flow.fold(self)

    def forget_flows(self) -> None:
        """Drop all cached decisions, after adding up what they counted."""
        if self.flows:
            self.fold()
            self.flows.clear()

    def fits(self, frame: bytes, offload: bytes) -> bool:
        """Tell whether the frame, or each frame a super-frame stands for, is within the largest size plus tag."""
        size = len(frame) if offload == NO_OFFLOAD else largest_frame(frame, offload)
        return size <= self.max_frame + (TAG_OCTETS if is_tagged(frame) else 0)

    def make_receiver(self, clock: Scheduler, decide: Callable[[SwitchPort, bytes, bytes], Flow]) -> Handler:
        """Build the handler for frames that arrive, the hottest code there is.

        A closure, because a local or cell variable costs a fraction of an attribute. A frame that a cached flow knows takes
        one slice, one look-up and three stores until it is handed on. On ports that carry tags the first slice covers the
        tag: tagged frames are found at once and untagged ones at the second try; on access ports the other way round.
        """
        flows = self.flows
        header = slice(UNTAGGED_KEY if self.vlan.admit is Admit.UNTAGGED else TAGGED_KEY)
        limit = self.max_frame
        port = self

        def receive(frame: bytes, offload: bytes) -> None:
            octets = len(frame)
            if octets > limit and not port.fits(frame, offload):  # first of all: nothing is learned from such a frame
                port.rx_frames += 1
                port.rx_octets += octets
                port.count_drop("oversize")
                return
            try:
                flow = flows[frame[header]]
            except KeyError:  # the rare case: costs nothing while it does not happen
                key = flow_key(frame)
                flow = flows.get(key) or decide(port, frame, key)
            flow.frames += 1
            flow.octets += octets
            flow.source.seen = clock.now
            flow.send(frame, offload)

        return receive


def flow_key(frame: bytes) -> bytes:
    """Cut off the octets that a decision rests on; all frames too short to have them share the empty key.

    A frame that ends inside its tag must not have a key of its own: it would be that of an access port's longer frames.
    """
    octets = TAGGED_KEY if is_tagged(frame) else UNTAGGED_KEY
    return frame[:octets] if len(frame) >= octets else b""


def nowhere(frame: bytes, offload: bytes) -> None:
    """Stand in for the receiver until the switch has made it, and after it took the port away."""
