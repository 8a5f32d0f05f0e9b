"""Work out the virtual DHCP server of a network: what the file says, and the rest from the subnet and who lives there.

What is not given is chosen so that a newcomer's ``dhcp: {}`` works: the gateway is the first router on the network, the
server's address the first that nobody has, and the range what ``addressing.free_range`` finds. Lease, T1 and T2 are those of
VS-52.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final, TypeAlias

from vnet.addresses import Mac, format_mac
from vnet.topology.adapter_kinds.choice import Adapter
from vnet.topology.adapter_kinds.user import User
from vnet.topology.addressing import first_free, free_range
from vnet.topology.draft import Draft
from vnet.topology.model import Dhcp, Network
from vnet.topology.problems import Path, Problems, suggestion
from vnet.topology.reading import Reader
from vnet.topology.resolved import ResolvedDhcp
from vnet.topology.wiring import access
from vnet.units import HOUR, SECOND, Duration, format_duration

LEASE: Final = 36 * HOUR
LONGEST_LEASE: Final = 0xFFFFFFFE * SECOND
"""One less than what stands for "for ever" in a message (RFC 2131, 3.3)."""

_Range: TypeAlias = tuple[IPv4Address, IPv4Address]
_NOTHING: Final = Network()


def resolve_dhcp(draft: Draft, network: str, model: Dhcp) -> ResolvedDhcp | None:
    """Resolve one server, plug it in, and note what is wrong with it."""
    path: Path = ("networks", network, "dhcp")
    switch_name = (draft.model.networks[network] or _NOTHING).switch
    switch = draft.wiring.find((switch_name, ("networks", network, "switch")))
    reader = draft.reader
    gateway = None if model.gateway == "none" else reader.address4(model.gateway, (*path, "gateway"))
    server = reader.address4(model.server, (*path, "server"))
    reach = _read_range(draft, model.range, (*path, "range"))
    dns = tuple(a for i, text in enumerate(model.dns) if (a := reader.address4(text, (*path, "dns", i))) is not None)
    wins = tuple(a for i, text in enumerate(model.wins) if (a := reader.address4(text, (*path, "wins", i))) is not None)
    lease, renew, rebind = _times(draft, model, path)
    reservations = _reservations(draft, network, model, path)
    subnet = draft.subnets.get(network)
    if not isinstance(subnet, IPv4Network):
        if subnet is not None:
            draft.problems.error("dhcp-subnet", path, f"DHCP needs an IPv4 subnet; {subnet} is IPv6", key=True)
        elif not draft.problems.lost(("networks", network, "subnet")):
            text = f"DHCP needs a subnet; add one to network {network!r}, such as subnet: 10.20.100.0/24"
            draft.problems.error("dhcp-subnet", path, text, key=True)
        return None
    routers = [address for address in draft.routers_on(network).values() if isinstance(address, IPv4Address)]
    if model.gateway is None and routers:
        gateway = routers[0]
        if len(routers) > 1:
            text = f"{len(routers)} routers are on {network!r}, and clients are told {gateway}; say which with gateway:"
            draft.problems.warning("which-gateway", path, text, key=True)
    statics = {s.address.ip for s in draft.statics_on(network) if isinstance(s.address.ip, IPv4Address)}
    taken = statics | {*reservations.values(), *((gateway,) if gateway else ())}
    if not routers and (adapter := _user_adapter(draft, network)) is not None:
        # whoever leads out is the gateway, and answers questions for names
        if model.gateway is None:
            gateway = _stated(adapter, subnet) or first_free(subnet, taken | ({server} if server else set()), reach)
            taken |= {gateway} if gateway else set()
        if gateway is not None and gateway not in statics and not model.dns:
            dns = (gateway,)
    if server is None:
        server = first_free(subnet, taken, reach)
    if reach is None and server is not None:
        # reserved addresses may lie in the range; a range that cannot be read is replaced, so that the rest can be checked
        reach = free_range(subnet, (taken - set(reservations.values())) | {server})
    if server is None or reach is None:
        text = f"{subnet} has no address left for the DHCP server and its range; choose a larger subnet"
        draft.problems.error("dhcp-subnet", path, text, key=True)
        return None
    return ResolvedDhcp(
        server=server,
        mac=draft.macs.derive(network, "dhcp"),
        subnet=subnet,
        range_start=reach[0],
        range_end=reach[1],
        gateway=gateway,
        dns=dns,
        wins=wins,
        lease=lease,
        renew=renew,
        rebind=rebind,
        domain=model.domain or None,
        reservations=reservations,
        port=draft.wiring.plug(switch, "dhcp", network, "dhcp", access(draft.vids[network])),
    )


def _user_adapter(draft: Draft, network: str) -> User | None:
    """Return what the file says of the network's adapter if that is a user adapter."""
    choice = (draft.model.networks[network] or _NOTHING).adapter
    if isinstance(choice, Adapter):
        return choice.user
    return User() if choice == "user" else None


