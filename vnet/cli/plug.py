"""``vnet plug`` and ``vnet unplug``: ports of a running lab for virtual machines that somebody else starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar

import click

from vnet.cli.completion import LabName
from vnet.cli.output import print_json, print_progress
from vnet.errors import LabError
from vnet.runtime.client import call, find_lab

NO_NETWORK: Final = "-"
Arguments: TypeAlias = "dict[str, object]"
_F = TypeVar("_F", bound=Callable[..., object])


def port_options(function: _F) -> _F:
    """Add the options that say what the port is to be."""
    options = (
        click.option("--vlan", metavar="VLAN", help="Instead of NETWORK (-): a VLAN by number or name, untagged."),
        click.option("--trunk", metavar="VLANS", help="Tagged VLANs: all, or numbers, ranges and networks: 16,20-29,dmz."),
        click.option("--native", metavar="VLAN", help="The trunk's untagged VLAN; not given: that of NETWORK."),
        click.option("--model", metavar="MODEL", default="virtio", show_default=True, help="The NIC that the VM gets."),
        click.option("--mac", metavar="MAC", help="Its MAC address; not given: derived from the names."),
        click.option("--switch", metavar="SWITCH", help="The switch; not given: that of the network."),
        click.option("--name", metavar="NAME", help="What the port is called; not given: vm1, vm2, ..."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def arguments_of(
    network: str, kind: str, vlan: str | None, trunk: str | None, native: str | None, model: str, mac: str | None,
    switch: str | None, name: str | None,
) -> Arguments:  # fmt: skip
    """Put the options together for the lab."""
    return {
        "network": None if network == NO_NETWORK else network, "kind": kind, "vlan": vlan, "native": native, "model": model,
        "trunk": None if trunk is None else [part.strip() for part in trunk.split(",")], "mac": mac, "switch": switch,
        "name": name,
    }  # fmt: skip


def words_of(data: object) -> list[str]:
    """Take the command line out of a lab's answer."""
    argv = data.get("argv") if isinstance(data, dict) else None
    if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
        raise LabError("the lab answered what is no command line")
    return argv


@click.command("plug")
@click.argument("lab", type=LabName())
@click.argument("network")
@click.option("--as", "kind", metavar="KIND", default="qemu-stream", show_default=True,
              help="How the VM speaks: qemu-stream, qemu-dgram, qemu-legacy, qemu-vhost-user, uml.")  # fmt: skip
@port_options
@click.option("--json", "as_json", is_flag=True, help="Print the port as JSON.")
def plug_command(
    lab: str, network: str, kind: str, vlan: str | None, trunk: str | None, native: str | None, model: str, mac: str | None,
    switch: str | None, name: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Make a switch port of LAB on NETWORK with a socket behind it, and print the command line of a VM for it.

    Add what else the machine needs (memory, disks) to the line. It may be started, ended and started again; the port stays
    until vnet unplug or the end of the lab. NETWORK is - where --vlan or --trunk says all.

    \b
    vnet plug office lan
    vnet plug office lan --as qemu-legacy --model rtl8139 --name winxp
    vnet plug office - --trunk 16,20 --native 1
    $(vnet plug office lan) -accel kvm -m 1G disk.qcow2
    """
    data = call(find_lab(lab), "plug", arguments_of(network, kind, vlan, trunk, native, model, mac, switch, name))
    if as_json:
        print_json(data)
        return
    words_of(data)
    assert isinstance(data, dict), "it has words"
    print_progress(f"port {data['port']} of {lab} is for {data['name']}; vnet unplug {lab} {data['name']} takes it away")
    click.echo(data["command"])


@click.command("unplug")
@click.argument("lab", type=LabName())
@click.argument("name")
def unplug_command(lab: str, name: str) -> None:
    """Take the port NAME, which vnet plug made, out of LAB.

    \b
    vnet unplug office vm1
    """
    call(find_lab(lab), "unplug", {"name": name})
