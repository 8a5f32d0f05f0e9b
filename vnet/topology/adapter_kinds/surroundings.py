"""What reading an adapter needs to know of the network that it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import final

from vnet.addresses import Mac
from vnet.topology.problems import Path, Problems
from vnet.topology.reading import Reader


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The network of an adapter, as far as the adapter's defaults and checks depend on it.

    ``free_address`` gives the first host address of the subnet that nobody has; ``gateway`` is the address that clients are
    told, or guests have, as their gateway although no router has it; ``mac`` derives a MAC address for a name;
    ``addresses`` are the IPv4 addresses, static or reserved, of guests and routers on the network, by name, ``addresses6``
    the static IPv6 ones. ``holders`` says
    of each address that somebody has for sure who that is; ``leased`` is the range of the lab's DHCP server, None if there
    is none on the network; ``reserved`` are the addresses that it keeps for MAC addresses, ``told`` the gateway it tells.
    """

    network: str
    subnet: IPv4Network | IPv6Network | None
    problems: Problems
    free_address: Callable[[], IPv4Address | None]
    gateway: IPv4Address | None
    mac: Callable[[str], Mac]
    addresses: Mapping[str, IPv4Address]
    addresses6: Mapping[str, IPv6Address]
    holders: Mapping[IPv4Address | IPv6Address, str]
    leased: tuple[IPv4Address, IPv4Address] | None
    reserved: Mapping[Mac, IPv4Address]
    told: IPv4Address | None

    @property
    def reader(self) -> Reader:
        """Reads values, and notes what is wrong with them."""
        return Reader(self.problems)

    @property
    def has_dhcp(self) -> bool:
        """Tell whether a DHCP server of the lab serves the network."""
        return self.leased is not None

    @property
    def has_lost_subnet(self) -> bool:
        """Tell whether the file gives a subnet that cannot be used, which was said already."""
        return self.problems.lost(("networks", self.network, "subnet"))

    def error(self, path: Path, text: str) -> None:
        """Note that the adapter cannot be as it is written."""
        self.problems.error("bad-adapter", path, text)
