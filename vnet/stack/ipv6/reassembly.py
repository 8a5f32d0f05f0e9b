"""Putting IPv6 fragments together again (RFC 8200 section 4.5), with bounds.

A packet whose fragments overlap is dropped whole, and so is what still comes of it (RFC 5722). A first fragment must hold
the whole chain of headers (RFC 7112). The header of the first fragment becomes that of the packet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from vnet.errors import WireError
from vnet.units import SECOND, Instant
from vnet.wire import ipv6
from vnet.wire.ipv6 import FRAGMENT_OCTETS, HEADER_OCTETS, FragmentHeader, Walk

if TYPE_CHECKING:
    from vnet.stack.interface import Interface

TIMEOUT: Final = 60 * SECOND
"""RFC 8200, section 4.5."""
MAX_PACKETS: Final = 64
MAX_OCTETS: Final = 4 * 1024 * 1024
MAX_FRAGMENTS: Final = 1024
"""Of one packet."""

_Key = tuple[bytes, int]


@final
class _Partial:
    """The fragments of one packet so far, by offset; ``dead`` once they overlapped."""

    __slots__ = ("dead", "deadline", "first", "head", "interface", "parts", "size", "total")

    def __init__(self, interface: Interface, deadline: Instant) -> None:
        self.interface = interface
        self.deadline = deadline
        self.parts: dict[int, bytes] = {}
        self.size = 0
        self.total: int | None = None
        self.head = b""  # the headers before the first fragment's fragment header, naming what it carries
        self.first: bytes | None = None  # as it came, for a time-exceeded error
        self.dead = False

    def overlaps(self, start: int, end: int) -> bool:
        """Tell whether the range meets a part that is here, or lies behind the end."""
        if self.total is not None and end > self.total:
            return True
        return any(start < other + len(part) and other < end for other, part in self.parts.items())


@final
class Ipv6Reassembler:
    """The packets in pieces of one host, oldest first; it names its next deadline and its owner calls ``expire``."""

    __slots__ = ("_drop", "_octets", "_partials")

    def __init__(self, drop: Callable[[str], None]) -> None:
        self._drop = drop
        self._partials: dict[_Key, _Partial] = {}
        self._octets = 0

    def __len__(self) -> int:
        return len(self._partials)

    def next_deadline(self) -> Instant | None:
        """Name the instant at which the oldest packet is given up."""
        return next((partial.deadline for partial in self._partials.values()), None)

    def add(self, now: Instant, interface: Interface, packet: bytes, walk: Walk, header: FragmentHeader) -> bytes | None:
        """Take a fragment, cut to its length, whose fragment *header* is where the *walk* ends; return the packet that it
        completes, if it does.

        The caller has checked that the length of all but the last is a multiple of 8, and that no end is beyond 65535.
        """
        payload = packet[walk.offset + FRAGMENT_OCTETS :]
        start, end = header.offset, header.offset + len(payload)
        if not payload:
            self._drop("fragment-malformed")
            return None
        if start == 0 and not _whole_chain(packet, walk, header):
            self._drop("fragment-tiny")
            return None
        key = packet[8:40], header.ident
        partial = self._partials.get(key)
        if partial is None:
            self._make_room(len(payload))
            partial = self._partials[key] = _Partial(interface, now + TIMEOUT)
        if partial.dead:
            self._drop("fragment-overlap")
            return None
        if partial.parts.get(start) == payload and header.more == (end != partial.total):
            self._drop("fragment-duplicate")
            return None
        beyond = not header.more and any(other + len(part) > end for other, part in partial.parts.items())
        second_end = not header.more and partial.total is not None
        if beyond or second_end or partial.overlaps(start, end) or len(partial.parts) >= MAX_FRAGMENTS:
            self._kill(partial)
            return None
        self._keep(partial, start, payload)
        if start == 0:
            partial.first = packet
            partial.head = packet[: walk.named_at] + bytes((header.next_header,)) + packet[walk.named_at + 1 : walk.offset]
        if not header.more:
            partial.total = end
        if not partial.head or partial.size != partial.total:
            return None
        self._forget(key)
        length = len(partial.head) - HEADER_OCTETS + partial.size
        if length > ipv6.MAX_PAYLOAD:
            self._drop("fragment-malformed")
            return None
        head = partial.head[:4] + length.to_bytes(2, "big") + partial.head[6:]
        return head + b"".join(partial.parts[at] for at in sorted(partial.parts))

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

    def _keep(self, partial: _Partial, start: int, payload: bytes) -> None:
        partial.parts[start] = payload
        partial.size += len(payload)
        self._octets += len(payload)

    def _kill(self, partial: _Partial) -> None:
        self._octets -= partial.size
        partial.dead, partial.size, partial.first = True, 0, None
        partial.parts.clear()
        self._drop("fragment-overlap")

    def _make_room(self, octets: int) -> None:
        while self._partials and (len(self._partials) >= MAX_PACKETS or self._octets + octets > MAX_OCTETS):
            self._forget(next(iter(self._partials)))
            self._drop("fragment-queue-full")

    def _forget(self, key: _Key) -> None:
        self._octets -= self._partials.pop(key).size


_TRANSPORT_OCTETS: Final = {ipv6.PROTOCOL_TCP: 20, ipv6.PROTOCOL_UDP: 8, ipv6.PROTOCOL_ICMPV6: 4}


def _whole_chain(packet: bytes, walk: Walk, header: FragmentHeader) -> bool:
    """Tell whether a first fragment has all headers up to that of the transport, and that one (RFC 7112, section 5)."""
    try:
        found = ipv6.walk(packet, header.next_header, walk.offset + FRAGMENT_OCTETS)
    except WireError:
        return False
    return len(packet) >= found.offset + _TRANSPORT_OCTETS.get(found.protocol, 0)
