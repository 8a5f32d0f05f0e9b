"""What every guest offers, whatever it is made of: the ``Guest`` protocol and the values its methods return.

A lab, a test and the command line ask any guest to probe the network and learn the same thing in the same words, whether
the guest is an emulated host in virtual time or a Linux namespace. A probe that fails is an answer, not an exception: only
a wrong call (an unknown name, a guest that was never started) raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Protocol, TypeAlias, final

from vnet.addresses import Mac, format_mac
from vnet.errors import UsageError
from vnet.guests.program import GuestProgram, Row
from vnet.ports import Port
from vnet.units import Duration

Address: TypeAlias = IPv4Address | IPv6Address
Target: TypeAlias = str | Address
"""Where a probe goes: an address, as text or not. Names are turned into addresses by the lab before they come here."""


class HasAddress(Protocol):
    """Whatever can be talked to: another guest, a router."""

    @property
    def address(self) -> Address | None:
        """Its first address, if it has one now."""


def checked_port(port: int) -> int:
    """Pass a port number; raise UsageError for what is none."""
    if not isinstance(port, int) or not 0 <= port <= 0xFFFF:
        raise UsageError(f"{port!r} is not a port: it must be 0 to 65535")
    return port


@final
@dataclass(frozen=True, slots=True)
class PingReply:
    """What became of ``ping``: *ok* if at least one echo request was answered.

    *rtt* is the shortest round trip in nanoseconds, None without an answer. *error* says in a few words why there was none:
    "no answer", or what an ICMP error said ("host unreachable from 10.0.0.1"); it is empty if *ok*.
    """

    ok: bool
    rtt: Duration | None = None
    error: str = ""
    sent: int = 1
    received: int = 0
    responder: Address | None = None
    """Who answered, or who sent the ICMP error."""

    def __bool__(self) -> bool:
        return self.ok


@final
class Verdict(Enum):
    """What a probe of one port found."""

    OPEN = "open"
    """TCP: the connection was accepted. UDP: a datagram came back."""
    CLOSED = "closed"
    """TCP: a reset. UDP: ICMP port unreachable (RFC 1122, 4.1.3.1)."""
    SILENT = "silent"
    """Nothing came back: a firewall dropped it, or (UDP) the program behind the port does not answer."""
    UNREACHABLE = "unreachable"
    """No route, no neighbor, or an ICMP error other than port unreachable."""


@final
@dataclass(frozen=True, slots=True)
class ProbeReply:
    """What became of ``tcp_probe`` or ``udp_probe``: *ok* if the port is open.

    *rtt* is the time to the answer in nanoseconds (open or closed), None without one; *error* is empty if *ok*.
    """

    verdict: Verdict
    rtt: Duration | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether the port is open."""
        return self.verdict is Verdict.OPEN

    def __bool__(self) -> bool:
        return self.ok


@final
@dataclass(frozen=True, slots=True)
class InterfaceState:
    """How one interface of a guest stands now, for ``vnet show guests``."""

    name: str
    mac: Mac
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    gateway: Address | None = None
    up: bool = True
    dhcp: str = ""
    """State of the DHCP client ("bound", "selecting", ...), empty if there is none."""
    active: str = ""
    """The NIC that a bond uses, empty if it has none or is no bond."""

    def __repr__(self) -> str:
        fields = {
            "name": repr(self.name), "mac": format_mac(self.mac), "addresses": f"({', '.join(map(str, self.addresses))})",
            "gateway": str(self.gateway), "up": str(self.up), "dhcp": repr(self.dhcp), "active": repr(self.active),
        }  # fmt: skip
        return f"InterfaceState({', '.join(f'{key}={text}' for key, text in fields.items())})"


class Guest(Protocol):
    """A box with its own code that is plugged into the fabric."""

    @property
    def name(self) -> str:
        """As the topology names it, without the lab's name."""

    @property
    def kind(self) -> str:
        """Name the kind as the topology does: ``emulated``, ``namespace``."""

    @property
    def ports(self) -> Sequence[Port]:
        """The guest's ends of its cables, in the order of its NICs."""

    @property
    def address(self) -> Address | None:
        """The first address that the guest has now, an IPv4 one if there is any."""

    @property
    def programs(self) -> Sequence[GuestProgram]:
        """The programs that the topology has it run."""

    @property
    def results(self) -> Sequence[Row]:
        """What they measured until now."""

    def interfaces(self) -> Sequence[InterfaceState]:
        """Describe the interfaces as they are now."""

    async def dhcp(self, timeout: float = 30.0) -> IPv4Address:
        """Wait until every interface that uses DHCP has an address; return the first; raise NoAnswer after *timeout* s."""

    async def ping(self, target: Target, count: int = 1, timeout: float = 1.0, size: int = 56) -> PingReply:
        """Send *count* ICMP echo requests of *size* octets of data, one after the other, *timeout* s for each."""

    async def tcp_probe(self, target: Target, port: int, timeout: float = 1.0) -> ProbeReply:
        """Open a TCP connection and close it again."""

    async def udp_probe(self, target: Target, port: int, payload: bytes = b"vnet", timeout: float = 1.0) -> ProbeReply:
        """Send one datagram and wait for an answer."""
