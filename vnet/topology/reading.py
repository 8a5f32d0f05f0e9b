"""Read the text of a topology's values: addresses, prefixes, durations, rates, VLANs, port ranges.

Each ``read_x`` returns the value, or None after it noted the problem; None goes in, None comes out, because most values need
not be given.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
    ip_network,
)  # fmt: skip
from typing import Final, TypeVar, final

from vnet.addresses import ZERO_MAC, Mac, is_group, parse_mac
from vnet.topology.model import Impaired
from vnet.topology.problems import Path, Problems
from vnet.topology.resolved import Address, Impairment, Interface, Network
from vnet.units import Duration, Rate, parse_duration, parse_rate, parse_ratio, parse_size

T = TypeVar("T")

MOST_MESSAGES: Final = 10_000_000
"""Messages a second of one generator."""
_FREQUENCY: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?) */ *(s|min|h)", re.IGNORECASE)
_RANGE: Final = re.compile(r"([0-9]{1,5})\s*-\s*([0-9]{1,5})")


@final
class Reader:
    """Reads values and notes what is wrong with them."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems

    def duration(self, text: str | None, path: Path, default: Duration) -> Duration:
        """Read a duration in nanoseconds."""
        value = self._units("bad-duration", parse_duration, text, path)
        return default if value is None else value

    def impairment(self, cable: Impaired, path: Path) -> Impairment:
        """Read what a NIC or link says about its cable."""
        rate = self._units("bad-rate", parse_rate, cable.rate, (*path, "rate"))
        loss = self.ratio(cable.loss, (*path, "loss"))
        queue = self.size(cable.queue, (*path, "queue"))
        latency = self.duration(cable.latency, (*path, "latency"), 0)
        if queue is not None and rate is None and cable.rate is None:
            self.problems.warning(
                "idle-queue", (*path, "queue"), "without a rate nothing ever waits in the queue; give a rate"
            )
        variation = self.duration(cable.delay_variation, (*path, "delay_variation"), 0)
        reordering = self.ratio(cable.reordering, (*path, "reordering"))
        if reordering and cable.latency is None and cable.delay_variation is None:
            self.problems.warning(
                "idle-reordering", (*path, "reordering"), "without a latency there is nothing to overtake; give a latency"
            )
        return Impairment(
            rate=rate,
            latency=latency,
            delay_variation=variation,
            loss=loss,
            reordering=reordering,
            duplication=self.ratio(cable.duplication, (*path, "duplication")),
            corruption=self.ratio(cable.corruption, (*path, "corruption")),
            queue=queue,
        )

    def rate(self, text: str | None, path: Path) -> Rate | None:
        """Read a rate in bit/s."""
        return self._units("bad-rate", parse_rate, text, path)

    def message_rate(self, text: str | None, octets: int, path: Path) -> float | None:
        """Read a rate in messages a second; one in bit/s is divided by the size of a message."""
        if text is None or (match := _FREQUENCY.fullmatch(text.strip())) is None:
            rate = self.rate(text, path)
            return None if rate is None else rate / (8 * octets)
        number = float(match[1]) / {"s": 1, "min": 60, "h": 3600}[match[2].lower()]
        if not 0 < number <= MOST_MESSAGES:
            self.problems.error("bad-rate", path, f"{text} is not more than 0 and at most {MOST_MESSAGES}/s")
            return None
        return number

    def ratio(self, value: float | str | None, path: Path) -> float:
        """Read a share of the frames; not given is 0."""
        if isinstance(value, str):
            return self._units("bad-ratio", parse_ratio, value, path) or 0.0
        if value is not None and not 0 <= value <= 1:
            text = f"{value} is not from 0 to 1; write a percentage as text, such as {value:g}%"
            self.problems.error("bad-ratio", path, text)
            return 0.0
        return value or 0.0

    def size(self, value: int | str | None, path: Path) -> int | None:
        """Read a number of octets, at least 1."""
        size = self._units("bad-size", parse_size, None if value is None else str(value), path)
        if size == 0:
            self.problems.error("bad-size", path, "0 octets are none; leave the key out for the default")
            return None
        return size

    def whole(self, value: int | None, path: Path, low: int, high: int, default: int) -> int:
        """Check that a number is in its range."""
        if value is None:
            return default
        if not low <= value <= high:
            self.problems.error("out-of-range", path, f"{value} is not from {low} to {high}")
            return default
        return value

    def mac(self, text: str | None, path: Path) -> Mac | None:
        """Read the MAC address of a NIC: an individual one."""
        mac = self._units("bad-mac", parse_mac, text, path)
        if mac is not None and (is_group(mac) or mac == ZERO_MAC):
            kind = "all zeros" if mac == ZERO_MAC else "a group address (its first octet is odd)"
            self.problems.error(
                "bad-mac", path, f"{text} is {kind}; a NIC needs an individual one such as 52:54:00:12:34:56"
            )
            return None
        return mac

    def address(self, text: str | None, path: Path) -> Address | None:
        """Read an IP address; what comes behind a ``%`` is the machine's, see ``scoped_address``."""
        found = self.scoped_address(text, path)
        return None if found is None or self._has_scope(found, path) else found

    def scoped_address(self, text: str | None, path: Path) -> Address | None:
        """Read an address that a socket of the machine gets, such as fe80::1%eth0 (RFC 4007, section 11)."""
        if text is None:
            return None
        try:
            return ip_address(text.strip())
        except ValueError:
            hint = "leave the prefix length out" if "/" in text else "write one such as 172.17.1.27"
            self.problems.error("bad-address", path, f"{text[:60]!r} is not an IP address; {hint}")
            return None

    def address4(self, text: str | None, path: Path) -> IPv4Address | None:
        """Read an IPv4 address."""
        address = self.address(text, path)
        if address is None or isinstance(address, IPv4Address):
            return address
        self.problems.error("bad-address", path, f"{text} is an IPv6 address; DHCP and NAT here are for IPv4")
        return None

    def prefix(self, text: str | None, path: Path) -> Network | None:
        """Read an IP prefix, or an address as the prefix of itself."""
        if text is None:
            return None
        try:
            return ip_network(text.strip())
        except ValueError:
            pass
        try:
            meant = ip_network(text.strip(), strict=False)
        except ValueError:
            self.problems.error("bad-prefix", path, f"{text[:60]!r} is not an IP prefix; write one such as 172.17.1.0/24")
            return None
        self.problems.error("bad-prefix", path, f"{text} has host bits set; the prefix is {meant}")
        return None

    def interface(self, text: str, subnet: Network | None, path: Path, *, lost: bool = False) -> Interface | None:
        """Read an address with its prefix length, which *subnet* supplies; *lost*: that there is none was said already."""
        text = text.strip()
        try:
            found = ip_interface(text) if "/" in text else None
            address = ip_address(text) if found is None else found  # its ``ip`` loses the zone
        except ValueError:
            right = f"write one such as {_example(subnet)}"
            self.problems.error("bad-address", path, f"{text[:60]!r} is not an IP address with a prefix length; {right}")
            return None
        if self._has_scope(address, path):
            return None
        if found is not None:
            return found
        if subnet is None and lost:
            return None
        if subnet is None or subnet.version != address.version:
            text = f"{text} needs a prefix length (such as {text}/24), because the network has no subnet to take it from"
            self.problems.error("bad-address", path, text)
            return None
        both = f"{address}/{subnet.prefixlen}"
        return IPv4Interface(both) if isinstance(subnet, IPv4Network) else IPv6Interface(both)

    def _has_scope(self, address: Address, path: Path) -> bool:
        """Refuse an address with a zone: in a lab its network says where it is."""
        if not isinstance(address, IPv6Address) or address.scope_id is None:
            return False
        self.problems.error(
            "bad-address", path, f"{address} names an interface of the machine; leave %{address.scope_id} out"
        )
        return True

    def ports(self, value: int | str | list[int | str] | None, path: Path) -> tuple[tuple[int, int], ...]:
        """Read TCP or UDP ports: one, a range, or a list of such."""
        if value is None:
            return ()
        ranges: list[tuple[int, int]] = []
        for index, item in enumerate(value) if isinstance(value, list) else ((None, value),):
            low, high = self._range(item)
            if not 0 < low <= high < 65536:
                text = f"{item!r} is not a port (1 to 65535) or a range such as 8000-8010"
                self.problems.error("bad-port", path if index is None else (*path, index), text)
            else:
                ranges.append((low, high))
        return tuple(ranges)

    @staticmethod
    def port(text: str) -> int:
        """Read a port number; 0 if it is none (nothing is noted: what it is part of is said there)."""
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
        return number if number < 65536 else 0

    @staticmethod
    def _range(item: int | str) -> tuple[int, int]:
        if isinstance(item, int):
            return item, item
        if match := _RANGE.fullmatch(item.strip()):
            return int(match[1]), int(match[2])
        return (int(item), int(item)) if item.isascii() and item.isdigit() and len(item) < 6 else (0, 0)

    def vid_range(self, item: int | str) -> tuple[int, int] | None:
        """Read a VID or a range of VIDs; None if it is neither (nothing is noted: it may be a network's name)."""
        low, high = self._range(item)
        return (low, high) if 0 < low <= high < 4095 else None

    def _units(self, code: str, parse: Callable[[str], T], text: str | None, path: Path) -> T | None:
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError as error:
            self.problems.error(code, path, str(error)[:300])
            return None


def _example(subnet: Network | None) -> str:
    if subnet is None or subnet.num_addresses < 4:
        return "172.17.1.27/24"
    return f"{subnet.network_address + 2}/{subnet.prefixlen}"
