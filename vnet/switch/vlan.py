"""How a port takes part in VLANs: PVID, member set, untagged set, acceptable frame types (IEEE 802.1Q-2018, 6.9, 8.6)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import final

from vnet.wire.vlan import DEFAULT_VID, MAX_VID


class Admit(Enum):
    """Acceptable frame types (6.9)."""

    ALL = "all"
    UNTAGGED = "untagged"
    """Untagged and priority-tagged frames only."""
    TAGGED = "tagged"
    """VLAN-tagged frames only."""


@final
@dataclass(frozen=True, slots=True)
class VlanConfig:
    """The VLAN side of one port.

    *pvid* is the VID of untagged and priority-tagged frames received, *members* the VIDs that pass in and out (None: all),
    *untagged* those sent without a tag.
    """

    pvid: int | None = DEFAULT_VID
    members: frozenset[int] | None = frozenset((DEFAULT_VID,))
    untagged: frozenset[int] = frozenset((DEFAULT_VID,))
    admit: Admit = Admit.UNTAGGED

    def __post_init__(self) -> None:
        """Refuse VIDs that no frame can carry."""
        vids = self.untagged | (self.members or frozenset()) | ({self.pvid} if self.pvid is not None else frozenset())
        if any(not 1 <= vid <= MAX_VID for vid in vids):
            raise ValueError(f"a VID is 1 to {MAX_VID}")

    def is_member(self, vid: int) -> bool:
        """Tell whether frames of *vid* pass through the port."""
        return self.members is None or vid in self.members


def access(vid: int) -> VlanConfig:
    """Make an access port: one VLAN, sent untagged; tagged frames are refused."""
    return VlanConfig(vid, frozenset((vid,)), frozenset((vid,)), Admit.UNTAGGED)


def trunk(vids: frozenset[int] | None = None, native: int | None = None) -> VlanConfig:
    """Make a trunk port: many VLANs tagged (None: all), and the native VLAN, if there is one, untagged."""
    if native is None:
        return VlanConfig(None, vids, frozenset(), Admit.TAGGED)
    members = None if vids is None else vids | {native}
    return VlanConfig(native, members, frozenset((native,)), Admit.ALL)
