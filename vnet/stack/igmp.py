"""The groups that a host's sockets listen to, and what it says of them: the host's half of IGMPv3 (RFC 3376, section 5).

Only "everything that is sent to the group" can be listened to, not single sources. Where a router asks in an older version,
reports are of that version for as long as it is heard (section 7.2). What is to be said waits in ``_Link``: one alarm for
each interface, and one instant for each group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from vnet.errors import UsageError, WireError
from vnet.ports import NO_OFFLOAD
from vnet.stack.transport import IcmpError
from vnet.units import MILLISECOND, SECOND, Duration, Instant
from vnet.wire import igmp, ipv4
from vnet.wire.ipv4 import ALL_HOSTS, ANY, PROTOCOL_IGMP

if TYPE_CHECKING:
    from vnet.ports import Alarm
    from vnet.stack.host import Host
    from vnet.stack.interface import Interface

MAX_GROUPS: Final = 1024
"""Groups of one interface; joining one more raises UsageError."""
ROBUSTNESS: Final = 2
"""How often a change is told, since reports get lost (RFC 3376, 8.1)."""
UNSOLICITED_INTERVAL: Final[Duration] = 1 * SECOND
"""Within which it is told again (8.11)."""
UNSOLICITED_INTERVAL_V2: Final[Duration] = 10 * SECOND
"""The same for older versions (RFC 2236, 8.10)."""
OLDER_QUERIER_PATIENCE: Final[Duration] = 260 * SECOND
"""How long the version of an older router holds: two of its query intervals and one response (8.12)."""
MAX_RECORDS: Final = 128
"""In one report, which so fits every MTU that networks have."""


@final
class _Link:
    """What goes on at one interface: ``users`` counts the joins of each group, ``left`` has those that are no more."""

    __slots__ = ("alarm", "due", "left", "older_until", "repeats", "told_last", "users", "version")

    def __init__(self, alarm: Alarm) -> None:
        self.alarm = alarm
        self.users: dict[bytes, int] = {}
        self.due: dict[bytes, Instant] = {}
        self.repeats: dict[bytes, int] = {}  # how often a change is still to be told
        self.left: dict[bytes, None] = {}
        self.told_last: dict[bytes, None] = {}  # nobody else reported since we did: RFC 2236, section 3
        self.version = 3
        self.older_until: Instant = 0


@final
class GroupTable:
    """The groups of a host, and its IGMP transport."""

    __slots__ = ("_host", "_links")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._links: dict[Interface, _Link] = {}

    def join(self, interface: Interface, group: bytes) -> None:
        """Listen to a group on an interface, and tell the link if nobody did before. Raise UsageError if it is none."""
        if not ipv4.is_multicast(group):
            raise UsageError(f"{ipv4.text(group)} is not a multicast group: those are 224.0.0.0/4")
        link = self._links.get(interface)
        if link is None:
            link = self._links[interface] = _Link(self._host.scheduler.alarm(lambda: self._expire(interface)))
        if group not in link.users and len(link.users) >= MAX_GROUPS:
            raise UsageError(f"{interface.name} of {self._host.name} listens to {MAX_GROUPS} groups already")
        link.users[group] = link.users.get(group, 0) + 1
        if link.users[group] == 1:
            interface.join(group)
            link.left.pop(group, None)
            self._change(interface, link, group)

    def leave(self, interface: Interface, group: bytes) -> None:
        """Take one join back; with the last one the host stops listening, and the link is told."""
        link = self._links.get(interface)
        if link is None or group not in link.users:
            return
        link.users[group] -= 1
        if not link.users[group]:
            del link.users[group]
            link.due.pop(group, None)
            link.repeats.pop(group, None)
            interface.leave(group)
            if len(link.left) < MAX_GROUPS:
                link.left[group] = None
                self._change(interface, link, group)

    def groups(self, interface: Interface) -> tuple[bytes, ...]:
        """Name the groups that somebody listens to, in the order they were joined."""
        link = self._links.get(interface)
        return tuple(link.users) if link is not None else ()

    def announce(self, interface: Interface) -> None:
        """Tell of all groups, because the interface was plugged in: somewhere else, perhaps."""
        link = self._links.get(interface)
        if link is not None:
            link.left.clear()
            for group in link.users:
                self._change(interface, link, group)

    def forget(self, interface: Interface) -> None:
        """Let everything go that is known of an interface, because it is taken away."""
        link = self._links.pop(interface, None)
        if link is not None:
            link.alarm.set(None)

    # What arrives

    def receive(self, interface: Interface, packet: bytes, octets: int, *, trusted: bool, group: bool) -> None:
        """Take a message: a query is answered after a random while, a report of others may be answer enough."""
        try:
            message = igmp.decode(packet[octets:])
        except WireError:
            self._host.drop("igmp-malformed")
            return
        self._host.delivered += 1
        link = self._links.get(interface)
        if link is None:
            return
        if message.kind == igmp.QUERY:
            self._take_query(link, message)
        elif message.kind in (igmp.REPORT_V1, igmp.REPORT_V2) and self._version(link) < 3:
            (reported,) = message.groups
            link.told_last.pop(reported, None)
            if reported not in link.repeats:  # who listens is known: RFC 2236, section 3
                link.due.pop(reported, None)

    def error(self, quoted: bytes, octets: int, error: IcmpError) -> bool:
        """Care for no error."""
        return False

    def _take_query(self, link: _Link, message: igmp.Igmp) -> None:
        now = self._host.scheduler.now
        if message.version < 3 and (message.version <= link.version or now >= link.older_until):
            link.version, link.older_until = message.version, now + OLDER_QUERIER_PATIENCE
        (asked,) = message.groups
        wait = max(1, message.response_ms) * MILLISECOND
        chosen: Instant | None = None
        for group in link.users if asked == ANY else [asked]:
            if group not in link.users or group == ALL_HOSTS:
                continue
            if chosen is None or self._version(link) < 3:  # version 3 answers for all groups at once
                chosen = now + self._host.stream("igmp").below(wait)
            link.due[group] = min(chosen, link.due.get(group, chosen))
        self._arm(link)

    # What is said

    def _version(self, link: _Link) -> int:
        return link.version if self._host.scheduler.now < link.older_until else 3

    def _change(self, interface: Interface, link: _Link, group: bytes) -> None:
        """Tell of a change now, and again."""
        if group == ALL_HOSTS:
            link.left.pop(group, None)
            return  # nobody asks for it, and nobody tells (RFC 3376, section 5)
        link.repeats[group] = ROBUSTNESS
        link.due[group] = self._host.scheduler.now
        self._expire(interface)

    def _expire(self, interface: Interface) -> None:
        link, now = self._links[interface], self._host.scheduler.now
        version = self._version(link)
        ready = [group for group, when in link.due.items() if when <= now]
        interval = UNSOLICITED_INTERVAL if version == 3 else UNSOLICITED_INTERVAL_V2
        records = []
        for group in ready:
            del link.due[group]
            is_change = group in link.repeats
            records.append((self._kind(link, group, is_change), group))
            if is_change:
                link.repeats[group] -= 1
                if link.repeats[group]:
                    link.due[group] = now + 1 + self._host.stream("igmp").below(interval)
                    continue
                del link.repeats[group]
                link.left.pop(group, None)
        if version == 3:
            for start in range(0, len(records), MAX_RECORDS):
                report = igmp.report_v3(records[start : start + MAX_RECORDS])
                self._send(interface, igmp.ALL_IGMPV3_ROUTERS, report, igmp.INTERNETWORK_CONTROL)
        else:
            self._say_in_old_words(interface, link, records, version)
        self._arm(link)

    def _kind(self, link: _Link, group: bytes, is_change: bool) -> int:
        if group in link.users:
            return igmp.TO_EXCLUDE if is_change else igmp.IS_EXCLUDE
        return igmp.TO_INCLUDE

    def _say_in_old_words(self, interface: Interface, link: _Link, records: list[tuple[int, bytes]], version: int) -> None:
        for kind, group in records:
            if kind != igmp.TO_INCLUDE:
                link.told_last[group] = None
                report = igmp.REPORT_V1 if version == 1 else igmp.REPORT_V2
                self._send(interface, group, igmp.simple(report, group))
            elif group in link.told_last:
                del link.told_last[group]
                if version == 1:
                    continue  # which knows no leave
                self._send(interface, igmp.ALL_ROUTERS, igmp.simple(igmp.LEAVE, group))

    def _send(self, interface: Interface, destination: bytes, message: bytes, tos: int = 0) -> None:
        packet = ipv4.build(
            interface.address or ANY, destination, PROTOCOL_IGMP, len(message),
            ttl=1, tos=tos, ident=self._host.next_ident(), options=igmp.ROUTER_ALERT,
        )  # fmt: skip
        interface.neighbor(destination).send(packet + message, NO_OFFLOAD)

    def _arm(self, link: _Link) -> None:
        link.alarm.set(min(link.due.values(), default=None))
