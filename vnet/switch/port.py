"""A port of a switch: its VLAN configuration, its cached flows, its counters, and the frame path's first step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Final, final

from vnet.ports import NO_OFFLOAD, Handler, Port, Scheduler
from vnet.switch.vlan import Admit, VlanConfig
from vnet.wire.ethernet import MAX_FRAME
from vnet.wire.segmentation import largest_frame
from vnet.wire.vlan import TAG_OCTETS, is_tagged

if TYPE_CHECKING:
    from vnet.switch.flow import Flow
    from vnet.units import Size

MAX_FLOWS: Final = 4096
"""Cached decisions of one port; when there are more they are all forgotten and made anew."""
UNTAGGED_KEY: Final = 14
TAGGED_KEY: Final = 18
ONE_FRAME: Final = 1 << 48
"""One frame in a flow's tally: the octets stand below it, room for 256 TiB between two times of folding."""


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
            flow.fold()

    def forget_flows(self) -> None:
        """Drop all cached decisions, after adding up what they counted."""
        for flow in self.flows.values():
            flow.retire()
        self.flows.clear()

    def make_receiver(self, clock: Scheduler, decide: Callable[[SwitchPort, bytes, bytes], Flow]) -> Handler:
        """Build the handler for frames that arrive, the hottest code there is.

        A closure, because a local or cell variable costs a fraction of an attribute. A frame that a cached flow knows takes
        one slice, one look-up and two stores until it is handed on: frames and octets are counted in one number. On ports
        that carry tags the slice covers the tag: tagged frames are found at once and untagged ones at the second try; on
        access ports the other way round.
        """
        flows = self.flows
        header = slice(UNTAGGED_KEY if self.vlan.admit is Admit.UNTAGGED else TAGGED_KEY)
        tallies = tallies_up_to(self.max_frame)
        find = partial(self._find, decide)
        port = self

        def receive(frame: bytes, offload: bytes) -> None:
            try:
                flow = flows[frame[header]]
                flow.tally += tallies[len(frame)]
            except KeyError:  # an unknown frame; the try costs nothing while this does not happen
                found = find(frame, offload)
                if found is None:
                    return
                flow = found
            except IndexError:  # a super-frame, which pays for the exception once for dozens of frames, or one too long
                if not port.accepts(frame, offload):
                    return
                flow.tally += ONE_FRAME + len(frame)
            flow.source.seen = clock.now
            flow.send(frame, offload)

        return receive

    def accepts(self, frame: bytes, offload: bytes) -> bool:
        """Tell whether the frame, or each frame a super-frame stands for, is no longer than allowed; count it if not."""
        octets = len(frame)
        size = octets if offload == NO_OFFLOAD else largest_frame(frame, offload)
        if size <= self.max_frame + (TAG_OCTETS if is_tagged(frame) else 0):
            return True
        self.rx_frames += 1
        self.rx_octets += octets
        self.count_drop("oversize")
        return False

    def _find(self, decide: Callable[[SwitchPort, bytes, bytes], Flow], frame: bytes, offload: bytes) -> Flow | None:
        """Find the flow of a frame the long way and count the frame; None if it is too long: nothing is learned from it."""
        octets = len(frame)
        if octets > self.max_frame and not self.accepts(frame, offload):
            return None
        key = flow_key(frame)
        flow = self.flows.get(key) or decide(self, frame, key)
        flow.tally += ONE_FRAME + octets
        return flow


@cache
def tallies_up_to(size: Size) -> list[int]:
    """List what a frame of each size adds to a tally, once for all ports: a look-up is cheaper than the sum."""
    return [ONE_FRAME + octets for octets in range(size + 1)]


def flow_key(frame: bytes) -> bytes:
    """Cut off the octets that a decision rests on; all frames too short to have them share the empty key.

    A frame that ends inside its tag must not have a key of its own: it would be that of an access port's longer frames.
    """
    octets = TAGGED_KEY if is_tagged(frame) else UNTAGGED_KEY
    return frame[:octets] if len(frame) >= octets else b""


def nowhere(frame: bytes, offload: bytes) -> None:
    """Stand in for the receiver until the switch has made it, and after it took the port away."""
