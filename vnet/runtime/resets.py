"""Who refused a TCP connection: the host that was asked, or a firewall on the way in its name.

A router whose policy is to reject answers a SYN with a reset that has the target's address, so the prober cannot tell. The
cables can: a reset of the target's own leaves the target. The two belong together by the sequence number of the SYN, which
the reset acknowledges (RFC 9293, 3.10.7.1) and no NAT on the way changes. That is so for every kind of guest, live or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

from vnet.errors import WireError
from vnet.runtime.fields import Fields
from vnet.wire.pcapng import Direction, Reader
from vnet.wire.tcp import ACK, RST, SYN, Tcp, decode

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab

_SPACE: Final = 1 << 32
_PROTOCOL_TCP: Final = 6


@final
class Resets:
    """Takes a capture of all guests' ports, and remembers of it only who asked and who refused."""

    def __init__(self) -> None:
        self._reader = Reader()
        self._asked: dict[int, set[str]] = {}
        self._refused: set[tuple[str, str]] = set()

    def has_refused(self, target: str, source: str) -> bool:
        """Tell whether *target* itself has refused a connection that *source* asked for."""
        return (source, target) in self._refused

    def keep(self, block: bytes) -> None:
        """Take the names of the ports."""
        self._reader.feed(block)

    def packet(self, block: bytes) -> bool:
        """Note a SYN and a reset at the guest that sends it."""
        for packet in self._reader.feed(block):
            segment = _segment(packet.frame)
            if packet.direction is not Direction.OUTBOUND or segment is None:
                continue
            guest = packet.interface.name.partition(":")[0]
            if segment.flags & RST:
                asked = self._asked.get((segment.acknowledgment - 1) % _SPACE, ())
                self._refused.update((source, guest) for source in asked)
            else:
                self._asked.setdefault(segment.sequence, set()).add(guest)
        return True

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing is held here."""


@contextmanager
def watch_resets(lab: Lab) -> Iterator[Resets]:
    """Watch the guests of a lab while the block runs."""
    resets = Resets()
    ports = [port.name for guest in lab.guests.values() for port in guest.ports if port.name in lab.captures.ports]
    if not ports:  # a capture without names would take other ports
        yield resets
        return
    capture = lab.captures.start(resets, ports, lambda frame: _segment(frame) is not None)
    try:
        yield resets
    finally:
        capture.finish()


def _segment(frame: bytes) -> Tcp | None:
    """Read the segment of a frame if it opens a connection or refuses one."""
    fields = Fields(frame)
    if fields.protocol != _PROTOCOL_TCP or fields.source_port < 0:
        return None
    header = (fields.payload[0] & 15) * 4 if len(fields.source) == 4 else 40
    try:
        segment = decode(fields.payload[header:], fields.source, fields.destination, verify=False)
    except WireError:
        return None
    return segment if segment.flags & (SYN | ACK) == SYN or segment.flags & RST else None
