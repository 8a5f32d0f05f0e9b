"""Putting fragments together again (RFC 791 section 3.2, RFC 815), with bounds.

A datagram whose fragments overlap is dropped whole, and so is a TCP fragment that starts inside the TCP header: no honest
sender makes them, and both have been used to get past filters (RFC 1858, RFC 3128).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, final

from vnet.units import SECOND, Instant
from vnet.wire import ipv4

if TYPE_CHECKING:
    from vnet.stack.interface import Interface

TIMEOUT: Final = 30 * SECOND
"""RFC 1122, 3.3.2 wants 60 to 120 s; Linux has long used 30 s, because identifiers repeat sooner on fast links."""
MAX_DATAGRAMS: Final = 64
MAX_OCTETS: Final = 4 * 1024 * 1024
MAX_FRAGMENTS: Final = 1024
"""Of one datagram."""

_Key = tuple[bytes, bytes]


@final
class _Partial:
    """The fragments of one datagram so far, by offset."""

    __slots__ = ("deadline", "head", "interface", "parts", "size", "total")

    def __init__(self, interface: Interface, deadline: Instant) -> None:
        self.interface = interface
        self.deadline = deadline
        self.parts: dict[int, bytes] = {}
        self.size = 0
        self.head: bytes | None = None  # the first fragment as it came, for its header and for a time-exceeded error
        self.total: int | None = None  # octets of payload, once the last fragment is here

    def overlaps(self, start: int, end: int) -> bool:
        """Tell whether the range meets a part that is here, or lies behind the end."""
        if self.total is not None and end > self.total:
            return True
        return any(start < other + len(part) and other < end for other, part in self.parts.items())


@final
class Reassembler:
    """The datagrams in pieces of one host, oldest first; it names its next deadline and its owner calls ``expire``."""

    __slots__ = ("_drop", "_octets", "_partials")

    def __init__(self, drop: Callable[[str], None]) -> None:
        self._drop = drop
        self._partials: dict[_Key, _Partial] = {}
        self._octets = 0

    def next_deadline(self) -> Instant | None:
        """Name the instant at which the oldest datagram is given up."""
        return next((partial.deadline for partial in self._partials.values()), None)

    def add(self, now: Instant, interface: Interface, packet: bytes) -> bytes | None:
        """Take a fragment with a valid header, cut to its total length; return the packet that it completes, if it does."""
        octets = (packet[0] & 0x0F) << 2
        word = packet[6] << 8 | packet[7]
        more = bool(word & ipv4.MORE_FRAGMENTS)
        start = (word & ipv4.OFFSET_MASK) << 3
        payload = packet[octets:]
        end = start + len(payload)
        if not payload or end + octets > ipv4.MAX_PACKET or (more and len(payload) % 8):
            self._drop("fragment-malformed")
            return None
        if start == 8 and packet[9] == ipv4.PROTOCOL_TCP:
            self._drop("fragment-tiny")
            return None
        key = packet[12:20], packet[4:6] + packet[9:10]
        partial = self._partials.get(key)
        if partial is None:
            self._make_room(len(payload))
            partial = self._partials[key] = _Partial(interface, now + TIMEOUT)
        if partial.parts.get(start) == payload and more == (end != partial.total):
            self._drop("fragment-duplicate")
            return None
        beyond = not more and any(other + len(part) > end for other, part in partial.parts.items())
        second_end = not more and partial.total is not None
        if beyond or second_end or partial.overlaps(start, end) or len(partial.parts) >= MAX_FRAGMENTS:
            self._forget(key)
            self._drop("fragment-overlap")
            return None
        partial.parts[start] = payload
        partial.size += len(payload)
        self._octets += len(payload)
        if start == 0:
            partial.head = packet
        if not more:
            partial.total = end
        if partial.head is None or partial.size != partial.total:
            return None
        self._forget(key)
        if ((partial.head[0] & 0x0F) << 2) + partial.size > ipv4.MAX_PACKET:  # the first one's options outgrow the others'
            self._drop("fragment-malformed")
            return None
        return _join(partial.head, partial.parts, partial.size)

    def expire(self, now: Instant) -> list[tuple[Interface, bytes]]:
        """Give up what is too old; return the first fragments of it, whose senders are to be told (RFC 1122, 3.3.2)."""
        given_up = []
        for key, partial in list(self._partials.items()):
            if partial.deadline > now:
                break
            self._forget(key)
            self._drop("fragment-timeout")
            if partial.head is not None:
                given_up.append((partial.interface, partial.head))
        return given_up

    def _make_room(self, octets: int) -> None:
        while self._partials and (len(self._partials) >= MAX_DATAGRAMS or self._octets + octets > MAX_OCTETS):
            self._forget(next(iter(self._partials)))
            self._drop("fragment-queue-full")

    def _forget(self, key: _Key) -> None:
        self._octets -= self._partials.pop(key).size


def _join(head: bytes, parts: dict[int, bytes], size: int) -> bytes:
    header, _ = ipv4.decode(head)
    whole = replace(header, dont_fragment=False, more_fragments=False)
    return whole.encode(size) + b"".join(parts[start] for start in sorted(parts))
