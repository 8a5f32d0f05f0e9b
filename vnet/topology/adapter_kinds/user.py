"""``user``: a way to the outside by the machine's own sockets, which needs no privilege and shows the machine alone.

The adapter is the gateway of its network, and its DNS server; with ``ipv6`` it is an IPv6 router, too, by which guests
configure themselves. What listens on the machine for guests is stated, each by each: see ``Forward``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
)
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, TypeAlias, final

from vnet.topology.adapter_kinds.sockets import SUN_PATH
from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.addressing import is_host6
from vnet.topology.vocabulary import AddressText, InterfaceText, MacText, Strict, about
from vnet.wire.ipv6 import interface_id

if TYPE_CHECKING:
    from vnet.addresses import Mac
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path

DEFAULT_LISTEN: Final = "127.0.0.1"
"""Where a forward listens that names a port alone: nobody else than the machine's own users gets in unasked."""
MOST_FORWARDS: Final = 1024
AUTO: Final = "auto"
"""Instead of an IPv6 address: the first of a prefix that nobody else has."""
PREFIX_LENGTH: Final = 64
"""Hosts make addresses of prefixes of this length (RFC 4862, 5.5.3; RFC 2464, section 4)."""

Protocol: TypeAlias = Literal["tcp", "udp"]
_Route: TypeAlias = tuple[IPv4Network | IPv6Network, IPv4Address | IPv6Address]
_Addresses: TypeAlias = tuple[IPv4Address | IPv6Address, ...]
_TRANSPORT: Final = re.compile(r"(?:(\[[^\]]*\]|[^:\[\]]+):)?([0-9]{1,5})")


class UserForward(Strict, frozen=True, kw_only=True):
    """A place of the machine from which connections or datagrams go to a guest."""

    protocol: Annotated[Protocol, about("tcp or udp.")] = "tcp"
    listen: Annotated[
        str, about("The machine's address and port (127.0.0.1:8080), a port alone, or the path of a unix socket.")
    ]
    to: Annotated[str, about("The guest, by name or address, and its port: web:80.")]


