"""``vnet set`` and ``vnet flush``: change a lab while it runs."""

from __future__ import annotations

import click

from vnet.cli.completion import LabName
from vnet.cli.output import cell_text, print_json
from vnet.runtime.client import call, find_lab

TABLES = ("fdb", "leases", "nat")


@click.command("set")
@click.argument("lab", type=LabName())
@click.argument("target")
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--json", "as_json", is_flag=True, help="Print how the target stands now as JSON.")
def set_command(lab: str, target: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Change a link, a switch port or a network of LAB.

    TARGET is a link (core-edge, web:eth0, or core,edge), a guest with one NIC (web), a switch port (core:3), or a network
    (network.office). Links take state, rate, latency, delay_variation, loss, reordering, duplication, corruption and queue,
    ports take state; up and down are short for state=up and state=down. Networks take adapter: the way out to the machine,
    as in a topology file. Those with a user adapter take forward ('8080 web:80') and unforward (8080), too. A guest of kind
    qemu takes start, stop, shutdown, reset, pause, resume, save, restore, save=NAME, restore=NAME.

    \b
    vnet set office core-edge down
    vnet set office core-edge loss=5% latency=20ms rate=10mbit
    vnet set office core-edge rate=none
    vnet set office core-edge delay_variation=5ms reordering=1% duplication=0.5% corruption=0.01%
    vnet set office core:3 down
    vnet set office vm1 save=before pause
    vnet set office network.dmz adapter=loopback
    vnet set office network.dmz adapter='{loopback: {address: 10.10.10.2/24}}'
    vnet set office network.dmz forward='8080 web:80' forward='udp 5353 web:53' unforward=8081
    """
    data = call(find_lab(lab), "set", {"target": target, "settings": list(settings)})
    if as_json:
        print_json(data)
    elif isinstance(data, dict):
        click.echo(", ".join(f"{key} {cell_text(value)}" for key, value in data.items() if value is not None))


@click.command("flush")
@click.argument("lab", type=LabName())
@click.argument("table", type=click.Choice(TABLES))
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def flush_command(lab: str, table: str, name: str | None, as_json: bool) -> None:
    """Empty a TABLE of LAB: what switches learned, DHCP leases, or NAT mappings with their connections.

    NAME is one switch, network or router; without it, all are emptied.

    \b
    vnet flush office fdb core
    vnet flush office leases
    """
    data = call(find_lab(lab), "flush", {"table": table, "name": name})
    if as_json:
        print_json(data)
    elif isinstance(data, dict):
        for each, count in data.items():
            click.echo(f"{each}: {count} entr{'y' if count == 1 else 'ies'} removed")
