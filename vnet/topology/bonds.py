"""Resolve the bonds of guests: their members' cables, and the options, which are those of the Linux bonding driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from vnet.stack.bond import MAX_MEMBERS, MAX_TARGETS, MIIMON
from vnet.topology.draft import Draft
from vnet.topology.model import Bond, BondMember, Guest, Impaired, Nic
from vnet.topology.problems import Path, suggestion
from vnet.topology.resolved import ResolvedBond, ResolvedCable
from vnet.topology.shape import numbered, placed
from vnet.topology.wiring import PortVlans
from vnet.units import MILLISECOND, Duration

MOST_ANNOUNCEMENTS: Final = 255

_MODE: Final = "active-backup"
_AGGREGATING: Final = ("balance-rr", "balance-xor", "broadcast", "balance-tlb", "balance-alb")


@final
@dataclass(frozen=True, slots=True)
class Owner:
    """The guest whose NICs are being resolved; ``taken`` are the names of its interfaces and NICs so far."""

    name: str
    model: Guest
    taken: set[str]


def resolve_bond(
    draft: Draft, owner: Owner, nic: Nic, names: tuple[str, int], path: Path, vlans: PortVlans
) -> ResolvedBond | None:
    """Plug the members of a bond in, and read its options; *names* are the bond's and the number of its first NIC."""
    bond = nic.bond
    assert bond is not None, "it is one"
    name, first = names
    place: Path = (*path, "bond")
    good = _has_no_cable(draft, nic, path)
    good &= _is_mode(draft, bond.mode, (*place, "mode"))
    good &= _has_members(draft, bond, place)
    members: list[ResolvedCable] = []
    for index, given in numbered(bond.members):
        member = BondMember(switch=given) if isinstance(given, str) else given
        spot: Path = (*place, "members", index)
        called = member.name or f"eth{first + index}"
        if called in (name, *owner.taken, *(each.name for each in members)):
            text = f"guest {owner.name!r} has a NIC called {called!r} already; choose another name"
            draft.problems.error("duplicate-name", (*spot, "name"), text)
            good = False
            continue
        switch = draft.wiring.find(
            (member.switch, spot if isinstance(given, str) else (*spot, "switch")),
            (nic.switch, (*path, "switch")),
            (owner.model.switch, ("guests", owner.name, "switch")),
        )
        cable = draft.reader.impairment(member, spot)
        members.append(ResolvedCable(called, cable, draft.wiring.plug(switch, "guest", owner.name, called, vlans)))
    resolved = _options(draft, bond, tuple(members), place)
    return resolved if good and members else None


def _has_no_cable(draft: Draft, nic: Nic, path: Path) -> bool:
    """Check that nothing is said of a bond that only its members have."""
    given = [key for key in Impaired.__struct_fields__ if getattr(nic, key) is not None]
    for key in given:
        text = f"a bond has no cable of its own; write {key} with its members"
        draft.problems.error("bad-bond", (*path, key), text, key=True)
    return not given


def _is_mode(draft: Draft, mode: str, path: Path) -> bool:
    if mode == _MODE:
        return True
    if mode == "802.3ad":
        text = "802.3ad needs switches that speak LACP, and these do not yet; there is active-backup"
    elif mode in _AGGREGATING:
        text = f"{mode} needs switches that aggregate links, or moves one MAC address between ports; there is active-backup"
    else:
        text = f"there is no mode {mode[:40]!r}; {suggestion(mode, [_MODE])}"
    draft.problems.error("bond-mode", path, text)
    return False


def _has_members(draft: Draft, bond: Bond, place: Path) -> bool:
    if draft.problems.lost((*place, "members")) or 2 <= len(bond.members) <= MAX_MEMBERS:
        return True
    text = f"a bond has 2 to {MAX_MEMBERS} members, not {len(bond.members)}"
    text += "; write such a NIC without bond" if len(bond.members) == 1 else ""
    draft.problems.error("bad-bond", (*place, "members"), text, key=True)
    return False


