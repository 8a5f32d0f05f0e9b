"""``user``: a way to the outside by the machine's own sockets, which needs no privilege and shows the machine alone.

The adapter is the gateway of its network, and its DNS server. What listens on the machine for guests is stated, each by
each: see ``Forward``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, ip_address
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, TypeAlias, final

from vnet.topology.adapter_kinds.sockets import SUN_PATH
from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.vocabulary import AddressText, InterfaceText, MacText, Strict, about

if TYPE_CHECKING:
    from vnet.addresses import Mac
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path

DEFAULT_LISTEN: Final = "127.0.0.1"
"""Where a forward listens that names a port alone: nobody else than the machine's own users gets in unasked."""
MOST_FORWARDS: Final = 1024

Protocol: TypeAlias = Literal["tcp", "udp"]
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
    mac: MacText | None = None
    host: Annotated[AddressText | None, about("An address that stands for the machine's loopback, 127.0.0.1.")] = None
    source: Annotated[AddressText | None, about("The machine's address that everything leaves from.")] = None
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
    to: IPv4Address
    to_port: int

    def __str__(self) -> str:
        place = f"[{self.listen}]" if ":" in self.listen and not self.is_path else self.listen
        return f"{self.protocol} {place}{'' if self.is_path else f':{self.port}'} to {self.to}:{self.to_port}"

    @property
    def is_path(self) -> bool:
        """Tell whether it listens on a unix socket."""
        return self.listen.startswith("/")

    @property
    def place(self) -> tuple[str, str, int]:
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
    dns: tuple[IPv4Address | IPv6Address, ...] = ()
    routes: tuple[tuple[IPv4Network, IPv4Address], ...] = ()
    forwards: tuple[Forward, ...] = ()

    def describe(self) -> str:
        """Say the address, and how many ways in there are."""
        count = len(self.forwards)
        return f"{self.kind} {self.address}" + (f" with {count} forward{'s' * (count > 1)}" if count else "")


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
    host = reader.address4(model.host, (*path, "host"))
    if host is not None and (host in around.addresses.values() or host == address.ip):
        around.error((*path, "host"), f"{host} is the address of a node; an alias needs one that nobody has")
    dns = tuple(each for index, text in enumerate(model.dns) if (each := reader.address(text, (*path, "dns", index))))
    return UserSpec(
        address=address,
        mac=reader.mac(model.mac, (*path, "mac")) or around.mac("user"),
        host=host,
        source=reader.address4(model.source, (*path, "source")),
        dns=dns,
        routes=_routes(model, around, subnet, path),
        forwards=_forwards(model, around, (*path, "forwards")),
    )


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


def _routes(
    model: User, around: Surroundings, subnet: IPv4Network, path: Path
) -> tuple[tuple[IPv4Network, IPv4Address], ...]:
    found = []
    for text, via in model.routes.items():
        place = (*path, "routes", text)
        prefix, hop = around.reader.prefix(text, place), around.reader.address4(via, place)
        if prefix is None or hop is None:
            continue
        if not isinstance(prefix, IPv4Network) or hop not in subnet:
            around.error(place, f"{text} by {via}: a route is for an IPv4 prefix, by an address in {subnet}")
            continue
        found.append((prefix, hop))
    return tuple(found)


def _forwards(model: User, around: Surroundings, path: Path) -> tuple[Forward, ...]:
    found: list[Forward] = []
    for index, each in enumerate(model.forwards):
        forward = resolve_forward(each, around, (*path, index))
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


def resolve_forward(model: UserForward, around: Surroundings, path: Path) -> Forward | None:
    """Read one forward; None after a mistake, which is noted."""
    target = _target(model.to, around, (*path, "to"))
    place = _place(model, around, (*path, "listen"))
    if target is None or place is None:
        return None
    return Forward(protocol=model.protocol, listen=place[0], port=place[1], to=target[0], to_port=target[1])


def _place(model: UserForward, around: Surroundings, path: Path) -> tuple[str, int] | None:
    text = model.listen.strip().removeprefix("unix:")
    if text.startswith("/"):
        if model.protocol == "udp" or len(text.encode()) > SUN_PATH or "\0" in text:
            why = f"unix sockets are for tcp, in paths of up to {SUN_PATH} octets"
            around.error(path, f"{text[:40]!r} is no place for {model.protocol}: {why}")
            return None
        return text, 0
    match = _TRANSPORT.fullmatch(text)
    port = around.reader.port(match[2]) if match else 0
    if match is None or not port:
        around.error(
            path, f"{text[:40]!r} is not a place to listen; write one such as 127.0.0.1:8080, 8080 or /run/web.sock"
        )
        return None
    address = around.reader.address((match[1] or DEFAULT_LISTEN).strip("[]"), path)
    return None if address is None else (str(address), port)


def _target(text: str, around: Surroundings, path: Path) -> tuple[IPv4Address, int] | None:
    name, _, port = text.strip().rpartition(":")
    number = around.reader.port(port)
    if not number or not name:
        around.error(path, f"{text[:40]!r} is not a guest with a port; write one such as web:80")
        return None
    address = around.addresses.get(name)
    if address is None:
        try:
            read = ip_address(name)
        except ValueError:
            read = None
        if not isinstance(read, IPv4Address):
            text = f"{name[:40]!r} has no fixed address on network {around.network!r}; give it one, or write its address"
            around.error(path, text)
            return None
        address = read
    return address, number
