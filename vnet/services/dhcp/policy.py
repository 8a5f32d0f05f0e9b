"""What a DHCP server is told to give: the fields of a virtual network's DHCP page, and the options made from them.

The server gives addressing, gateway, name servers, domain and WINS servers, nothing else: in particular never options 60, 66
and 67, which belong to network boot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Final, final

from vnet.addresses import Mac
from vnet.errors import UsageError
from vnet.units import HOUR, MINUTE, SECOND, Duration, format_duration
from vnet.wire import dhcpv4_options as opt

LEASE_TIME: Final = 36 * HOUR
RENEWAL_TIME: Final = 18 * HOUR
"""T1: half of the lease."""
REBINDING_TIME: Final = 27 * HOUR
"""T2: half-way between T1 and the end of the lease."""
OFFER_TIME: Final = 1 * MINUTE
"""How long an address is kept for a client that was offered it: longer than a client's own tries for a REQUEST."""
QUARANTINE_TIME: Final = 1 * HOUR
"""How long nobody gets an address that is used by somebody else. RFC 2131 leaves it open."""
MAX_OFFERS: Final = 1024
"""Open offers at one time; for one more the oldest is withdrawn."""
MAX_TAILS: Final = 256
"""Different parameter request lists that are remembered."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpConfig:
    """Everything a server is told; raise UsageError if it cannot be true.

    ``range_start`` to ``range_end`` is the pool, both inclusive. ``reservations`` maps MAC addresses to addresses of the
    subnet, in the pool or outside it. An ``authoritative`` server says NAK to clients that want an address of its pool which
    is not theirs; otherwise it is silent where another server might know better. With ``probe`` the server looks by ARP
    whether somebody uses an address that it gives out for the first time.
    """

    server: IPv4Address
    subnet: IPv4Network
    range_start: IPv4Address
    range_end: IPv4Address
    gateway: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()
    wins: tuple[IPv4Address, ...] = ()
    domain: str | None = None
    lease: Duration = LEASE_TIME
    renew: Duration = RENEWAL_TIME
    rebind: Duration = REBINDING_TIME
    reservations: Mapping[Mac, IPv4Address] = field(default_factory=dict)
    authoritative: bool = True
    probe: bool = True
    offer_time: Duration = OFFER_TIME
    quarantine: Duration = QUARANTINE_TIME
    max_offers: int = MAX_OFFERS

    def __post_init__(self) -> None:
        for name, address in (("server", self.server), ("range start", self.range_start), ("range end", self.range_end)):
            if address not in self.subnet:
                raise UsageError(f"DHCP {name} {address} is outside the subnet {self.subnet}")
        if self.range_start > self.range_end:
            raise UsageError(f"DHCP range starts at {self.range_start}, behind its end {self.range_end}")
        if self.range_start <= self.server <= self.range_end:
            raise UsageError(f"DHCP server address {self.server} is inside the pool {self.range_start}-{self.range_end}")
        if not 0 < self.renew < self.rebind < self.lease:
            times = " < ".join(format_duration(each) for each in (self.renew, self.rebind, self.lease))
            raise UsageError(f"DHCP times must rise from renewal to rebinding to lease: {times} is not true")
        if len(set(self.reservations.values())) != len(self.reservations):
            raise UsageError("a DHCP address is reserved twice")
        for mac, address in self.reservations.items():
            if address not in self.subnet or address == self.server:
                raise UsageError(f"DHCP reservation {address} for {mac.hex(':')} is no free address of {self.subnet}")


@final
class OptionTails:
    """The options that depend on the configuration alone, ready to send, for each parameter request list seen.

    Server identifier, times and mask are always there; router, name servers, domain and WINS servers only if the client
    asked for them, in the client's order, or if it sent no list (RFC 2131, 4.3.1).

    How often each was asked for is counted by list, and summed up by option when somebody wants to know or there are too
    many lists: a message costs one addition.
    """

    __slots__ = ("_asked", "_asked_for", "_given", "_inform", "_lease", "_tails", "_uncounted", "_uses")

    def __init__(self, config: DhcpConfig) -> None:
        server = opt.encode_option(opt.SERVER_ID, config.server.packed)
        mask = opt.encode_option(opt.SUBNET_MASK, config.subnet.netmask.packed)
        times = ((opt.LEASE_TIME, config.lease), (opt.RENEWAL_TIME, config.renew), (opt.REBINDING_TIME, config.rebind))
        self._lease = server + b"".join(
            opt.encode_option(code, opt.encode_seconds(max(1, time // SECOND))) for code, time in times
        )  # fmt: skip
        self._lease += mask
        self._inform = server + mask
        values = {
            opt.ROUTER: config.gateway.packed if config.gateway else b"",
            opt.DNS_SERVERS: opt.encode_addresses(config.dns),
            opt.DOMAIN_NAME: (config.domain or "").encode("ascii", "ignore"),
            opt.WINS_SERVERS: opt.encode_addresses(config.wins),
        }
        self._asked_for = {code: opt.encode_option(code, value) for code, value in values.items() if value}
        self._uncounted = frozenset((opt.PAD, opt.END, opt.SERVER_ID, opt.SUBNET_MASK, *(code for code, _ in times)))
        self._tails: dict[bytes | None, bytes] = {}
        self._uses: dict[bytes | None, int] = {}
        self._asked = dict.fromkeys(self._asked_for, 0)
        self._given = dict.fromkeys(self._asked_for, 0)

    def counters(self) -> dict[str, int]:
        """Tell how often each option that is not always there was asked for and given, by name.

        What is configured is there from the beginning; what clients want and the server has not is "asked for in vain".
        """
        self._sum_up()
        counts = {}
        for code, count in self._asked.items():
            name = opt.NAMES.get(code, f"option {code}")
            counts[f"{name} asked for" + ("" if code in self._given else " in vain")] = count
            if code in self._given:
                counts[f"{name} given"] = self._given[code]
        return counts

    def lease(self, wanted: bytes | None) -> bytes:
        """Return the options of an OFFER or ACK behind the message type; *wanted* is option 55."""
        tail = self._tails.get(wanted)
        if tail is None:
            if len(self._tails) >= MAX_TAILS:
                self._tails.clear()
            tail = self._tails[wanted] = self._lease + self._parameters(wanted)
        self._count(wanted)
        return tail

    def inform(self, wanted: bytes | None) -> bytes:
        """Return the options of an ACK to INFORM: no times (RFC 2131, 4.3.5)."""
        self._count(wanted)
        return self._inform + self._parameters(wanted)

    def _count(self, wanted: bytes | None) -> None:
        if len(self._uses) >= MAX_TAILS and wanted not in self._uses:
            self._sum_up()
        self._uses[wanted] = self._uses.get(wanted, 0) + 1

    def _sum_up(self) -> None:
        for wanted, count in self._uses.items():
            for code in dict.fromkeys(wanted or b""):
                if code not in self._uncounted:
                    self._asked[code] = self._asked.get(code, 0) + count
            for code in self._given:
                if wanted is None or code in wanted:
                    self._given[code] += count
        self._uses.clear()

    def _parameters(self, wanted: bytes | None) -> bytes:
        codes = self._asked_for if wanted is None else dict.fromkeys(wanted)
        return b"".join(self._asked_for.get(code, b"") for code in codes)
