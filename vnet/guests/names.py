"""The names that the programs of one guest may use: those of the lab first, then DNS, as ``hosts: files dns`` has it.

Addresses as text, ``localhost`` and the lab's own names are known at once, so they need no server. For whatever else the
guest's servers are asked: those of the topology, then those of its leases and of router advertisements, in the order of its
NICs. A guest without servers knows no other names.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias, final

from vnet.errors import NetworkError, NoAnswer, PeerError, UnknownName, UsageError
from vnet.guests.answers import Answer
from vnet.guests.base import Address, HasAddress, Target
from vnet.guests.socket_errors import name_error
from vnet.stack.destinations import by_preference
from vnet.stack.dhcp_lease import Lease
from vnet.stack.host import Host
from vnet.stack.resolver import ResolverSettings
from vnet.stack.resolver_answer import Outcome, Result
from vnet.stack.resolver_client import HostLookup
from vnet.wire import dns

Resolver: TypeAlias = Callable[[str], "Address | Sequence[Address] | None"]
"""Gives the address of a node of the lab by its name, or several; None for what is no node. It may raise NoAnswer."""
Reverse: TypeAlias = Callable[[Address], "str | None"]
"""Gives the name of the node that has an address."""

LOOPBACK: Final = bytes((127, 0, 0, 1))
LOOPBACK6: Final = bytes(15) + b"\x01"
_OCTETS: Final = {int(socket.AF_INET): (4,), int(socket.AF_INET6): (16,)}
_KINDS: Final = {4: dns.A, 16: dns.AAAA}
_ERRORS: Final = {
    Outcome.NO_NAME: (socket.EAI_NONAME, "Name or service not known"),
    Outcome.NO_DATA: (socket.EAI_NODATA, "No address associated with hostname"),
    Outcome.AGAIN: (socket.EAI_AGAIN, "Temporary failure in name resolution"),
    Outcome.FAILED: (socket.EAI_NONAME, "Name or service not known"),
}
"""Numbers and words of glibc, which has no other for a server's FORMERR either."""


