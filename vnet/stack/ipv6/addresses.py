"""The addresses of an interface with their states (RFC 4862), and the choice of a source among them (RFC 6724)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from ipaddress import IPv6Interface
from typing import final

from vnet.units import Instant
from vnet.wire import ipv6


class AddressState(Enum):
    """How far an address may be used."""

    TENTATIVE = auto()
    """Being asked for: nothing is sent from it, nothing taken for it (RFC 4862, section 5.4)."""
    PREFERRED = auto()
    DEPRECATED = auto()
    """Still valid, but not for what is new."""
    DUPLICATE = auto()
    """Somebody else has it."""


class Origin(Enum):
    """Where an address comes from."""

    LINK_LOCAL = auto()
    STATIC = auto()
    AUTO = auto()
    """Made from a prefix of a router advertisement."""


@final
class OwnAddress:
    """One address of an interface; ``preferred_until`` and ``valid_until`` are None for ever.

    ``attempt`` counts the starts of duplicate address detection, so that a step of an earlier one is known as such;
    ``joined`` tells that its solicited-node group was joined.
    """

    __slots__ = ("address", "attempt", "joined", "origin", "preferred_until", "prefix_length", "state", "valid_until")

    def __init__(self, address: bytes, prefix_length: int, origin: Origin) -> None:
        self.address = address
        self.prefix_length = prefix_length
        self.origin = origin
        self.state = AddressState.TENTATIVE
        self.attempt = 0
        self.joined = False
        self.preferred_until: Instant | None = None
        self.valid_until: Instant | None = None

    def __repr__(self) -> str:
        return f"<OwnAddress {self.value} {self.state.name.lower()}>"

    @property
    def value(self) -> IPv6Interface:
        """The address with its prefix length, for people and configuration."""
        return IPv6Interface((self.address, self.prefix_length))

    @property
    def usable(self) -> bool:
        """Tell whether packets may come from it and go to it."""
        return self.state is AddressState.PREFERRED or self.state is AddressState.DEPRECATED

    def settle(self, now: Instant) -> None:
        """Choose between preferred and deprecated by the lifetimes."""
        old = self.preferred_until is not None and self.preferred_until <= now
        self.state = AddressState.DEPRECATED if old else AddressState.PREFERRED


def choose_source(candidates: Iterable[OwnAddress], destination: bytes) -> bytes | None:
    """Choose the best usable source for a destination (RFC 6724, section 5), the first of equals; None if there is none.

    Rules 1 (the same address), 2 (scope), 3 (not deprecated) and 8 (longest matching prefix) decide; the caller hands over
    the addresses of the outgoing interface (rule 5). The others are about mobility, labels and temporary addresses, none of
    which is here.
    """
    scope = ipv6.scope(destination)

    def rank(own: OwnAddress) -> tuple[bool, bool, int, bool, int]:
        reach = ipv6.scope(own.address)
        wide = reach >= scope  # the smallest of those that reach far enough, else the widest
        return (
            own.address == destination, wide, -reach if wide else reach, own.state is AddressState.PREFERRED,
            min(common_prefix(own.address, destination), own.prefix_length),
        )  # fmt: skip

    best = max((own for own in candidates if own.usable), key=rank, default=None)
    return None if best is None else best.address


def common_prefix(one: bytes, other: bytes) -> int:
    """Count the leading bits that two addresses share."""
    return 128 - (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_length()
