"""Coverage of the network: which parts of a topology the tests have exercised, for ``pytest --vnet-cov``.

Each test's lab is asked at its end: switches, routers and DHCP servers count anyway, so nothing is slower for it. What
is counted, by kind:

* *networks*: frames that nodes of the network have sent;
* *links*: frames that passed; *links cut*: how often the link went down;
* *firewall rules*: connections that the rule let in; the policy is the last of a router's rules;
* *NAT*: connections by what was done for them, and packets refused as unsolicited;
* *DHCP messages*: by type, those that servers received and sent;
* *DHCP options*: those that a server has, by who asked for them and who was given them, and what was asked for in vain.

There is no spanning tree yet, so none of its transitions either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from vnet.services.dhcp.server import RECEIVED, SENT

if TYPE_CHECKING:
    from vnet.runtime.lab import Lab
    from vnet.topology.resolved import ResolvedNat

Counts: TypeAlias = dict[str, dict[str, int]]
"""How often, by kind and item; plain data, because workers of pytest-xdist send it."""

KINDS: Final = ("networks", "links", "links cut", "firewall rules", "NAT", "DHCP messages", "DHCP options")
NAMED: Final = 10
"""Items never exercised that a report names, of each kind."""


def exercised(lab: Lab) -> Counts:
    """Tell what of a lab's topology was exercised until now; what was not stands at 0."""
    return {
        "networks": _networks(lab),
        "links": _links(lab),
        "links cut": _cuts(lab),
        "firewall rules": {
            f"{router.name} {rule}": count
            for router in lab.routers.values()
            for rule, count in router.rule_counters().items()
        },
        "NAT": _nat(lab),
        "DHCP messages": {
            f"{network} {kind}": node.counters[kind]
            for network, node in lab.dhcp.items()
            for kind in (*RECEIVED.values(), *SENT)
        },
        "DHCP options": {
            f"{network} {item}": count
            for network, node in lab.dhcp.items()
            for item, count in node.server.option_counters().items()
        },
    }


def merge(total: Counts, more: Counts) -> None:
    """Add what another test has exercised."""
    for kind, items in more.items():
        sums = total.setdefault(kind, {})
        for item, count in items.items():
            sums[item] = sums.get(item, 0) + count


def summary(counts: Counts) -> list[str]:
    """Write one line for each kind that the topology has: how many of its items were exercised, and which were not."""
    lines = []
    for kind in KINDS:
        items = counts.get(kind, {})
        if not items:
            continue
        missing = [item for item, count in items.items() if not count]
        line = f"{kind:<15} {len(items) - len(missing):>4}/{len(items)}"
        if missing:
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            line = f"{line:<26} never: {', '.join(missing[:NAMED])}{more}"
        lines.append(line)
    return lines


def _networks(lab: Lab) -> dict[str, int]:
    counts = dict.fromkeys(lab.topology.networks, 0)
    name_of = {network.vid: network.name for network in lab.topology.networks.values()}
    for switch in lab.switches.values():
        switch.fold()
        for port, resolved in zip(switch.ports.values(), lab.topology.switches[switch.name].ports, strict=True):
            if resolved.peer != "link" and resolved.pvid in name_of:
                counts[name_of[resolved.pvid]] += port.rx_frames
        for entry in switch.fdb:  # those who send tagged frames, as far as they are still known
            if entry.vid in name_of and not counts[name_of[entry.vid]]:
                counts[name_of[entry.vid]] = 1
    return counts


def _links(lab: Lab) -> dict[str, int]:
    """Count at the switch's end: every cable has one."""
    ends = {port.port: port for switch in lab.switches.values() for port in switch.ports.values()}
    counts = {}
    for name, link in lab.links.items():
        end = ends.get(link.a) or ends.get(link.b)
        counts[name] = end.rx_frames + end.tx_frames if end is not None else 0
    return counts


def _cuts(lab: Lab) -> dict[str, int]:
    counts = dict.fromkeys(lab.links, 0)
    for event in lab.events:
        if event.kind == "link-down" and event.node in counts:
            counts[event.node] += 1
    return counts


def _nat(lab: Lab) -> dict[str, int]:
    counts: dict[str, int] = {}
    for router in lab.topology.routers.values():
        if router.nat is None:
            continue
        running = lab.routers[router.name]
        known = running.nat_counters()
        counts |= {f"{router.name} {branch}": known.get(branch, 0) for branch in _branches(router.nat)}
        counts[f"{router.name} unsolicited"] = running.drops.get("unsolicited", 0)
    return counts


def _branches(nat: ResolvedNat) -> list[str]:
    """Name what NAT can do by its configuration, as the router's counters do."""
    hairpin = ["hairpin"] if nat.hairpin and nat.forwards else []
    return ["outbound", *hairpin, *(f"forward {each.protocol}/{each.port}" for each in nat.forwards)]