@final
class Names:
    """The names of one guest, which has *leases* now.

    ``servers`` are asked before those of leases and router advertisements. ``search`` are the domains in which names without
    a dot are looked up; if there are none, those of the leases.
    """

    __slots__ = ("_host", "_leases", "_lookups", "_resolver", "_reverse", "search", "servers")

    def __init__(self, host: Host, leases: Callable[[], Iterable[Lease]], resolver: Resolver | None) -> None:
        self.servers: tuple[Address, ...] = ()
        self.search: tuple[str, ...] = ()
        self._host = host
        self._leases = leases
        self._resolver = resolver
        self._reverse: Reverse | None = None
        self._lookups: dict[HostLookup, None] = {}

    def use(self, resolver: Resolver, reverse: Reverse | None) -> None:
        """Know the lab's names by other functions."""
        self._resolver, self._reverse = resolver, reverse

    def move(self, host: Host) -> None:
        """Go on as another host: what is being looked up is not answered any more."""
        for lookup in tuple(self._lookups):
            lookup.abort()
        self._host = host

    @property
    def settings(self) -> ResolverSettings:
        """What the resolver goes by now."""
        leases = list(self._leases())
        servers = [each.packed for each in self.servers]
        servers += [server.packed for lease in leases for server in lease.dns]
        sides = [interface.ipv6 for interface in self._host.interfaces.values() if interface.ipv6 is not None]
        servers += [server for side in sides if side.autoconf is not None for server in side.autoconf.servers]
        search = self.search or tuple(lease.domain for lease in leases if lease.domain)
        return ResolverSettings(servers=tuple(dict.fromkeys(servers)), search=search)

    def near(self, name: str, family: int = 0) -> list[bytes]:
        """Return the packed addresses of what needs no server, none for any other name; raise NoAnswer for a node of the lab
        that has no address yet. Of a node's addresses an IPv4 one comes first."""
        try:
            found = [ip_address(name).packed]
        except ValueError:
            plain = name.removesuffix(".")
            if plain.lower() == "localhost" or plain.lower().endswith(".localhost"):
                found = [LOOPBACK6, LOOPBACK]  # RFC 6761, 6.3
            else:
                found = self._in_lab(plain)
        return [address for address in found if len(address) in _OCTETS.get(family, (4, 16))]

    def _in_lab(self, name: str) -> list[bytes]:
        resolver = self._resolver
        if resolver is None:
            return []
        for spelling in dict.fromkeys((name, name.lower())):
            found = resolver(spelling)
            if found is not None:
                return [each.packed for each in (found if isinstance(found, Sequence) else (found,))]
        return []

    async def find(self, name: str, family: int = 0) -> Result:
        """Look a name up; of DNS, the best address comes first (RFC 6724, 6). Without waiting there is no checkpoint."""
        try:
            near = self.near(name, family)
        except NoAnswer as error:
            return Result(outcome=Outcome.AGAIN, told=(str(error),))
        if near:
            return Result(outcome=Outcome.FOUND, addresses=tuple(near))
        if not self.settings.servers:
            known = bool(family) and bool(self.near(name))
            return Result(outcome=Outcome.NO_DATA if known else Outcome.NO_NAME)
        kinds = tuple(_KINDS[octets] for octets in _OCTETS.get(family, (4, 16)))
        result = await self._ask(name, kinds)
        return replace(result, addresses=tuple(by_preference(self._host, result.addresses)))

    async def addresses(self, name: str) -> list[bytes]:
        """Return the packed addresses of a name; raise UsageError for what no server was there to be asked for, NoAnswer,
        PeerError or UnknownName, which say what each server did."""
        result = await self.find(name)
        if result.outcome is Outcome.FOUND:
            return list(result.addresses)
        if not result.told and not self.settings.servers:
            raise UsageError(f"{name!r} is neither an IP address nor a guest that has one")
        raise _failure(name, result)

    async def locate(self, target: Target | HasAddress) -> list[bytes]:
        """Return the packed addresses of an address, a name or a node; raise NoAnswer for a node that has none yet, and what
        ``addresses`` raises."""
        if isinstance(target, IPv4Address | IPv6Address):
            return [target.packed]
        if isinstance(target, str):
            return await self.addresses(target)
        if not hasattr(target, "address"):
            raise UsageError(f"a target is an address, a name or a guest, not {target!r}")
        if target.address is None:
            raise NoAnswer("the target has no address yet")
        return [target.address.packed]

    async def name_of(self, address: Address) -> Result:
        """Find the name of an address: that of the lab, or what the address's PTR record says."""
        if address.is_loopback:
            return Result(outcome=Outcome.FOUND, names=((b"localhost",),))
        name = None if self._reverse is None else self._reverse(address)
        if name is not None:
            return Result(outcome=Outcome.FOUND, names=(tuple(name.encode().split(b".")),))
        return await self._ask(address.reverse_pointer + ".", (dns.PTR,))

    async def _ask(self, name: str, kinds: tuple[int, ...]) -> Result:
        settings = self.settings
        if not settings.servers:
            return Result(outcome=Outcome.NO_NAME)
        answer = Answer[Result]()
        lookup = HostLookup(self._host, name, kinds, settings, answer)
        self._lookups[lookup] = None
        lookup.start()
        try:
            return await answer.wait()
        finally:
            lookup.cancel()
            self._lookups.pop(lookup, None)


def gai_error(name: str, result: Result) -> socket.gaierror:
    """Make what getaddrinfo raises for a name that was not found, and say what each server did."""
    number, text = _ERRORS[result.outcome]
    told = _told(result.told)
    return name_error(number, f"{name}: {text}{f' ({told})' if told else ''}")


def _failure(name: str, result: Result) -> NetworkError:
    told = _told(result.told)
    behind = f" ({told})" if told else ""
    match result.outcome:
        case Outcome.NO_NAME:
            return UnknownName(f"there is no name {name}{behind}")
        case Outcome.NO_DATA:
            return UnknownName(f"{name} has no address{behind}")
        case Outcome.FAILED:
            return PeerError(f"{name} cannot be looked up{behind}")
        case _:
            return NoAnswer(f"{name} cannot be looked up now{behind}")


def _told(each: Iterable[str]) -> str:
    return ", ".join(f"{text}, {count} times" if count > 1 else text for text, count in Counter(each).items())
