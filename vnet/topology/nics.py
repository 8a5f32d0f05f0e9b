"""Resolve the NICs of guests: their networks or trunks, addresses, gateways, DHCP, and the VLAN sub-interfaces on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, Literal

from vnet.addresses import Mac
from vnet.topology.adapter_kinds.names import LONGEST_NAME
from vnet.topology.bonds import Owner, resolve_bond
from vnet.topology.draft import Draft, Static
from vnet.topology.machines import resolve_model
from vnet.topology.model import Guest, Nic, SubInterface
from vnet.topology.problems import Path, Problems, format_path
from vnet.topology.reading import Reader
from vnet.topology.resolved import LINUX_KINDS, Address, Impairment, Interface, ResolvedInterface, Vlans
from vnet.topology.shape import numbered, placed
from vnet.topology.wiring import LARGEST_MTU, PortVlans, access, trunk

MTU: Final = 1500
SMALLEST_MTU: Final = 68
"""RFC 791: what every link has to carry."""


def resolve_nics(draft: Draft, guest: str, model: Guest) -> list[ResolvedInterface]:
    """Plug a guest's NICs in; each is followed by its VLAN sub-interfaces."""
    found: list[ResolvedInterface] = []
    taken: set[str] = set()
    bonds, ahead = 0, 0  # members of bonds are counted as NICs, bonds by themselves
    for index, nic in numbered(model.nics):
        full = Nic(network=nic) if isinstance(nic, str) else nic
        path: Path = ("guests", guest, "nics", index)
        number = index + ahead
        name = full.name or (f"eth{number}" if full.bond is None else f"bond{bonds}")
        if full.bond is not None:
            bonds, ahead = bonds + 1, ahead + len(full.bond.members) - 1
        owner = Owner(guest, model, taken)
        interface = _nic(draft, owner, full, (name, number), path, path if isinstance(nic, str) else None)
        if interface is None or not _is_new(draft, owner, interface, path):
            continue
        found.append(interface)
        for sub, place in _sub_interfaces(draft, guest, model, full, interface, path):
            if _is_new(draft, owner, sub, place):
                found.append(sub)
    return found


def _is_new(draft: Draft, owner: Owner, interface: ResolvedInterface, path: Path) -> bool:
    """Remember an interface and its place, unless its name is taken."""
    guest = owner.name
    if interface.name in owner.taken:
        text = f"guest {guest!r} has a NIC called {interface.name!r} already; choose another name"
        draft.problems.error("duplicate-name", (*path, "name"), text)
        return False
    owner.taken.update((interface.name, *(cable.name for cable in interface.cables)))
    draft.interfaces[guest, interface.name] = interface
    draft.paths[guest, interface.name] = path
    return True


def static_addresses(
    draft: Draft, texts: str | list[str], network: str | None, node: str, interface: str, path: Path, router: bool
) -> tuple[Interface, ...]:
    """Read static addresses and remember who has them."""
    subnet = draft.subnets.get(network) if network is not None else None
    lost = network is not None and draft.problems.lost(("networks", network, "subnet"))
    addresses: list[Interface] = []
    for place, text in placed(texts, path):
        address = draft.reader.interface(text, subnet, place, lost=lost)
        if address is not None:
            addresses.append(address)
            draft.add(Static(address, network or "", node, interface, router, place))
    return tuple(addresses)


def mac_of(draft: Draft, stated: str | None, node: str, interface: str) -> Mac:
    """Return the MAC address that is stated, or derive one from the names."""
    mac = Reader(Problems()).mac(stated, ())  # what is wrong with it was said by stated_macs
    return draft.macs.derive(node, interface) if mac is None else mac


def _nic(
    draft: Draft, owner: Owner, nic: Nic, names: tuple[str, int], path: Path, word: Path | None
) -> ResolvedInterface | None:
    """Resolve one NIC; *names* are its own and its number.

    *word* is its place if it was given by its network's name alone.
    """
    guest, model, name = owner.name, owner.model, names[0]
    vlans, network = _nic_vlans(draft, nic, path, word or (*path, "network"))
    cable = draft.reader.impairment(nic, path) if nic.bond is None else Impairment()
    mtu = draft.reader.whole(nic.mtu, (*path, "mtu"), SMALLEST_MTU, LARGEST_MTU, MTU)
    switch = draft.wiring.find((nic.switch, (*path, "switch")), (model.switch, ("guests", guest, "switch")))
    addresses = static_addresses(draft, nic.address or [], network, guest, name, (*path, "address"), router=False)
    gateway = _gateway(draft, nic.gateway, addresses, network, path)
    if vlans is None:
        return None
    bond = resolve_bond(draft, owner, nic, names, path, vlans) if nic.bond is not None else None
    if nic.bond is not None and bond is None:
        return None
    return ResolvedInterface(
        name=name,
        network=network if nic.trunk is None else None,
        mac=mac_of(draft, nic.mac, guest, name),
        addresses=addresses,
        gateway=gateway,
        dhcp=_dhcp(draft, model, nic, network, path),
        mtu=mtu,
        cable=cable,
        port=draft.wiring.plug(switch, "guest", guest, name, vlans) if bond is None else bond.members[0].port,
        model=resolve_model(draft, model, nic, path),
        ipv6=nic.ipv6,
        bond=bond,
    )