class User(Strict, frozen=True, kw_only=True):
    """A way to the outside by the machine's own sockets."""

    address: Annotated[
        InterfaceText | None,
        about("The adapter's address, which is the network's gateway; not given: the gateway that clients are told."),
    ] = None
    ipv6: Annotated[
        str | None,
        about("Pass IPv6 as well: auto, or the adapter's address, in a prefix of 64 bits; not given: IPv4 only."),
    ] = None
    mac: MacText | None = None
    host: Annotated[
        AddressText | list[AddressText] | None,
        about("An address that stands for the machine's loopback, 127.0.0.1 or ::1; or one of each IP version."),
    ] = None
    source: Annotated[
        AddressText | list[AddressText] | None,
        about("The machine's address that everything leaves from; or one of each IP version."),
    ] = None
    dns: Annotated[list[AddressText], about("Servers that questions go on to, instead of the machine's.")] = []
    routes: Annotated[
        dict[str, AddressText], about("Prefixes behind routers of the lab, and the router's address on this network.")
    ] = {}
    forwards: Annotated[list[UserForward], about("What the machine listens on for guests.")] = []


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A forward in full: ``listen`` is an address, or the path of a unix socket, whose ``port`` is 0."""

    protocol: Protocol
    listen: str
    port: int
    to: IPv4Address | IPv6Address
    to_port: int

    def __str__(self) -> str:
        place = f"[{self.listen}]" if ":" in self.listen and not self.is_path else self.listen
        to = f"[{self.to}]" if self.to.version == 6 else str(self.to)
        return f"{self.protocol} {place}{'' if self.is_path else f':{self.port}'} to {to}:{self.to_port}"

    @property
    def is_path(self) -> bool:
        """Tell whether it listens on a unix socket."""
        return self.listen.startswith("/")

    @property
    def place(self) -> tuple[Protocol, str, int]:
        """What no two forwards may have."""
        return self.protocol, self.listen, self.port


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UserSpec(AdapterSpec):
    """A gateway at ``address``, whose traffic goes on by sockets of the machine."""

    kind: ClassVar[str] = "user"
    address: IPv4Interface
    mac: Mac
    host: IPv4Address | None = None
    source: IPv4Address | None = None
    address6: IPv6Interface | None = None
    host6: IPv6Address | None = None
    source6: IPv6Address | None = None
    dns: tuple[IPv4Address | IPv6Address, ...] = ()
    routes: tuple[_Route, ...] = ()
    forwards: tuple[Forward, ...] = ()

    @property
    def own(self) -> _Addresses:
        """The addresses that the adapter answers for, those that stand for the machine too."""
        six = None if self.address6 is None else self.address6.ip
        return tuple(each for each in (self.address.ip, self.host, six, self.host6) if each is not None)

    def describe(self) -> str:
        """Say the addresses, and how many ways in there are."""
        count = len(self.forwards)
        both = f"{self.address}" if self.address6 is None else f"{self.address} and {self.address6}"
        return f"{self.kind} {both}" + (f" with {count} forward{'s' * (count > 1)}" if count else "")


def resolve_user(model: User, around: Surroundings, path: Path) -> UserSpec | None:
    """Read what is typed; choose the address where none is."""
    subnet, reader = around.subnet, around.reader
    if not isinstance(subnet, IPv4Network):
        if not around.has_lost_subnet:
            around.error(path, "the user adapter needs a network with an IPv4 subnet, such as subnet: 10.0.2.0/24")
        return None
    address = _own_address(model, around, subnet, path)
    if address is None:
        return None
    mac = reader.mac(model.mac, (*path, "mac")) or around.mac("user")
    address6 = _own_address6(model, around, mac, (*path, "ipv6"))
    host, host6 = _one_of_each(model.host, around, (*path, "host"))
    _check_alias(host, around, address, (*path, "host"))
    if host6 is not None and model.ipv6 is None:
        around.error((*path, "host"), f"{host6} is an IPv6 address, and the adapter passes none; give it ipv6: auto")
    else:
        _check_alias(host6, around, address6, (*path, "host"))
    source, source6 = _one_of_each(model.source, around, (*path, "source"))
    for each in (source, source6):
        if each is not None and not _is_individual(each):
            around.error((*path, "source"), f"{each} cannot be a source; write an address that the machine has")
    dns = tuple(each for index, text in enumerate(model.dns) if (each := reader.scoped_address(text, (*path, "dns", index))))
    spec = UserSpec(
        address=address,
        mac=mac,
        host=host,
        source=source,
        address6=address6,
        host6=host6,
        source6=source6,
        dns=dns,
        routes=_routes(model, around, (subnet, None if address6 is None else address6.network), path),
    )
    return replace(spec, forwards=_forwards(model, spec, around, (*path, "forwards")))


def _own_address(model: User, around: Surroundings, subnet: IPv4Network, path: Path) -> IPv4Interface | None:
    if model.address is None:
        own = around.gateway or around.free_address()
        if own is None:
            around.error(path, f"{subnet} has no address left for the adapter")
            return None
        return IPv4Interface(f"{own}/{subnet.prefixlen}")
    read = around.reader.interface(model.address, subnet, (*path, "address"))
    if read is None:
        return None
    if not isinstance(read, IPv4Interface) or read.ip not in subnet:
        around.error((*path, "address"), f"{read} does not belong to the network's subnet {subnet}")
        return None
    if read.ip in around.addresses.values():
        around.error((*path, "address"), f"{read.ip} is the address of a node on the network already")
        return None
    return read


def _own_address6(model: User, around: Surroundings, mac: Mac, path: Path) -> IPv6Interface | None:
    if model.ipv6 is None:
        return None
    if model.ipv6.strip().lower() == AUTO:
        read: object = _unique_local(mac)
    else:
        read = around.reader.interface(model.ipv6, IPv6Network((0, PREFIX_LENGTH)), path)
    if read is None:
        return None
    if not isinstance(read, IPv6Interface):
        around.error(path, f"{model.ipv6[:60]} is an IPv4 address; write ipv6: auto, or one such as fd00:6::1/64")
        return None
    if not _is_global(read.ip) or read.ip == read.network.network_address or read.network.prefixlen != PREFIX_LENGTH:
        right = f"it needs one of its own in a prefix of {PREFIX_LENGTH} bits, such as fd00:6::1/64, or ipv6: auto"
        around.error(path, f"the adapter cannot have {read}: {right}")
        return None
    if read.ip in around.holders:
        around.error(path, f"{read.ip} is the address of {around.holders[read.ip]} on the network already")
        return None
    return read


def _unique_local(mac: Mac) -> IPv6Interface:
    """Make a prefix that nobody else has as RFC 4193, section 3.2.2 does, without the time: each run has the same one."""
    global_id = hashlib.sha256(interface_id(mac)).digest()[-5:]
    return IPv6Interface((b"\xfd" + global_id + bytes(9) + b"\x01", PREFIX_LENGTH))


def _ends(own: IPv4Interface | IPv6Interface) -> _Addresses:
    """Return the addresses of a subnet that are nobody's: its own, and that of all over IPv4 (RFC 4291, 2.6.1; RFC 919)."""
    network = own.network
    if isinstance(network, IPv6Network):
        return (network.network_address,)
    return (network.network_address, network.broadcast_address) if network.prefixlen < 31 else ()


