"""Choosing external ports: the same as inside where it is free, otherwise at random among those of its kind.

RFC 4787 REQ-3: no two mappings share a port ("port overloading"), and ports below 1024 stay below 1024. REQ-4: an even port
stays even, an odd one odd, as RTP and RTCP want. ICMP identifiers are all of one kind. When a kind is used up there is no
mapping: borrowing from another kind would break the promise for the next application that relies on it.
"""

from __future__ import annotations

from typing import Final, final

from vnet.ports import Randomness
from vnet.wire.ipv4 import PROTOCOL_ICMP

FIRST_UNPRIVILEGED: Final = 1024
"""Where the well-known ports end (RFC 6335 section 6)."""


@final
class PortPool:
    """The free members of an arithmetic sequence of ports; every operation takes constant time.

    The free ones are the first ``free`` slots of a permutation, of which only the slots that moved are stored (Fisher and
    Yates, sparse), so an idle router holds no list of 65,536 ports.
    """

    __slots__ = ("_first", "_port_at", "_slot_of", "_step", "free", "size")

    def __init__(self, first: int, last: int, step: int) -> None:
        self._first = first
        self._step = step
        self.size = (last - first) // step + 1
        self.free = self.size
        self._port_at: dict[int, int] = {}
        self._slot_of: dict[int, int] = {}

    def is_free(self, port: int) -> bool:
        """Tell whether *port*, a member of the sequence, can be taken."""
        return self._slot(port) < self.free

    def take(self, port: int) -> None:
        """Take a free port."""
        self.free -= 1
        self._swap(self._slot(port), self.free)

    def take_any(self, randomness: Randomness) -> int | None:
        """Take a free port at random, or return None when there is none."""
        if not self.free:
            return None
        port = self._port(randomness.below(self.free))
        self.take(port)
        return port

    def give_back(self, port: int) -> None:
        """Make a taken port free again."""
        self._swap(self._slot(port), self.free)
        self.free += 1

    def _slot(self, port: int) -> int:
        return self._slot_of.get(port, (port - self._first) // self._step)

    def _port(self, slot: int) -> int:
        return self._port_at.get(slot, self._first + slot * self._step)

    def _swap(self, a: int, b: int) -> None:
        port_a, port_b = self._port(a), self._port(b)
        self._put(port_a, b)
        self._put(port_b, a)

    def _put(self, port: int, slot: int) -> None:
        if self._first + slot * self._step == port:
            self._port_at.pop(slot, None)
            self._slot_of.pop(port, None)
        else:
            self._port_at[slot] = port
            self._slot_of[port] = slot


@final
class ExternalPorts:
    """The external ports of one protocol."""

    __slots__ = ("_has_kinds", "_pools", "_randomness")

    def __init__(self, protocol: int, randomness: Randomness) -> None:
        self._randomness = randomness
        self._has_kinds = protocol != PROTOCOL_ICMP
        if self._has_kinds:
            self._pools = (
                PortPool(2, FIRST_UNPRIVILEGED - 2, 2),  # port 0 is nobody's
                PortPool(1, FIRST_UNPRIVILEGED - 1, 2),
                PortPool(FIRST_UNPRIVILEGED, 65534, 2),
                PortPool(FIRST_UNPRIVILEGED + 1, 65535, 2),
            )
        else:
            self._pools = (PortPool(0, 65535, 1),) * 4

    def choose(self, wanted: int) -> int | None:
        """Take *wanted* if it is free, else another of its kind; return None when the kind is used up."""
        pool = self._pool(wanted)
        if (wanted or not self._has_kinds) and pool.is_free(wanted):
            pool.take(wanted)
            return wanted
        return pool.take_any(self._randomness)

    def reserve(self, port: int) -> None:
        """Keep a port for a port forward; it is never chosen."""
        pool = self._pool(port)
        if pool.is_free(port):
            pool.take(port)

    def give_back(self, port: int) -> None:
        """Make a chosen port free again."""
        self._pool(port).give_back(port)

    def _pool(self, port: int) -> PortPool:
        return self._pools[(port & 1) | (2 if port >= FIRST_UNPRIVILEGED else 0)]
