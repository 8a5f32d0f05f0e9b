"""Counting what a router drops, and telling of it without being flooded.

Every drop is counted by reason. A refused connection is also reported in the lab's event log: each flow once while it is
among the last ``MAX_REMEMBERED``, and all of them within a ``ReportLimit``.
"""

from __future__ import annotations

from typing import Final, final

from vnet.ports import Report, ReportLimit
from vnet.units import Instant
from vnet.wire.ipv4 import PROTOCOL_NAMES, PROTOCOL_TCP, PROTOCOL_UDP, text

MAX_REMEMBERED: Final = 1024


@final
class DropLog:
    """The drops of one router: ``counts`` by reason."""

    __slots__ = ("_limit", "_seen", "counts")

    def __init__(self, report: Report) -> None:
        self.counts: dict[str, int] = {}
        self._limit = ReportLimit(report)
        self._seen: dict[tuple[str, int, bytes], None] = {}

    def count(self, reason: str) -> None:
        """Count a packet that ends here."""
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def refuse(self, now: Instant, reason: str, protocol: int, arrives: bytes, from_network: str, to_network: str) -> None:
        """Count a packet whose connection was refused, and report the connection; *arrives* is the packet's tuple."""
        self.count(reason)
        key = (reason, protocol, arrives)
        if key in self._seen or not self._limit.allows(now):
            return
        if len(self._seen) >= MAX_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = None
        with_ports = protocol in (PROTOCOL_TCP, PROTOCOL_UDP)
        self._limit.report(
            now,
            "refused",
            reason=reason,
            protocol=PROTOCOL_NAMES.get(protocol, str(protocol)),
            source=transport_address(arrives[:4], arrives[8:10], with_ports),
            destination=transport_address(arrives[4:8], arrives[10:12], with_ports),
            from_network=from_network,
            to_network=to_network,
        )


def transport_address(address: bytes, port: bytes, with_port: bool = True) -> str:
    """Print packed octets as 192.0.2.1:80, or without the port."""
    return f"{text(address)}:{int.from_bytes(port, 'big')}" if with_port else text(address)