def _is_individual(address: IPv4Address | IPv6Address) -> bool:
    """Tell whether an address is that of one node, and of use beyond its link."""
    if isinstance(address, IPv6Address):
        return _is_global(address)
    return 0 < address.packed[0] < 0xE0 and not address.is_loopback


def _is_global(address: IPv6Address) -> bool:
    """Tell whether an address is of use beyond its link, and is none of the IPv4 addresses in disguise of ::/8."""
    return is_host6(address) and not address.is_link_local and address.packed[0] != 0


def _one_of_each(
    given: str | list[str] | None, around: Surroundings, path: Path
) -> tuple[IPv4Address | None, IPv6Address | None]:
    """Read an address, or several of different IP versions."""
    found4, found6 = None, None
    for text in [given] if isinstance(given, str) else given or ():
        address = around.reader.address(text, path)
        if isinstance(address, IPv4Address) and found4 is None:
            found4 = address
        elif isinstance(address, IPv6Address) and found6 is None:
            found6 = address
        elif address is not None:
            around.error(path, f"{address} is the second of IPv{address.version}; there may be one of each IP version")
    return found4, found6


def _check_alias(
    alias: IPv4Address | IPv6Address | None, around: Surroundings, own: IPv4Interface | IPv6Interface | None, path: Path
) -> None:
    if alias is None:
        return
    if alias in around.addresses.values() or alias in around.holders or (own is not None and alias == own.ip):
        around.error(path, f"{alias} is the address of a node; an alias needs one that nobody has")
    elif not _is_individual(alias) or (own is not None and alias in _ends(own)):
        right = "fd00:6::99" if isinstance(alias, IPv6Address) else "10.0.2.99"
        around.error(path, f"{alias} cannot be an alias; write an address such as {right}")


def _routes(
    model: User, around: Surroundings, own: tuple[IPv4Network, IPv6Network | None], path: Path
) -> tuple[_Route, ...]:
    found: list[_Route] = []
    for text, via in model.routes.items():
        place = (*path, "routes", text)
        prefix, hop = around.reader.prefix(text, place), around.reader.address(via, place)
        if prefix is None or hop is None:
            continue
        subnet = own[0] if prefix.version == 4 else own[1]
        if subnet is None and model.ipv6 is not None:
            continue  # what is wrong with that was said already
        if prefix.version == hop.version and subnet is not None and hop in subnet:
            found.append((prefix, hop))
        else:
            here = " or ".join(str(network) for network in own if network is not None)
            around.error(place, f"{text} by {via}: a route is by an address in {here}, of the same IP version")
    return tuple(found)


