"""A lease as the client sees it: what an OFFER or ACK says, checked and in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from typing import final

from vnet.errors import WireError
from vnet.units import SECOND, Duration, Instant
from vnet.wire import dhcpv4_options as opt
from vnet.wire.dhcpv4 import NO_ADDRESS, Message
from vnet.wire.ipv4 import may_be_source


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """An address for a time, and what came with it.

    ``obtained_at`` is when the request was sent, from which the times count (RFC 2131, 4.4.1). ``duration`` is None for a
    lease without end; then there is no ``t1`` and ``t2`` either.
    """

    address: IPv4Interface
    server: IPv4Address
    obtained_at: Instant
    duration: Duration | None
    t1: Duration | None
    t2: Duration | None
    gateway: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()
    domain: str = ""
    wins: tuple[IPv4Address, ...] = ()

    @property
    def renew_at(self) -> Instant | None:
        """Return the instant of T1."""
        return None if self.t1 is None else self.obtained_at + self.t1

    @property
    def rebind_at(self) -> Instant | None:
        """Return the instant of T2."""
        return None if self.t2 is None else self.obtained_at + self.t2

    @property
    def ends_at(self) -> Instant | None:
        """Return the instant from which the address must not be used any more."""
        return None if self.duration is None else self.obtained_at + self.duration


def read_lease(message: Message, requested_at: Instant) -> Lease:
    """Read an OFFER or ACK; raise WireError if it does not say what it must, or something that cannot be."""
    options = message.options
    if message.yiaddr == NO_ADDRESS or not may_be_source(message.yiaddr):
        raise WireError("a DHCP server offers an address that no host can have")
    if opt.SERVER_ID not in options or opt.LEASE_TIME not in options:
        raise WireError("a DHCP offer needs server identifier and lease time")
    prefix = opt.decode_mask(options[opt.SUBNET_MASK]) if opt.SUBNET_MASK in options else _natural_prefix(message.yiaddr)
    address = IPv4Interface((message.yiaddr, prefix))
    routers = opt.decode_addresses(options[opt.ROUTER]) if opt.ROUTER in options else ()
    duration, t1, t2 = _read_times(options)
    return Lease(
        address=address,
        server=opt.decode_address(options[opt.SERVER_ID]),
        obtained_at=requested_at,
        duration=duration,
        t1=t1,
        t2=t2,
        gateway=next((router for router in routers if router in address.network and router != address.ip), None),
        dns=opt.decode_addresses(options[opt.DNS_SERVERS]) if opt.DNS_SERVERS in options else (),
        domain=opt.decode_text(options.get(opt.DOMAIN_NAME, b"")),
        wins=opt.decode_addresses(options[opt.WINS_SERVERS]) if opt.WINS_SERVERS in options else (),
    )


def _read_times(options: Mapping[int, bytes]) -> tuple[Duration | None, Duration | None, Duration | None]:
    """Read lease time, T1 and T2; times that make no sense give way to the defaults of RFC 2131, 4.4.5."""
    seconds = opt.decode_seconds(options[opt.LEASE_TIME])
    if seconds == 0:
        raise WireError("a DHCP lease of no time")
    if seconds == opt.INFINITE:
        return None, None, None
    duration = seconds * SECOND
    t1 = opt.decode_seconds(options[opt.RENEWAL_TIME]) * SECOND if opt.RENEWAL_TIME in options else duration // 2
    t2 = opt.decode_seconds(options[opt.REBINDING_TIME]) * SECOND if opt.REBINDING_TIME in options else duration * 7 // 8
    if not 0 < t1 < t2 < duration:
        t1, t2 = duration // 2, duration * 7 // 8
    return duration, t1, t2


def _natural_prefix(address: bytes) -> int:
    """Return the prefix length of the address's class, for servers that send no mask (RFC 950, section 2)."""
    return 8 if address[0] < 128 else 16 if address[0] < 192 else 24
