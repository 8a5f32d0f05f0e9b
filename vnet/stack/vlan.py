"""VLAN sub-interfaces: what an interface does with tagged frames (IEEE 802.1Q-2018, 6.9 and clause 9).

A sub-interface is an ``Interface`` as any other, with addresses, neighbors and groups of its own; only its port has no
cable. What it sends gets a C-tag with its VID and goes out by the parent; what the parent receives with that tag comes in by
the sub-interface's port without it. So DHCP, IPv6 and sockets find nothing unusual there. Untagged and priority-tagged
frames are the parent's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from vnet.errors import UsageError, WireError
from vnet.ports import NO_OFFLOAD, Handler
from vnet.wire.ethernet import ETHERTYPE_SVLAN, ETHERTYPE_VLAN, HEADER_OCTETS
from vnet.wire.virtio_net import shift
from vnet.wire.vlan import MAX_VID, PRIORITY_VID, TAG_OCTETS, VID_MASK

if TYPE_CHECKING:
    from vnet.stack.interface import Interface

_TAGGED_HEADER: Final = HEADER_OCTETS + TAG_OCTETS
_TAGS: Final = frozenset({ETHERTYPE_VLAN, ETHERTYPE_SVLAN})
"""What an EtherType behind a tag means that there is a second one: C-tag and S-tag."""


@final
class VlanTable:
    """The sub-interfaces of one interface, by VID."""

    __slots__ = ("_parent", "members")

    def __init__(self, parent: Interface) -> None:
        self._parent = parent
        self.members: dict[int, Interface] = {}

    def check(self, vid: int) -> None:
        """Raise UsageError if there can be no further sub-interface with this VID."""
        if not 1 <= vid <= MAX_VID:
            raise UsageError(f"{vid} is not a VLAN number: those are 1 to {MAX_VID}")
        if vid in self.members:
            raise UsageError(f"{self._parent.port.name} has a sub-interface on VLAN {vid} already")

    def add(self, vid: int, member: Interface) -> None:
        """Send what *member* sends with this VID, and give it what comes so."""
        self.members[vid] = member
        member.port.reroute(self._tagger(vid))
        member.port.set_carrier(self._parent.up)

    def carrier(self, up: bool) -> None:
        """Pass on that the parent's cable went in or out."""
        for member in self.members.values():
            member.port.set_carrier(up)

    def _tagger(self, vid: int) -> Handler:
        parent = self._parent
        tag = ETHERTYPE_VLAN + vid.to_bytes(2, "big")  # PCP 0: nothing above asks for a priority yet

        def send(frame: bytes, offload: bytes) -> None:
            moved = offload if offload == NO_OFFLOAD else shift(offload, TAG_OCTETS)
            parent.port.send(frame[:12] + tag + frame[12:], moved)

        return send


def receive_tagged(interface: Interface, frame: bytes, offload: bytes) -> None:
    """Take a frame with a C-tag: it is the interface's own with VID 0 (6.9.1), a sub-interface's with that one's VID.

    Frames with two tags, and those of VLANs without a sub-interface, are dropped and counted. The offsets of pending
    checksums and segmentation move with what is behind the tag.
    """
    host = interface.host
    if len(frame) < _TAGGED_HEADER:
        host.drop("short-frame")
        return
    if frame[16:18] in _TAGS:
        host.drop("vlan-stacked")
        return
    vid = (frame[14] << 8 | frame[15]) & VID_MASK
    if vid != PRIORITY_VID and (interface.vlans is None or vid not in interface.vlans.members):
        host.drop("vlan-unknown")
        return
    if offload != NO_OFFLOAD:
        try:
            offload = shift(offload, -TAG_OCTETS)
        except WireError:
            host.drop("offload-malformed")
            return
    plain = frame[:12] + frame[16:]
    if vid == PRIORITY_VID:
        interface.receive(plain, offload)
    elif interface.vlans is not None:
        interface.vlans.members[vid].port.receive(plain, offload)
