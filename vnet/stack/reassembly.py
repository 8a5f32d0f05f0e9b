"""Putting fragments together again, with bounds: a buffer for both IP versions, and that of IPv4 (RFC 791, 3.2; RFC 815).

A datagram whose fragments overlap is dropped whole, and so is a TCP fragment that starts inside the TCP header: no honest
sender makes them, and both have been used to get past filters (RFC 1858, RFC 3128).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, final

from vnet.units import SECOND, Duration, Instant
from vnet.wire import ipv4

if TYPE_CHECKING:
    from vnet.stack.interface import Interface

TIMEOUT: Final = 30 * SECOND
"""RFC 1122, 3.3.2 wants 60 to 120 s; Linux has long used 30 s, because identifiers repeat sooner on fast links."""
MAX_DATAGRAMS: Final = 64
MAX_OCTETS: Final = 4 * 1024 * 1024
MAX_FRAGMENTS: Final = 1024
"""Of one datagram."""


@final
class Partial:
    """The fragments of one packet so far, by offset; ``dead`` if they are only waited for to be dropped."""

    __slots__ = ("dead", "deadline", "first", "interface", "parts", "size", "total")

    def __init__(self, interface: Interface, deadline: Instant) -> None:
        self.interface = interface
        self.deadline = deadline
        self.parts: dict[int, bytes] = {}
        self.size = 0
        self.first: bytes | None = None  # the first fragment as it came, for its header and for a time-exceeded error
        self.total: int | None = None  # octets of payload, once the last fragment is here
        self.dead = False

    def repeats(self, start: int, payload: bytes, *, more: bool) -> bool:
        """Tell whether this very fragment is here already."""
        return self.parts.get(start) == payload and more == (start + len(payload) != self.total)

    def overlaps(self, start: int, end: int, *, more: bool) -> bool:
        """Tell whether a fragment meets a part that is here or lies behind the end, or is one too many."""
        if self.total is not None and (end > self.total or not more):
            return True
        if not more and any(other + len(part) > end for other, part in self.parts.items()):
            return True
        if len(self.parts) >= MAX_FRAGMENTS:
            return True
        return any(start < other + len(part) and other < end for other, part in self.parts.items())


class FragmentBuffer:
    """The packets in pieces of one host over one IP version, oldest first; it names its next deadline and its owner calls
    ``expire``."""

    __slots__ = ("_drop", "_octets", "_partials", "_timeout")

    def __init__(self, drop: Callable[[str], None], timeout: Duration) -> None:
        self._drop = drop
        self._timeout = timeout
        self._partials: dict[tuple[bytes, bytes], Partial] = {}
        self._octets = 0

    def __len__(self) -> int:
        return len(self._partials)

    def next_deadline(self) -> Instant | None:
        """Name the instant at which the oldest packet is given up."""
        return next((partial.deadline for partial in self._partials.values()), None)

    def expire(self, now: Instant) -> list[tuple[Interface, bytes]]:
        """Give up what is too old; return the first fragments of it, whose senders are to be told."""
        given_up = []
        for key, partial in list(self._partials.items()):
            if partial.deadline > now:
                break
            self._forget(key)
            if not partial.dead:
                self._drop("fragment-timeout")
                if partial.first is not None:
                    given_up.append((partial.interface, partial.first))
        return given_up

    def _partial(self, now: Instant, interface: Interface, key: tuple[bytes, bytes], octets: int) -> Partial:
        """Find or make the place of a fragment with *octets* of payload."""
        partial = self._partials.get(key)
        if partial is None:
            while self._partials and (len(self._partials) >= MAX_DATAGRAMS or self._octets + octets > MAX_OCTETS):
                self._forget(next(iter(self._partials)))
                self._drop("fragment-queue-full")
            partial = self._partials[key] = Partial(interface, now + self._timeout)
        return partial

    def _keep(self, partial: Partial, start: int, payload: bytes, *, more: bool) -> None:
        partial.parts[start] = payload
        partial.size += len(payload)
        self._octets += len(payload)
        if not more:
            partial.total = start + len(payload)

    def _forget(self, key: tuple[bytes, bytes]) -> None:
        self._octets -= self._partials.pop(key).size


@final
class Reassembler(FragmentBuffer):
    """The IPv4 datagrams in pieces."""

    __slots__ = ()

    def __init__(self, drop: Callable[[str], None]) -> None:
        super().__init__(drop, TIMEOUT)

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
        partial = self._partial(now, interface, key, len(payload))
        if partial.repeats(start, payload, more=more):
            self._drop("fragment-duplicate")
            return None
        if partial.overlaps(start, end, more=more):
            self._forget(key)
            self._drop("fragment-overlap")
            return None
        self._keep(partial, start, payload, more=more)
        if start == 0:
            partial.first = packet
        if partial.first is None or partial.size != partial.total:
            return None
        self._forget(key)
        if ((partial.first[0] & 0x0F) << 2) + partial.size > ipv4.MAX_PACKET:  # the first one's options outgrow the others'
            self._drop("fragment-malformed")
            return None
        return _join(partial.first, partial.parts, partial.size)


def _join(head: bytes, parts: dict[int, bytes], size: int) -> bytes:
    header, _ = ipv4.decode(head)
    whole = replace(header, dont_fragment=False, more_fragments=False)
    return whole.encode(size) + b"".join(parts[start] for start in sorted(parts))
