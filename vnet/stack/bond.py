"""Bonding of NICs, mode active-backup: one member carries the traffic, another takes over when its link fails.

After the Linux bonding driver (Documentation/networking/bonding.rst), in its words and with its rules. ``Bond`` is told of
carriers and of frames that were heard, and says which member is active, when to announce the addresses anew, and by which
member to send ARP requests. It neither sends nor receives: that is ``bonded_nics``.

The link of a member is watched in one of two ways. With *miimon* its carrier is looked at that often; here a look is taken
only after a change, at the next instant that is a multiple of miimon, so an idle lab stays idle. With *arp_interval* the
active member sends ARP requests to the targets that often, and a member counts as up while it hears anything (or, with
*arp_validate*, the right ARP packets): so a failure beyond the first switch is noticed too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Literal, TypeAlias, final

from vnet.units import MILLISECOND, Duration, Instant, Rate

MIIMON: Final[Duration] = 100 * MILLISECOND
"""What the Linux documentation calls a good starting point; its own default, 0, notices nothing."""
MISSED_MAX: Final = 2
"""Intervals in which the active member may hear nothing before it counts as down (arp_missed_max)."""
MAX_MEMBERS: Final = 16
MAX_TARGETS: Final = 16
"""BOND_MAX_ARP_TARGETS."""

Reselect: TypeAlias = Literal["always", "better", "failure"]
Validate: TypeAlias = Literal["none", "active", "backup", "all"]


class LinkState(Enum):
    """How the link of a member stands, in the driver's words."""

    UP = auto()
    FAIL = auto()
    """Its carrier is gone, and downdelay runs: it goes on to be used."""
    DOWN = auto()
    BACK = auto()
    """Its carrier is back, and updelay runs."""


class Event(Enum):
    """What a look at a member's link finds."""

    GOOD = auto()
    BAD = auto()
    OVER = auto()
    """The delay is over."""


TRANSITIONS: Final[Mapping[tuple[LinkState, Event], LinkState]] = {
    (LinkState.UP, Event.GOOD): LinkState.UP,
    (LinkState.UP, Event.BAD): LinkState.FAIL,
    (LinkState.FAIL, Event.GOOD): LinkState.UP,
    (LinkState.FAIL, Event.BAD): LinkState.FAIL,
    (LinkState.FAIL, Event.OVER): LinkState.DOWN,
    (LinkState.DOWN, Event.GOOD): LinkState.BACK,
    (LinkState.DOWN, Event.BAD): LinkState.DOWN,
    (LinkState.BACK, Event.GOOD): LinkState.BACK,
    (LinkState.BACK, Event.BAD): LinkState.DOWN,
    (LinkState.BACK, Event.OVER): LinkState.UP,
}
IMPOSSIBLE: Final = frozenset({(LinkState.UP, Event.OVER), (LinkState.DOWN, Event.OVER)})
"""No delay runs in these states; a test checks that the two together are all pairs."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BondConfig:
    """The options of a bond, named as in Linux; *primary* is a member's index. Either *miimon* or *arp_interval* is 0."""

    miimon: Duration = MIIMON
    updelay: Duration = 0
    downdelay: Duration = 0
    primary: int | None = None
    primary_reselect: Reselect = "always"
    num_grat_arp: int = 1
    arp_interval: Duration = 0
    arp_targets: tuple[bytes, ...] = ()
    arp_validate: Validate = "none"


@final
@dataclass(frozen=True, slots=True)
class Activate:
    """Send and receive by this member from now on; by none if it is None."""

    member: int | None


