"""Counting what a router drops, and telling of it without being flooded.

Every drop is counted by reason. A refused connection is also reported in the lab's event log: each flow once while it is
among the last ``MAX_REMEMBERED``, and at most ``BURST`` of them in one second of lab time; how many were left out stands in
the next event. The limit depends on instants and packets alone, so two runs of one lab log the same.
"""

from __future__ import annotations

from typing import Final, final

from vnet.ports import Report
from vnet.units import SECOND, Duration, Instant
from vnet.wire.ipv4 import PROTOCOL_NAMES, PROTOCOL_TCP, PROTOCOL_UDP, text

MAX_REMEMBERED: Final = 1024
BURST: Final = 32
WINDOW: Final[Duration] = 1 * SECOND


@final
class DropLog:
    """The drops of one router: ``counts`` by reason."""

    __slots__ = ("_in_window", "_report", "_seen", "_suppressed", "_window", "counts")

    def __init__(self, report: Report) -> None:
        self.counts: dict[str, int] = {}
        self._report = report
        self._seen: dict[tuple[str, int, bytes], None] = {}
        self._window: Instant = 0
        self._in_window = 0
        self._suppressed = 0

    def count(self, reason: str) -> None:
        """Count a packet that ends here."""
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def refuse(self, now: Instant, reason: str, protocol: int, arrives: bytes, from_network: str, to_network: str) -> None:
        """Count a packet whose connection was refused, and report the connection; *arrives* is the packet's tuple."""
        self.count(reason)
        key = (reason, protocol, arrives)
        if key in self._seen:
            return
        if now >= self._window + WINDOW:
            self._window, self._in_window = now, 0
        if self._in_window >= BURST:
            self._suppressed += 1
            return
        self._in_window += 1
        if len(self._seen) >= MAX_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = None
        suppressed, self._suppressed = self._suppressed, 0
        with_ports = protocol in (PROTOCOL_TCP, PROTOCOL_UDP)
        self._report(
            "refused",
            reason=reason,
            protocol=PROTOCOL_NAMES.get(protocol, str(protocol)),
            source=transport_address(arrives[:4], arrives[8:10], with_ports),
            destination=transport_address(arrives[4:8], arrives[10:12], with_ports),
            from_network=from_network,
            to_network=to_network,
            **({"not_reported": suppressed} if suppressed else {}),
        )


def transport_address(address: bytes, port: bytes, with_port: bool = True) -> str:
    """Print packed octets as 192.0.2.1:80, or without the port."""
    return f"{text(address)}:{int.from_bytes(port, 'big')}" if with_port else text(address)