def _stated(adapter: User, subnet: IPv4Network) -> IPv4Address | None:
    """Read the adapter's address; what is wrong with it is noted where the adapter is resolved."""
    read = Reader(Problems()).interface(adapter.address, subnet, ()) if adapter.address else None
    return read.ip if isinstance(read, IPv4Interface) and read.ip in subnet else None


def _read_range(draft: Draft, text: str | None, path: Path) -> _Range | None:
    if text is None:
        return None
    first, dash, last = text.partition("-")
    if not dash:
        right = "write the first and the last address, such as 172.17.1.16-172.17.1.254"
        draft.problems.error("bad-range", path, f"{text[:60]!r} is not a range; {right}")
        return None
    low, high = draft.reader.address4(first, path), draft.reader.address4(last, path)
    if low is None or high is None:
        return None
    if low > high:
        draft.problems.error("bad-range", path, f"the range ends ({high}) before it begins ({low}); swap them")
        return None
    return low, high


def _times(draft: Draft, model: Dhcp, path: Path) -> tuple[Duration, Duration, Duration]:
    """Read lease, T1 and T2; messages carry whole seconds, and T1 < T2 < lease (VS-52, RFC 2131, 4.4.5)."""
    lease = draft.reader.duration(model.lease, (*path, "lease"), LEASE)
    renew = draft.reader.duration(model.renew, (*path, "renew"), lease // 2 // SECOND * SECOND)
    rebind = draft.reader.duration(model.rebind, (*path, "rebind"), lease * 3 // 4 // SECOND * SECOND)
    times = (("lease", lease, model.lease), ("renew", renew, model.renew), ("rebind", rebind, model.rebind))
    for key, value, given in times:
        if given is not None and (value % SECOND or not SECOND <= value <= LONGEST_LEASE):
            text = f"{given} is not a whole number of seconds that a DHCP message can carry; write one such as 300s"
            draft.problems.error("bad-times", (*path, key), text)
            return LEASE, LEASE // 2, LEASE * 3 // 4
    if not SECOND <= renew < rebind < lease:
        blamed = next((key for key in ("renew", "rebind", "lease") if getattr(model, key) is not None), "lease")
        order = f"renew {format_duration(renew)}, rebind {format_duration(rebind)}, lease {format_duration(lease)}"
        text = f"renew has to come before rebind, and rebind before the end of the lease; they are: {order}"
        draft.problems.error("bad-times", (*path, blamed), text)
    return lease, renew, rebind


def _reservations(draft: Draft, network: str, model: Dhcp, path: Path) -> dict[Mac, IPv4Address]:
    reservations: dict[Mac, IPv4Address] = {}
    owners: dict[IPv4Address, str] = {}
    for key, text in model.reservations.items():
        place = (*path, "reservations", key)
        mac = _client(draft, network, key, place)
        address = draft.reader.address4(text, place)
        if mac is None or address is None:
            continue
        if mac in reservations:
            draft.problems.error("duplicate-mac", place, f"{format_mac(mac)} has a reservation already", key=True)
        elif address in owners:
            text = f"{address} is reserved for {owners[address]!r} already; choose another"
            draft.problems.error("duplicate-address", place, text)
        else:
            reservations[mac] = address
            owners[address] = key
    return reservations


def _client(draft: Draft, network: str, key: str, place: Path) -> Mac | None:
    """Find the MAC address that a reservation is for: a guest's NIC on the network, or as it stands there."""
    if key in draft.model.guests:
        for (node, _), interface in draft.interfaces.items():
            if node == key and interface.network == network:
                return interface.mac
        if draft.problems.within(("guests", key)):
            return None  # what became of its NIC was said there
        text = f"guest {key!r} has no NIC on network {network!r}; give it one or reserve by MAC address"
        draft.problems.error("bad-reservation", place, text, key=True)
        return None
    if key.count(":") == 5 or key.count("-") == 5:
        return draft.reader.mac(key, place)
    if draft.problems.blamed(("guests",)):
        return None
    text = f"{key!r} is neither a guest nor a MAC address; {suggestion(key, list(draft.model.guests))}"
    draft.problems.error("unknown-guest", place, text, key=True)
    return None