def _gateway(
    draft: Draft, stated: str | None, addresses: tuple[Interface, ...], network: str | None, path: Path
) -> Address | None:
    """Read the gateway that is stated, or take the only router on the network."""
    if stated is not None:
        return None if stated == "none" else draft.reader.address(stated, (*path, "gateway"))
    if not addresses or network is None:
        return None
    routers = draft.routers_on(network, min(address.version for address in addresses))
    gateway = next(iter(routers.values())) if len(routers) == 1 else None
    return None if any(gateway == own.ip for own in addresses) else gateway  # if so, that is said elsewhere


def _sub_interfaces(
    draft: Draft, guest: str, model: Guest, nic: Nic, parent: ResolvedInterface, path: Path
) -> Iterator[tuple[ResolvedInterface, Path]]:
    """Resolve the VLAN sub-interfaces of a NIC, with their places."""
    if nic.vlans and nic.trunk is None:
        text = "vlans goes with trunk, which says what VLANs reach the NIC"
        draft.problems.error("bad-nic", (*path, "vlans"), text, key=True)
        return
    native, carried = draft.wiring.port_vlans(parent.port)
    typed: dict[int, str] = {}
    for key, given in nic.vlans.items():
        place: Path = (*path, "vlans", key)
        vid = draft.wiring.vid(key, place, key=True)
        if vid is None or not _may_have(draft, vid, native, carried, place):
            continue
        if vid in typed:
            text = f"{typed[vid]!r} is VLAN {vid} already; a NIC has one sub-interface on a VLAN"
            draft.problems.error("duplicate-vlan", place, text, key=True)
            continue
        typed[vid] = key
        full = given if isinstance(given, SubInterface) else SubInterface(address=given)
        name = full.name or f"{parent.name}.{vid}"
        if len(name) > LONGEST_NAME and full.name is None:
            text = f"{name!r} is longer than {LONGEST_NAME} letters; give the sub-interface a name"
            draft.problems.error("bad-name", place, text, key=True)
            continue
        network = next((each for each, number in draft.vids.items() if number == vid), None)
        address_path = (*place, "address") if isinstance(given, SubInterface) else place
        addresses = static_addresses(draft, full.address or [], network, guest, name, address_path, router=False)
        yield (
            replace(
                parent,
                name=name,
                network=network,
                addresses=addresses,
                gateway=_gateway(draft, full.gateway, addresses, network, place),
                dhcp=_dhcp(draft, model, full, network, place),
                cable=Impairment(),
                model=None,
                ipv6=full.ipv6,
                parent=parent.name,
                vid=vid,
            ),
            place,
        )


def _may_have(draft: Draft, vid: int, native: int | None, carried: Vlans, place: Path) -> bool:
    """Check that the frames of a VLAN reach the NIC with their tag."""
    if vid == native:
        text = f"VLAN {vid} is the trunk's native one and comes untagged; its address and dhcp stand with the NIC itself"
        draft.problems.error("not-in-trunk", place, text, key=True)
        return False
    if vid in carried:
        return True
    if not draft.problems.lost((*place[:-2], "trunk")):
        text = f"the trunk of this NIC does not carry VLAN {vid}; add it to trunk:"
        draft.problems.error("not-in-trunk", place, text, key=True)
    return False


def _stated_gateways(guest: str, model: Guest) -> Iterator[tuple[Path, str]]:
    """List the gateways that NICs and sub-interfaces state, with the places of what states them."""
    for index, nic in numbered(model.nics):
        if isinstance(nic, Nic):
            path: Path = ("guests", guest, "nics", index)
            places: list[tuple[Path, Nic | SubInterface]] = [(path, nic)]
            places += [((*path, "vlans", key), each) for key, each in nic.vlans.items() if isinstance(each, SubInterface)]
            for place, each in places:
                if each.gateway is not None and each.gateway != "none":
                    yield place, each.gateway


