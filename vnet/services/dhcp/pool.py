"""The pool: which address a new client gets.

In this order: the lowest address that nobody ever had; then the address that has been free for the longest time (RFC 2131,
section 2.2), so that a client that comes back late still finds its own.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import heappop, heappush
from ipaddress import IPv4Address
from typing import final

from vnet.services.dhcp.binding import BindingTable


@final
class AddressPool:
    """The dynamic addresses from *first* to *last*, both inclusive, without the *excluded* ones.

    An address in the table is taken, or free again; what the table does not know was never used. Nothing is listed in
    advance: a pool of a /8 costs no more than one of a /24.
    """

    __slots__ = ("_excluded", "_first", "_last", "_next", "_returned", "_returned_heap", "_table", "size")

    def __init__(
        self, first: IPv4Address, last: IPv4Address, excluded: Collection[IPv4Address], table: BindingTable
    ) -> None:
        self._first = int(first)
        self._last = int(last)
        self._excluded = frozenset(address.packed for address in excluded if first <= address <= last)
        self._table = table
        self._next = self._first
        self._returned: set[bytes] = set()
        self._returned_heap: list[bytes] = []
        self.size = self._last - self._first + 1 - len(self._excluded)

    def __contains__(self, address: bytes) -> bool:
        """Tell whether the pool may give *address* out, now or later."""
        return self._first <= int.from_bytes(address, "big") <= self._last and address not in self._excluded

    def choose(self) -> bytes | None:
        """Name the address for a new client, or None if all are taken; the caller puts it into the table."""
        table = self._table
        while self._returned_heap:
            # packed addresses compare like the numbers they are; each is below the ones never looked at
            if (address := self._returned_heap[0]) not in table:
                return address
            heappop(self._returned_heap)
            self._returned.discard(address)
        while self._next <= self._last:
            address = self._next.to_bytes(4, "big")
            if address not in table and address not in self._excluded:
                return address
            self._next += 1
        # reserved addresses may be free again too, but not for everybody
        return next((address for address in table.free_again if address in self), None)

    def give_back(self, address: bytes) -> None:
        """Take an address back that left the table: nobody has a claim to it."""
        if address in self and int.from_bytes(address, "big") < self._next and address not in self._returned:
            self._returned.add(address)
            heappush(self._returned_heap, address)
