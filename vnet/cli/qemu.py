"""``vnet qemu``: QEMU with a NIC in a running lab, on the terminal of whoever calls.

The port belongs to the connection to the lab, which is held while QEMU runs: however either of them ends, it goes.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import click

from vnet.adapters.plug_kinds import QEMU
from vnet.cli.completion import LabName
from vnet.cli.output import print_progress
from vnet.cli.plug import arguments_of, port_options, words_of
from vnet.errors import HostError
from vnet.runtime.client import find_lab, hold

SIGNALLED: Final = 128
"""What a shell adds to the number of the signal that ended a program."""


@click.command("qemu", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--program", metavar="PROGRAM", default=QEMU, show_default=True, help="Which QEMU to run.")
@click.option("--as", "kind", type=click.Choice(("qemu-stream", "qemu-dgram", "qemu-legacy")), default="qemu-stream",
              show_default=True, help="How it speaks.")  # fmt: skip
@port_options
@click.argument("lab", type=LabName())
@click.argument("network")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- ARGUMENTS...")
def qemu_command(
    program: str, kind: str, lab: str, network: str, arguments: tuple[str, ...], vlan: str | None, trunk: str | None,
    native: str | None, model: str, mac: str | None, switch: str | None, name: str | None,
) -> int:  # fmt: skip
    """Run QEMU with ARGUMENTS and a NIC on NETWORK of LAB; the exit status is QEMU's.

    The options of vnet stand before LAB. NETWORK is - where --vlan or --trunk says all. The port goes when QEMU ends; if the
    lab ends first, the machine goes on without a network.

    \b
    vnet qemu office lan -- -accel kvm -m 1G disk.qcow2
    vnet qemu --model e1000 --name installer office lan -- -m 1G -cdrom install.iso -nographic
    """
    if arguments[:1] == ("--",):
        arguments = arguments[1:]
    place = find_lab(lab)
    with hold(place, "attach", arguments_of(network, kind, vlan, trunk, native, model, mac, switch, name)) as data:
        words = words_of(data)
        if isinstance(data, dict):
            print_progress(f"{data['name']} is on port {data['port']} of {lab}, {data['mac']}")
        sys.stdout.flush()
        try:
            child = subprocess.Popen([program, *words[1:], *arguments])
        except OSError as error:
            raise HostError(f"cannot run {program}: {error.strerror}; install qemu-system-x86") from error
        while True:
            try:
                status = child.wait()
                break
            except KeyboardInterrupt:  # QEMU has got the signal too, and ends
                continue
    return status if status >= 0 else SIGNALLED - status
