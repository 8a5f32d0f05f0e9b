"""Bindings: which client has which address, until when (RFC 2131, section 2.2).

There is at most one binding for an address and one for a client. A binding whose lease ended stays in the table, so that
its client gets the same address again, until some other client needs the address. So the table is never larger than the
pool and the reservations, whatever clients do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import NamedTuple, Protocol, final

from vnet.units import Instant


@final
class BindingState(Enum):
    """What the server knows of an address. The values stand in state files.

    ``live`` states end at ``expires_at``; in the others the address is free.
    """

    live: bool

    def __new__(cls, value: int, live: bool) -> BindingState:
        """Keep *live* beside the value: an attribute is found faster than a member in a set."""
        state = object.__new__(cls)
        state._value_ = value
        state.live = live
        return state

    OFFERED = 1, True
    """Kept for a client for a short time; never stored."""
    BOUND = 2, True
    RELEASED = 3, False
    """The client gave it back; it may have it again."""
    EXPIRED = 4, False
    """The lease ended; the client may have it again."""
    DECLINED = 5, True
    """Somebody else uses the address: nobody gets it until the quarantine ends."""
    FREE = 6, False
    """No binding: tells a store to forget the address."""


class Binding(NamedTuple):
    """One address and its client; frozen.

    ``address`` is 4 octets. ``client`` identifies the client: option 61, or hardware type and address. ``since`` is when
    the lease began, None while there was only an offer. Instants are on the lab clock.
    """

    address: bytes
    client: bytes
    mac: bytes
    state: BindingState
    expires_at: Instant
    since: Instant | None = None
    hostname: str = ""


class BindingStore(Protocol):
    """Where bindings outlive the lab."""

    def load(self) -> Sequence[Binding]:
        """Return what was recorded, with instants on this lab's clock (those before it began are negative)."""

    def record(self, changes: Sequence[Binding]) -> None:
        """Keep the changes, in order, all or none; when this returns, they survive the end of the process.

        A change replaces what was known of its address; state FREE removes it.
        """


@final
class NoStore:
    """Keeps nothing: the bindings end with the lab."""

    __slots__ = ()

    def load(self) -> Sequence[Binding]:
        """Return nothing."""
        return ()

    def record(self, changes: Sequence[Binding]) -> None:
        """Forget the changes."""


@final
class Expiries:
    """When each address is next to be looked at.

    A deadline that moves back (a renewal) costs nothing until the old one comes up; a deadline that moves forward leaves one
    stale entry. When these outnumber the addresses the heap is made anew, so no client can make it grow.
    """

    __slots__ = ("_heap", "_scheduled")

    def __init__(self) -> None:
        self._heap: list[tuple[Instant, bytes]] = []
        self._scheduled: dict[bytes, Instant] = {}

    def set(self, address: bytes, deadline: Instant) -> None:
        """Look at *address* at *deadline* or before."""
        scheduled = self._scheduled.get(address)
        if scheduled is not None and scheduled <= deadline:
            return
        self._scheduled[address] = deadline
        heappush(self._heap, (deadline, address))
        if len(self._heap) > 2 * len(self._scheduled) + 64:
            self._heap = [(when, key) for key, when in self._scheduled.items()]
            heapify(self._heap)

    def next(self) -> Instant | None:
        """Return the earliest deadline; there may be nothing to do then."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: Instant) -> Iterator[bytes]:
        """Yield the addresses whose time has come; each must be ``set`` again if it has more to wait for."""
        while self._heap and self._heap[0][0] <= now:
            deadline, address = heappop(self._heap)
            if self._scheduled.get(address) == deadline:
                del self._scheduled[address]
                yield address


@final
class BindingTable:
    """All bindings of one server, by address and by client."""

    __slots__ = ("_by_address", "_by_client", "expiries", "free_again", "offers")

    def __init__(self) -> None:
        self._by_address: dict[bytes, Binding] = {}
        self._by_client: dict[bytes, bytes] = {}
        self.expiries = Expiries()
        self.offers: OrderedDict[bytes, None] = OrderedDict()
        """Addresses on offer, the oldest offer first."""
        self.free_again: OrderedDict[bytes, None] = OrderedDict()
        """Addresses whose lease ended, the longest free first."""

    def __len__(self) -> int:
        return len(self._by_address)

    def __contains__(self, address: bytes) -> bool:
        return address in self._by_address

    def __iter__(self) -> Iterator[Binding]:
        """Yield the bindings in the order of their addresses."""
        return (self._by_address[address] for address in sorted(self._by_address))

    def of_address(self, address: bytes) -> Binding | None:
        """Look up by address."""
        return self._by_address.get(address)

    def of_client(self, client: bytes) -> Binding | None:
        """Look up by client."""
        address = self._by_client.get(client)
        return None if address is None else self._by_address[address]

    def put(self, binding: Binding) -> None:
        """Store the binding in place of what was known of its address; its client must hold no other address."""
        address, client, state = binding.address, binding.client, binding.state
        old = self._by_address.get(address)
        if old is None or old.client != client or old.state is not state:
            if old is not None:
                self._unlink(old)
            if state is not BindingState.DECLINED:
                self._by_client[client] = address
            if state is BindingState.OFFERED:
                self.offers[address] = None
            elif not state.live:
                self.free_again[address] = None
        self._by_address[address] = binding
        if state.live:
            self.expiries.set(address, binding.expires_at)

    def remove(self, binding: Binding) -> None:
        """Forget the address and its client."""
        self._unlink(binding)
        del self._by_address[binding.address]

    def load(self, bindings: Iterable[Binding], now: Instant) -> None:
        """Fill the table from a store; leases that ended by *now* are free again, the earliest ended first."""
        for binding in sorted(bindings, key=lambda each: (each.expires_at, each.address)):
            if binding.address in self._by_address or (binding.client and binding.client in self._by_client):
                continue  # two rows that cannot both be true: the file was tampered with
            if binding.state is BindingState.BOUND and binding.expires_at <= now:
                binding = binding._replace(state=BindingState.EXPIRED)
            if binding.state is not BindingState.DECLINED or binding.expires_at > now:
                self.put(binding)

    def _unlink(self, binding: Binding) -> None:
        address = binding.address
        if self._by_client.get(binding.client) == address:
            del self._by_client[binding.client]
        if binding.state is BindingState.OFFERED:
            del self.offers[address]
        elif not binding.state.live:
            del self.free_again[address]