def gateway_place(guest: str, model: Guest) -> Path:
    """Find where a guest's default gateway stands: with an interface, or with the guest (blamed as well if nowhere)."""
    stated = next(_stated_gateways(guest, model), None) if model.gateway is None else None
    return ("guests", guest, "gateway") if stated is None else (*stated[0], "gateway")


def default_gateway(draft: Draft, name: str, model: Guest, interfaces: list[ResolvedInterface]) -> Address | None:
    """Choose the one default gateway: the guest's own, else one that a NIC states, else the first that was derived."""
    stated = list(_stated_gateways(name, model))
    if model.gateway is not None:
        if stated:
            text = f"guest {name!r} has a gateway of its own already; keep one of the two"
            draft.problems.error("two-gateways", (*stated[0][0], "gateway"), text, key=True)
        return None if model.gateway == "none" else draft.reader.address(model.gateway, ("guests", name, "gateway"))
    for place, _ in stated[1:]:
        text = f"a NIC of guest {name!r} has the default gateway already; write the others as routes:"
        draft.problems.error("two-gateways", (*place, "gateway"), text, key=True)
    if stated:
        return next((i.gateway for i in interfaces if draft.paths[name, i.name] == stated[0][0]), None)
    return next((interface.gateway for interface in interfaces if interface.gateway is not None), None)


def with_gateway(interfaces: list[ResolvedInterface], gateway: Address | None) -> tuple[ResolvedInterface, ...]:
    """Give the default gateway to the first interface that reaches it, and to no other."""
    nearest = next((i for i in interfaces if gateway and any(gateway in a.network for a in i.addresses)), None)
    return tuple(replace(i, gateway=gateway if i is nearest else None) for i in interfaces)


def _nic_vlans(draft: Draft, nic: Nic, path: Path, place: Path) -> tuple[PortVlans | None, str | None]:
    """Return the VLANs of a NIC's port, and the network on which its untagged frames are."""
    if nic.trunk is None:
        if nic.native is not None:
            text = "native goes with trunk; a NIC on a network has no native VLAN"
            draft.problems.error("bad-nic", (*path, "native"), text, key=True)
        if nic.network is None and draft.problems.lost((*path, "network")):
            return None, None
        if nic.network is None:
            draft.problems.error("bad-nic", path, "a NIC needs a network, or trunk: with its VLANs")
            return None, None
        network = draft.network(nic.network, place)
        return (None, None) if network is None else (access(draft.vids[network]), network)
    if nic.network is not None:
        text = "a NIC is on one network or on a trunk; for the untagged VLAN of a trunk, write native:"
        draft.problems.error("bad-nic", (*path, "network"), text, key=True)
    native = draft.wiring.vid(nic.native, (*path, "native"))
    members = draft.wiring.vlan_set(nic.trunk, (*path, "trunk"))
    network = next((name for name, vid in draft.vids.items() if vid == native), None)
    return trunk(members, native), network


def _dhcp(
    draft: Draft, guest: Guest, nic: Nic | SubInterface, network: str | None, path: Path
) -> Literal["client", "vnet"] | None:
    static = next((text for _, text in placed(nic.address, ()) if ":" not in text), None)
    if nic.dhcp and static is not None:
        text = "the NIC has a static address already; remove address or dhcp"
        if network is not None:
            place = format_path(("networks", network, "dhcp", "reservations"))
            text += f"; for a reservation write {place}: {{{path[1]}: {static.partition('/')[0].strip()}}}"
        draft.problems.error("bad-nic", (*path, "dhcp"), text, key=True)
        return None
    if nic.dhcp and network is None:
        if not isinstance(nic, Nic):
            text = "no network has this VLAN, so there is no DHCP on it"
            draft.problems.error("bad-nic", (*path, "dhcp"), text, key=True)
        elif nic.trunk is not None:
            text = "DHCP runs on a trunk's native VLAN; give native: the VLAN of a network, or write vlans:"
            draft.problems.error("bad-nic", (*path, "dhcp"), text, key=True)
        return None
    if nic.dhcp and network is not None and not draft.has_dhcp(network) and not draft.leads_outside(network):
        text = f"network {network!r} has no DHCP server (unless a guest is one); add dhcp: {{}} to it"
        draft.problems.warning("no-dhcp-server", (*path, "dhcp"), text, key=True)
    if guest.kind in LINUX_KINDS:
        return "vnet" if nic.dhcp == "vnet" else None
    if guest.kind == "qemu":
        return "client" if nic.dhcp else None  # its own client asks, or not; only what is stated is waited for
    if nic.dhcp is None:
        trunk_only = isinstance(nic, Nic) and nic.trunk is not None
        wanted = not nic.address and not trunk_only and network is not None and draft.has_dhcp(network)
        return "client" if wanted else None
    return "client" if nic.dhcp else None
