"""``loopback``: an interface of the machine on the network: the machine and the guests talk, nobody else does (VS-30)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface
from typing import TYPE_CHECKING, Annotated, ClassVar, final

from vnet.addresses import Mac
from vnet.topology.adapter_kinds.names import LONGEST_NAME, check_interface_name
from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.addressing import host_problem, is_host6
from vnet.topology.vocabulary import InterfaceText, MacText, Strict, about

if TYPE_CHECKING:
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path


class Loopback(Strict, frozen=True, kw_only=True):
    """An interface of the machine on the network."""

    address: Annotated[
        InterfaceText | list[InterfaceText] | None,
        about("The machine's address there, or several; not given: the first free one of the subnet."),
    ] = None
    mac: MacText | None = None
    name: Annotated[str | None, about("What the machine calls the interface; not given: vn- and the network.")] = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LoopbackSpec(AdapterSpec):
    """An interface called ``name`` on the machine, with its own MAC address and addresses."""

    kind: ClassVar[str] = "loopback"
    works_simulated: ClassVar[bool] = True
    name: str
    mac: Mac
    addresses: tuple[IPv4Interface | IPv6Interface, ...]

    def describe(self) -> str:
        """Say which interface with which addresses."""
        return " ".join([self.kind, self.name, *(str(address) for address in self.addresses)])


def resolve_loopback(model: Loopback, around: Surroundings, path: Path) -> LoopbackSpec:
    """Read what is typed; choose name, MAC address and address where nothing is."""
    name = model.name or _derived_name(around.network)
    check_interface_name(name, around, (*path, "name"))
    mac = around.reader.mac(model.mac, (*path, "mac")) or around.mac("host")
    return LoopbackSpec(name=name, mac=mac, addresses=_addresses(model, mac, around, path))


def _addresses(model: Loopback, mac: Mac, around: Surroundings, path: Path) -> tuple[IPv4Interface | IPv6Interface, ...]:
    subnet = around.subnet
    if model.address is None:
        free = around.free_address()
        if free is None or not isinstance(subnet, IPv4Network):
            return ()  # pure layer 2, or full: there is nothing to choose
        return (IPv4Interface(f"{free}/{subnet.prefixlen}"),)
    texts = [model.address] if isinstance(model.address, str) else model.address
    lost = around.has_lost_subnet
    read = (around.reader.interface(text, subnet, (*path, "address"), lost=lost) for text in texts)
    addresses = tuple(dict.fromkeys(address for address in read if address is not None))
    for address in addresses:
        _check_address(address, mac, around, (*path, "address"))
    return addresses


def _check_address(address: IPv4Interface | IPv6Interface, mac: Mac, around: Surroundings, path: Path) -> None:
    """Hold an address of the machine to what goes for those of guests: of the subnet, a host's, and nobody else's."""
    problems, ip, subnet = around.problems, address.ip, around.subnet
    if isinstance(ip, IPv6Address) and not is_host6(ip):
        problems.error("bad-address", path, f"{ip} is no address of a host; write one such as 2001:db8::27/64")
        return
    if subnet is None or subnet.version != address.version:
        subnet = address.network
    elif ip not in subnet:
        text = f"{ip} is outside {subnet}, the subnet of network {around.network!r}"
        problems.error("outside-subnet", path, text)
        return
    elif address.network.prefixlen != subnet.prefixlen:
        text = f"{address} differs in prefix length from {subnet}, the subnet of network {around.network!r}"
        problems.warning("prefix-length", path, text)
    if isinstance(ip, IPv4Address) and isinstance(subnet, IPv4Network) and (text := host_problem(ip, subnet)):
        problems.error("network-address", path, text)
        return
    is_kept = around.reserved.get(mac) == ip
    if ip in around.holders and not is_kept:
        problems.error("duplicate-address", path, f"{ip} belongs to {around.holders[ip]} already; choose another")
    elif isinstance(ip, IPv4Address) and around.leased is not None and ip != around.told and not is_kept:
        first, last = around.leased
        if first <= ip <= last:
            text = f"{ip} is in the DHCP range {first}-{last}, and may be leased to somebody else; choose one outside it"
            problems.error("static-in-range", path, text)


def _derived_name(network: str) -> str:
    """Make an interface's name of a network's; a long one is cut, and told from its like by a few octets of a hash."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", network)
    name = f"vn-{plain}"
    if plain == network and len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 5]}-{hashlib.sha256(network.encode()).hexdigest()[:4]}"