def _forwards(model: User, spec: UserSpec, around: Surroundings, path: Path) -> tuple[Forward, ...]:
    has_ipv6 = model.ipv6 is not None
    found: list[Forward] = []
    for index, each in enumerate(model.forwards):
        forward = resolve_forward(each, around, (*path, index), has_ipv6=has_ipv6, own=spec.own)
        if forward is None:
            continue
        if any(other.place == forward.place for other in found):
            around.error((*path, index), f"{each.listen} is forwarded already")
        elif len(found) >= MOST_FORWARDS:
            around.error((*path, index), f"there are more than {MOST_FORWARDS} forwards")
            break
        else:
            found.append(forward)
    return tuple(found)


def resolve_forward(
    model: UserForward, around: Surroundings, path: Path, *, has_ipv6: bool, own: _Addresses
) -> Forward | None:
    """Read one forward of an adapter that *has_ipv6* or not; None after a mistake, which is noted.

    Its *own* addresses are no targets: what goes to one comes back to the machine, perhaps to the same forward, for ever.
    """
    target = _target(model.to, around, has_ipv6, own, (*path, "to"))
    place = resolve_place(model.protocol, model.listen, around, (*path, "listen"))
    if target is None or place is None:
        return None
    return Forward(protocol=model.protocol, listen=place[1], port=place[2], to=target[0], to_port=target[1])


def resolve_place(protocol: Protocol, listen: str, around: Surroundings, path: Path) -> tuple[Protocol, str, int] | None:
    """Read where a forward listens, as ``Forward.place`` has it; None after a mistake, which is noted."""
    text = listen.strip().removeprefix("unix:")
    if text.startswith("/"):
        if protocol == "udp" or len(text.encode()) > SUN_PATH or "\0" in text:
            why = f"unix sockets are for tcp, in paths of up to {SUN_PATH} octets"
            around.error(path, f"{text[:40]!r} is no place for {protocol}: {why}")
            return None
        return protocol, text, 0
    match = _TRANSPORT.fullmatch(text)
    port = around.reader.port(match[2]) if match else 0
    if match is None or not port:
        around.error(
            path, f"{text[:40]!r} is not a place to listen; write one such as 127.0.0.1:8080, 8080 or /run/web.sock"
        )
        return None
    address = around.reader.scoped_address((match[1] or DEFAULT_LISTEN).strip("[]"), path)
    return None if address is None else (protocol, str(address), port)


def _target(
    text: str, around: Surroundings, has_ipv6: bool, own: _Addresses, path: Path
) -> tuple[IPv4Address | IPv6Address, int] | None:
    name, _, port = text.strip().rpartition(":")
    number = around.reader.port(port)
    if not number or not name:
        around.error(path, f"{text[:40]!r} is not a guest with a port; write one such as web:80")
        return None
    address: IPv4Address | IPv6Address | None = around.addresses.get(name)
    if address is None and has_ipv6:
        address = around.addresses6.get(name)
    if address is None:
        try:
            address = ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            text = f"{name[:40]!r} has no fixed address on network {around.network!r}; give it one, or write its address"
            around.error(path, text)
            return None
    if isinstance(address, IPv6Address) and not has_ipv6:
        around.error(path, f"{address} is an IPv6 address, and the adapter passes none; give it ipv6: auto")
        return None
    if not _is_individual(address) or getattr(address, "scope_id", None) or address in own:
        right = "[fd00:6::5]:80" if isinstance(address, IPv6Address) else "10.0.2.5:80"
        around.error(path, f"{address} is no address of a guest; write one such as {right}")
        return None
    return address, number
