"""``vnet check`` and ``vnet schema``: whether a topology is right, and what may stand in one."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from vnet.addresses import format_mac
from vnet.cli.output import print_json, print_table
from vnet.errors import UsageError
from vnet.topology import ResolvedTopology, check_text, check_topology
from vnet.topology.describe import address_text, cable_text, vlans_text
from vnet.topology.resolved import ALL_VLANS
from vnet.topology.yaml_reader import MOST_OCTETS

FILE = click.Path(path_type=Path)
STANDARD_INPUT = Path("-")
"""How programs that read files are told to read what is piped into them; a file of this name is ./- there."""


@click.command("check")
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print problems and the resolved topology as JSON.")
def check_command(file: Path, as_json: bool) -> int:
    """Validate a topology FILE (- is standard input): print networks, VLANs and addresses, and every mistake with its line.

    \b
    vnet check topologies/infrastructure-in-a-box.yaml
    vnet check lab.yaml --json | jq '.problems[].text'
    make-topology | vnet check -

    The exit status is 0 if a lab can be made of it (perhaps with warnings), 1 if not.
    """
    name = "<stdin>" if file == STANDARD_INPUT else str(file)
    if file == STANDARD_INPUT:
        if sys.stdin is None:  # it was closed before we began
            raise UsageError("standard input is closed; pipe a topology in, or name a file")
        resolved, problems = check_text(sys.stdin.buffer.read(MOST_OCTETS + 1), name)
    else:
        resolved, problems = check_topology(file)
    if as_json:
        summary = describe_topology(resolved) if resolved is not None else {}
        print_json({"file": name, "ok": resolved is not None, "problems": [asdict(each) for each in problems], **summary})
        return 0 if resolved is not None else 1
    for problem in problems:
        click.echo(str(problem))
    if resolved is None:
        count = sum(problem.severity == "error" for problem in problems)
        click.echo(f"{name}: {count} error{'s' if count != 1 else ''}")
        return 1
    print_topology(resolved)
    warnings = f", {len(problems)} warning{'s' if len(problems) != 1 else ''}" if problems else ""
    click.echo(f"{name}: ok{warnings}")
    return 0


@click.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of topology files, so that an editor completes and checks them.

    \b
    vnet schema > vnet.schema.json
    # first line of a topology file, for the YAML language server:
    # yaml-language-server: $schema=vnet.schema.json
    """
    from vnet.topology.schema import topology_schema

    print_json(topology_schema())


def print_topology(topology: ResolvedTopology) -> None:
    """Print what a topology resolves to as tables."""
    networks = [
        (
            net.name, net.vid, net.subnet, "" if net.adapter == "none" else net.adapter,
            f"{net.dhcp.range_start}-{net.dhcp.range_end} by {net.dhcp.server}" if net.dhcp else "", net.notes,
        )
        for net in topology.networks.values()
    ]  # fmt: skip
    print_table(("network", "vlan", "subnet", "adapter", "dhcp", "notes"), networks, f"{topology.name}: networks")
    click.echo()
    kinds = {guest.name: guest.kind for guest in topology.guests.values()}
    nodes = [
        (
            f"{node}:{nic.name}", kinds.get(node, "router"),
            nic.network or vlans_text(topology, topology.switch_port(nic.port)),
            address_text(topology, nic), format_mac(nic.mac), nic.port,
            cable_text(nic.cable),
        )
        for node, nic in topology.endpoints()
    ]  # fmt: skip
    print_table(("interface", "kind", "network", "address", "mac", "port", "cable"), nodes)
    if topology.links:
        click.echo()
        links = [
            (link.name, link.a, link.b, vlans_text(topology, topology.switch_port(link.a)), cable_text(link.cable))
            for link in topology.links
        ]
        print_table(("link", "from", "to", "vlans", "cable"), links)
    click.echo()


def describe_topology(topology: ResolvedTopology) -> dict[str, object]:
    """Make the resolved topology plain data for JSON."""
    return {
        "name": topology.name,
        "profile": topology.profile,
        "networks": [
            {
                "name": net.name, "vlan": net.vid, "subnet": _text(net.subnet), "adapter": net.adapter, "notes": net.notes,
                "dhcp": {"server": str(net.dhcp.server), "range": [str(net.dhcp.range_start), str(net.dhcp.range_end)],
                         "gateway": _text(net.dhcp.gateway)} if net.dhcp else None,
            }
            for net in topology.networks.values()
        ],
        "interfaces": [
            {
                "node": node, "name": nic.name, "network": nic.network, "mac": format_mac(nic.mac),
                "addresses": [str(address) for address in nic.addresses], "gateway": _text(nic.gateway), "dhcp": nic.dhcp,
                "port": str(nic.port),
            }
            for node, nic in topology.endpoints()
        ],
        "guests": [
            {"name": guest.name, "kind": guest.kind, "dns": [str(each) for each in guest.dns], "search": list(guest.search)}
            for guest in topology.guests.values()
        ],
        "routers": [
            {"name": router.name, "nat": router.nat is not None, "firewall": router.firewall is not None}
            for router in topology.routers.values()
        ],
        "switches": [
            {
                "name": switch.name,
                "ports": [
                    {"number": port.number, "name": port.name, "pvid": port.pvid, "untagged": list(port.untagged),
                     "members": "all" if port.members == ALL_VLANS else list(port.members)}
                    for port in switch.ports
                ],
            }
            for switch in topology.switches.values()
        ],
        "links": [{"name": link.name, "between": [str(link.a), str(link.b)]} for link in topology.links],
    }  # fmt: skip


def _text(value: object) -> str | None:
    return None if value is None else str(value)
