"""``vnet exec``: a command in a namespace guest, on the terminal of whoever calls."""

from __future__ import annotations

import os
import sys

import click

from vnet.cli.completion import LabName
from vnet.errors import HostError, LabError
from vnet.runtime.client import call, find_lab


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("lab", type=LabName())
@click.argument("guest")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- COMMAND...")
def exec_command(lab: str, guest: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in GUEST, a guest of kind namespace, as ip netns exec does; the exit status is that of the command.

    \b
    vnet exec office pc1 -- ip addr
    vnet exec office pc1 -- bash
    """
    if command[0] == "--":
        command = command[1:]
    data = call(find_lab(lab), "exec", {"guest": guest, "command": list(command)})
    argv = data.get("argv") if isinstance(data, dict) else None
    if not isinstance(argv, list) or not all(isinstance(part, str) for part in argv):
        raise LabError("the lab answered what is no command line")
    sys.stdout.flush()
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        raise HostError(f"cannot run {argv[0]}: {error.strerror}") from error
