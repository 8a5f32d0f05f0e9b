"""Gather the VLANs and MAC addresses that a topology states, before others are derived around them."""

from __future__ import annotations

from vnet.addresses import Mac
from vnet.topology.addressing import allot_vids
from vnet.topology.model import Nic, RouterInterface, Topology
from vnet.topology.problems import Problems
from vnet.topology.reading import Reader
from vnet.topology.shape import numbered


def choose_vids(model: Topology, problems: Problems) -> dict[str, int]:
    """Check the VLANs that are given and allot the others, clear of all that links and trunks mention."""
    owners: dict[int, str] = {}
    given: dict[str, int] = {}
    wanting: list[str] = []
    for name, network in model.networks.items():
        vid, path = network.vlan if network else None, ("networks", name, "vlan")
        if vid is None:
            wanting.append(name)
        elif not 1 <= vid <= 4094:
            problems.error("bad-vlan", path, f"{vid} is not a VLAN number; write one from 1 to 4094")
            wanting.append(name)
        elif vid in owners:
            text = f"network {owners[vid]!r} has VLAN {vid} already; a network has its own: choose another"
            problems.error("duplicate-vlan", path, text)
            given[name] = vid
        else:
            owners[vid] = name
            given[name] = vid
    mentioned: set[int] = set()
    for item in _mentioned_vlans(model):
        read = Reader(problems).vid_range(item)
        if read is not None:
            mentioned.update(range(read[0], read[1] + 1))
    allotted = allot_vids(wanting, {*owners, *mentioned})
    missing = [name for name in wanting if name not in allotted]
    for name in missing:
        problems.error("bad-vlan", ("networks", name), "no VLAN number is left for this network (there are 4094)", key=True)
    return {name: given.get(name) or allotted.get(name, 1) for name in model.networks}


def _mentioned_vlans(model: Topology) -> list[int | str]:
    """List what links and trunks write as VLANs."""
    nics = [nic for guest in model.guests.values() if guest is not None for nic in guest.nics if isinstance(nic, Nic)]
    values: list[int | str | None] = [link.vlan for link in model.links]
    for native, carried in [(link.native, link.trunk) for link in model.links] + [(nic.native, nic.trunk) for nic in nics]:
        values += [native, *(carried if isinstance(carried, list) else ())]
    values += [key for nic in nics for key in nic.vlans]
    return [value for value in values if value is not None]


def stated_macs(model: Topology, reader: Reader) -> list[Mac]:
    """List the MAC addresses that are given, so that no derived one is the same; note those that cannot be."""
    stated: list[Mac] = []
    for name, guest in model.guests.items():
        for index, nic in numbered(guest.nics) if guest else ():
            mac = reader.mac(nic.mac, ("guests", name, "nics", index, "mac")) if isinstance(nic, Nic) else None
            stated += [mac] if mac is not None else []
    for name, router in model.routers.items():
        for network, interface in router.interfaces.items():
            path = ("routers", name, "interfaces", network, "mac")
            mac = reader.mac(interface.mac, path) if isinstance(interface, RouterInterface) else None
            stated += [mac] if mac is not None else []
    return stated