def _options(draft: Draft, bond: Bond, members: tuple[ResolvedCable, ...], place: Path) -> ResolvedBond:
    reader = draft.reader
    monitors_arp = bond.arp_interval is not None or bond.arp_ip_target is not None
    miimon = 0 if monitors_arp else _not_zero(draft, bond.miimon, (*place, "miimon"), MIIMON)
    if monitors_arp:
        _check_arp(draft, bond, place)
    delays = {
        key: _milliseconds(draft, getattr(bond, key), (*place, key), 0) for key in ("updelay", "downdelay")
    }  # fmt: skip
    for key, delay in delays.items():
        if miimon and delay % miimon:
            text = "delays are whole numbers of miimon; it is rounded down"
            draft.problems.warning("bond-delay", (*place, key), text)
    targets = [
        address
        for spot, text in placed(bond.arp_ip_target, (*place, "arp_ip_target"))
        if (address := reader.address4(text, spot)) is not None
    ]
    if len(targets) > MAX_TARGETS:
        text = f"{len(targets)} targets are more than the {MAX_TARGETS} that a bond may have"
        draft.problems.error("bad-bond", (*place, "arp_ip_target"), text, key=True)
    if bond.primary is None and bond.primary_reselect is not None:
        text = "without a primary there is none to choose again; give primary: the name of a member"
        draft.problems.warning("idle-bond-key", (*place, "primary_reselect"), text, key=True)
    return ResolvedBond(
        mode=_MODE,
        members=members,
        miimon=miimon,
        updelay=delays["updelay"],
        downdelay=delays["downdelay"],
        primary=_primary(draft, bond, members, (*place, "primary")),
        primary_reselect=bond.primary_reselect or "always",
        num_grat_arp=reader.whole(bond.num_grat_arp, (*place, "num_grat_arp"), 0, MOST_ANNOUNCEMENTS, 1),
        arp_interval=_not_zero(draft, bond.arp_interval, (*place, "arp_interval"), 0),
        arp_ip_target=tuple(targets),
        arp_validate=bond.arp_validate or "none",
    )


def _check_arp(draft: Draft, bond: Bond, place: Path) -> None:
    """Check that ARP monitoring has all it needs, and nothing that belongs to miimon."""
    if bond.arp_interval is None:
        text = "arp_ip_target goes with arp_interval; give both, or neither"
        draft.problems.error("bad-bond", (*place, "arp_ip_target"), text, key=True)
    if not bond.arp_ip_target:
        text = "arp_interval needs somebody to ask; give arp_ip_target: the address of a router, for instance"
        draft.problems.error("bad-bond", (*place, "arp_interval"), text, key=True)
    for key in ("miimon", "updelay", "downdelay"):
        if getattr(bond, key) is not None:
            text = f"{key} watches carriers, and arp_interval watches by ARP; give one of the two"
            draft.problems.error("bad-bond", (*place, key), text, key=True)


def _milliseconds(draft: Draft, text: str | None, path: Path, default: Duration) -> Duration:
    """Read a time of the bonding driver, which counts in milliseconds; shorter ones would leave time for nothing else."""
    value = draft.reader.duration(text, path, default)
    if value % MILLISECOND:
        draft.problems.error("bad-bond", path, "bonds count in milliseconds; write a whole number of them, such as 100ms")
        return default
    return value


def _not_zero(draft: Draft, text: str | None, path: Path, default: Duration) -> Duration:
    value = _milliseconds(draft, text, path, default)
    if text is not None and value == 0 and not draft.problems.lost(path):
        draft.problems.error("bad-bond", path, "0 would never look at the links; write one such as 100ms")
        return default
    return value


def _primary(draft: Draft, bond: Bond, members: tuple[ResolvedCable, ...], path: Path) -> int | None:
    names = [member.name for member in members]
    if bond.primary is None or bond.primary in names:
        return None if bond.primary is None else names.index(bond.primary)
    if not draft.problems.lost((*path[:-1], "members")):
        text = f"the bond has no member {bond.primary[:40]!r}; {suggestion(bond.primary, names)}"
        draft.problems.error("bad-bond", path, text)
    return None
