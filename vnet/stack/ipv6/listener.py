"""The listener's side of MLDv2 on one interface (RFC 3810, section 6): reports on change and in answer to queries.

Without a link-local address reports come from the unspecified one (RFC 3590), and are repeated once there is one. After a
query of version 1 reports are of version 1 for a while (section 8.2.1); those of others stop nobody from sending his own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, final

from vnet.addresses import multicast_mac
from vnet.errors import WireError
from vnet.units import MILLISECOND, SECOND, Instant
from vnet.wire import icmpv6, ipv6, mld
from vnet.wire.icmpv6 import Icmpv6
from vnet.wire.ipv6 import ALL_MLDV2_ROUTERS, ALL_NODES

if TYPE_CHECKING:
    from vnet.ports import Alarm
    from vnet.stack.ipv6.interface import Ipv6Interface

UNSOLICITED_INTERVAL: Final = 1 * SECOND
"""RFC 3810, section 9.11."""
OLDER_QUERIER: Final = 260 * SECOND
"""How long a querier of version 1 is reckoned with: 2 x 125 s + 10 s (section 9.12)."""
ROBUSTNESS: Final = 2
"""How often a change is reported (section 9.1)."""
RECORDS: Final = 60
"""Records in one report: 20 octets each, within the minimum MTU."""


@final
class Listener:
    """Reports what groups the interface is in; ``_pending`` holds the groups that a query asked about, or all."""

    __slots__ = ("_alarm", "_interface", "_older_until", "_pending")

    def __init__(self, interface: Ipv6Interface) -> None:
        self._interface = interface
        self._alarm: Alarm | None = None
        self._pending: set[bytes] = set()
        self._older_until: Instant = 0

    def changed(self, group: bytes, *, joined: bool) -> None:
        """Report that the interface joined or left a group, twice within a second; nobody reports ff02::1 (section 6)."""
        if _reported(group):
            self._report_change(group, joined, ROBUSTNESS)

    def announce(self) -> None:
        """Report everything, because now there is an address to do it from (RFC 3590, section 4)."""
        self._send(mld.Record(mld.TO_EXCLUDE, group) for group in self._interface.groups if _reported(group))

    def receive(self, packet: bytes, offset: int, message: Icmpv6) -> None:
        """Take a query: answer it at a random instant of the time that it grants (section 6.2)."""
        host = self._interface.node.host
        alerted = packet[6] == ipv6.HOP_BY_HOP and mld.ROUTER_ALERT in packet[ipv6.HEADER_OCTETS : offset]
        try:
            query = mld.decode_query(message)
        except WireError:
            query = None
        if query is None or packet[7] != mld.HOP_LIMIT or not ipv6.is_link_local(packet[8:24]) or not alerted:
            host.drop("mld-malformed")
            return
        host.delivered += 1
        if query.version == 1:
            self._older_until = host.scheduler.now + OLDER_QUERIER
        groups = [group for group in self._interface.groups if _reported(group) and query.group in (ipv6.ANY, group)]
        if not groups:
            return
        self._pending.update(groups)
        due: Instant = host.scheduler.now + host.stream("mld").below(query.max_response * MILLISECOND + 1)
        if self._alarm is None:
            self._alarm = host.scheduler.alarm(self._answer)
        if self._alarm.deadline is None or due < self._alarm.deadline:
            self._alarm.set(due)

    def _answer(self) -> None:
        pending, self._pending = self._pending, set()
        self._send(mld.Record(mld.IS_EXCLUDE, group) for group in self._interface.groups if group in pending)

    def _report_change(self, group: bytes, joined: bool, times: int) -> None:
        if (group in self._interface.groups) != joined or not self._interface.interface.up:
            return  # it changed again meanwhile, and that was reported too
        self._send([mld.Record(mld.TO_EXCLUDE if joined else mld.TO_INCLUDE, group)])
        if times > 1:
            host = self._interface.node.host
            due = host.scheduler.now + host.stream("mld").below(UNSOLICITED_INTERVAL + 1)
            host.scheduler.at(due, self._report_change, group, joined, times - 1)

    def _send(self, records: Iterable[mld.Record]) -> None:
        listed = tuple(records)
        interface = self._interface
        source = ipv6.link_local(interface.mac)
        if source not in interface.node.local:
            source = ipv6.ANY
        if interface.node.host.scheduler.now < self._older_until:
            for each in listed:
                self._send_older(source, each)
            return
        for start in range(0, len(listed), RECORDS):
            message = mld.Report(listed[start : start + RECORDS]).encode()
            interface.send_frame(multicast_mac(ALL_MLDV2_ROUTERS), mld.packet(source, ALL_MLDV2_ROUTERS, message))

    def _send_older(self, source: bytes, record: mld.Record) -> None:
        """Say the same in version 1 (RFC 2710, section 4)."""
        left = record.kind == mld.TO_INCLUDE
        to = ipv6.ALL_ROUTERS if left else record.group
        message = Icmpv6(icmpv6.MLD_DONE if left else icmpv6.MLD_REPORT, 0, 0, record.group)
        self._interface.send_frame(multicast_mac(to), mld.packet(source, to, message))


def _reported(group: bytes) -> bool:
    return group != ALL_NODES and ipv6.scope(group) >= 2