@final
@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the link where our addresses are: gratuitous ARP and unsolicited neighbor advertisements."""


@final
@dataclass(frozen=True, slots=True)
class Probe:
    """Send an ARP request for each target by this member."""

    member: int


Effect: TypeAlias = Activate | Announce | Probe


@final
class _Member:
    """One NIC: ``carrier`` is None before its first cable, ``until`` ends the delay that runs."""

    __slots__ = ("carrier", "heard_at", "speed", "state", "until", "up_since")

    def __init__(self, speed: Rate | None) -> None:
        self.speed = float("inf") if speed is None else speed
        self.carrier: bool | None = None
        self.state = LinkState.DOWN
        self.until: Instant | None = None
        self.up_since: Instant = 0
        self.heard_at: Instant | None = None


@final
class Bond:
    """One bond; *speeds* are its members' rates in bit/s, None without a limit, which ``better`` compares.

    ``active`` is the member in use, ``candidate`` the one that sends ARP requests while none is.
    """

    __slots__ = (
        "_announce_at", "_announcements", "_changed", "_force_primary", "_look_at", "_members", "_tick_at", "_was_active",
        "active", "candidate", "config",
    )  # fmt: skip

    def __init__(self, config: BondConfig, speeds: Sequence[Rate | None]) -> None:
        self.config = config
        self.active: int | None = None
        self.candidate: int | None = None
        self._members = [_Member(speed) for speed in speeds]
        self._look_at: Instant | None = None
        self._tick_at: Instant | None = None
        self._announce_at: Instant | None = None
        self._announcements = 0
        self._changed = False
        self._force_primary = False
        self._was_active = False

    @property
    def states(self) -> tuple[LinkState, ...]:
        """How the members' links stand."""
        return tuple(member.state for member in self._members)

    def carrier(self, index: int, up: bool, now: Instant) -> list[Effect]:
        """Take note that a member's cable went in or out.

        What was never plugged in is used at once, and a primary one at any rate, as when a NIC is added to a bond. Later
        changes wait for the next look at the links.
        """
        member = self._members[index]
        first, member.carrier = member.carrier is None, up
        if first and up:
            self._enter(member, LinkState.UP, now)
            self._force_primary |= index == self.config.primary
            if self.config.arp_interval and self._tick_at is None:
                self._tick_at = now
            return self._reselect(now)
        if self.config.miimon and self._look_at is None:
            self._look_at = (now // self.config.miimon + 1) * self.config.miimon
        return []

    def heard(self, index: int, now: Instant) -> None:
        """Take note of a frame that shows a member's link to work; of use with *arp_interval* only."""
        self._members[index].heard_at = now

    def is_in_use(self, index: int) -> bool:
        """Tell whether ARP replies are to be expected at a member: it is active, or the candidate."""
        return index in (self.active, self.candidate)

    def next_deadline(self) -> Instant | None:
        """Tell when ``expire`` has work."""
        delays = (member.until for member in self._members)
        due = [at for at in (self._look_at, self._tick_at, self._announce_at, *delays) if at is not None]
        return min(due, default=None)

    def expire(self, now: Instant) -> list[Effect]:
        """Do what is due."""
        if self._look_at is not None and now >= self._look_at:
            self._look_at = None
            for member in self._members:
                if member.carrier is not None:
                    self._step(member, Event.GOOD if member.carrier else Event.BAD, now)
        for member in self._members:
            if member.until is not None and now >= member.until:
                self._step(member, Event.OVER, now)
        ticks = self._tick_at is not None and now >= self._tick_at
        if ticks:
            self._inspect(now)
        effects = self._reselect(now) if self._changed else []
        if ticks:
            self._tick_at = now + self.config.arp_interval
            effects += self._probe()
        if self._announce_at is not None and now >= self._announce_at:
            effects += self._announce(now)
        return effects

    # The states of links

    def _step(self, member: _Member, event: Event, now: Instant) -> None:
        state = TRANSITIONS[member.state, event]
        if state is member.state:
            return
        self._enter(member, state, now)
        config = self.config
        if state is LinkState.FAIL:
            self._wait(member, config.downdelay, now)
        elif state is LinkState.BACK:  # whoever comes first when there is none need not wait
            self._wait(member, config.updelay if self.active is not None else 0, now)

    def _enter(self, member: _Member, state: LinkState, now: Instant) -> None:
        member.state, member.until = state, None
        if state is LinkState.UP:
            member.up_since = now
        self._changed |= state in (LinkState.UP, LinkState.DOWN)

    def _wait(self, member: _Member, delay: Duration, now: Instant) -> None:
        looks = delay // self.config.miimon if self.config.miimon else 0  # delays are whole numbers of looks
        if looks:
            member.until = now + looks * self.config.miimon
        else:
            self._step(member, Event.OVER, now)

    # The choice of the active member (bond_find_best_slave)

    def _reselect(self, now: Instant) -> list[Effect]:
        self._changed = False
        best = self._best()
        if best == self.active:
            return []
        if best is not None:
            member = self._members[best]
            self._enter(member, LinkState.UP, now)  # it may have been BACK; and ARP monitoring gives it time anew
            self._changed = False
            self.candidate = None
        self.active = best
        effects: list[Effect] = [Activate(best)]
        self._announcements, self._announce_at = 0, None
        if best is not None:
            if self._was_active and self.config.num_grat_arp:
                self._announcements = self.config.num_grat_arp
                effects += self._announce(now)
            self._was_active = True
        return effects

    def _best(self) -> int | None:
        members, primary, active = self._members, self.config.primary, self.active
        current = active if active is not None and members[active].state is LinkState.UP else None
        force, self._force_primary = self._force_primary, False
        if primary is not None and members[primary].state is LinkState.UP:
            return primary if current is None or force else self._prefer(primary, current)
        if current is not None:
            return current
        up = next((index for index, member in enumerate(members) if member.state is LinkState.UP), None)
        if up is not None:
            return up
        back = [(member.until, index) for index, member in enumerate(members) if member.until and self._is_back(member)]
        return min(back)[1] if back else None

    def _prefer(self, primary: int, current: int) -> int:
        match self.config.primary_reselect:
            case "always":
                return primary
            case "better":
                return primary if self._members[primary].speed > self._members[current].speed else current
            case "failure":
                return current

    @staticmethod
    def _is_back(member: _Member) -> bool:
        return member.state is LinkState.BACK and member.carrier is True

    def _announce(self, now: Instant) -> list[Effect]:
        self._announcements -= 1
        interval = self.config.miimon or self.config.arp_interval
        self._announce_at = now + interval if self._announcements else None
        return [Announce()]

    # ARP monitoring (bond_ab_arp_inspect, bond_ab_arp_probe)

    def _inspect(self, now: Instant) -> None:
        for index, member in enumerate(self._members):
            if member.state is LinkState.DOWN:
                if self._heard_within(member, 1, now):
                    self._step(member, Event.GOOD, now)
            elif now > member.up_since + self._intervals(MISSED_MAX):
                missed = MISSED_MAX if index == self.active else MISSED_MAX + 1
                if not self._heard_within(member, missed, now):
                    self._step(member, Event.BAD, now)

    def _heard_within(self, member: _Member, intervals: int, now: Instant) -> bool:
        return member.heard_at is not None and now <= member.heard_at + self._intervals(intervals)

    def _intervals(self, count: int) -> Duration:
        """Return so many intervals, and half of one for what comes late (bond_time_in_interval)."""
        return count * self.config.arp_interval + self.config.arp_interval // 2

    def _probe(self) -> list[Effect]:
        """Ask by the active member; while there is none by one after the other, until one is answered."""
        if self.active is not None:
            return [Probe(self.active)]
        count, last = len(self._members), -1 if self.candidate is None else self.candidate
        following = [(last + step) % count for step in range(1, count + 1)]
        self.candidate = next((index for index in following if self._members[index].carrier), None)
        return [] if self.candidate is None else [Probe(self.candidate)]
