"""What a switch does with a frame that no cached flow knows: the stages of IEEE 802.1Q-2018, 8.6, in order.

Each stage either names a reason to drop the frame or leaves it to the next. ``STAGES`` is the whole ingress side; learning,
look-up and egress follow in ``Switch.decide``. Priority and drop eligibility (PCP, DEI) are kept as they came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

from vnet.addresses import ZERO_MAC, is_group, is_reserved
from vnet.switch.port import SwitchPort
from vnet.switch.vlan import Admit
from vnet.wire.ethernet import MIN_FRAME
from vnet.wire.vlan import PRIORITY_VID, RESERVED_VID, VID_MASK, is_tagged, tci

RUNT: Final = "runt"
RESERVED_ADDRESS: Final = "reserved-address"
BAD_SOURCE: Final = "bad-source"
RESERVED_VLAN: Final = "reserved-vid"
NOT_ADMITTED: Final = "frame-type"
NOT_MEMBER: Final = "ingress-filter"
PORT_DOWN: Final = "port-down"
NO_EGRESS: Final = "no-egress"
SAME_PORT: Final = "same-port"


@final
class Ingress:
    """What the stages find out about a frame: its VID once classified, and its priority bits."""

    __slots__ = ("frame", "port", "priority", "tagged", "vid")

    def __init__(self, port: SwitchPort, frame: bytes) -> None:
        self.port = port
        self.frame = frame
        self.tagged = is_tagged(frame)
        self.vid = 0
        self.priority = 0


Stage = Callable[[Ingress], str | None]


def port_state(ingress: Ingress) -> str | None:
    """Drop what a disabled port receives."""
    return None if ingress.port.enabled else PORT_DOWN


def size(ingress: Ingress) -> str | None:
    """Drop frames too short to hold a header, or the tag that they announce."""
    return RUNT if len(ingress.frame) < (MIN_FRAME + 4 if ingress.tagged else MIN_FRAME) else None


def addresses(ingress: Ingress) -> str | None:
    """Keep link-local protocols on their link (8.6.3) and refuse sources that are no station's address."""
    frame = ingress.frame
    if is_reserved(frame[:6]):
        return RESERVED_ADDRESS
    source = frame[6:12]
    return BAD_SOURCE if is_group(source) or source == ZERO_MAC else None


def classify(ingress: Ingress) -> str | None:
    """Find the frame's VLAN (6.9): its own VID, or the PVID if it is untagged or priority-tagged."""
    vlan = ingress.port.vlan
    tag = tci(ingress.frame) if ingress.tagged else 0
    vid = tag & VID_MASK
    if vid == RESERVED_VID:
        return RESERVED_VLAN
    ingress.priority = tag & ~VID_MASK
    if vid == PRIORITY_VID:
        if vlan.admit is Admit.TAGGED or vlan.pvid is None:
            return NOT_ADMITTED
        ingress.vid = vlan.pvid
        return None
    if vlan.admit is Admit.UNTAGGED:
        return NOT_ADMITTED
    ingress.vid = vid
    return None


def membership(ingress: Ingress) -> str | None:
    """Filter on ingress (8.6.2): the port must be in the member set of the frame's VLAN."""
    return None if ingress.port.vlan.is_member(ingress.vid) else NOT_MEMBER


STAGES: Final[tuple[Stage, ...]] = (port_state, size, addresses, classify, membership)


def run(ingress: Ingress) -> str | None:
    """Run the stages until one names a reason to drop the frame."""
    for stage in STAGES:
        reason = stage(ingress)
        if reason is not None:
            return reason
    return None
