"""``vnet console``: the serial console of a virtual machine, on the terminal of whoever calls."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from vnet.cli.completion import LabName
from vnet.cli.output import print_progress
from vnet.runtime.client import find_lab, open_console

LEAVE: Final = b"\x1d"
"""Ctrl-], as in telnet and virsh."""
_PIECE: Final = 1 << 16


@click.command("console")
@click.argument("lab", type=LabName())
@click.argument("guest")
@click.option("--print", "only_print", is_flag=True, help="Print what it said lately, and end.")
def console_command(lab: str, guest: str, only_print: bool) -> None:
    """Look at the console of GUEST, a guest of kind qemu, and type; Ctrl-] leaves. The machine goes on.

    What it said lately, up to 64 KiB, comes first. Several may look at once. Without a terminal, standard input is typed,
    and the command goes on until the machine or the lab ends.

    \b
    vnet console office vm1
    vnet console office vm1 --print | tail
    """
    with open_console(find_lab(lab), guest, only_print) as connection:
        if only_print:
            _copy(connection, None)
            return
        with _raw_terminal() as is_terminal:
            if is_terminal:
                print_progress(f"this is {guest} of {lab}; Ctrl-] leaves\r")
            _copy(connection, sys.stdin.fileno())
    if is_terminal:
        click.echo()


@contextmanager
def _raw_terminal() -> Iterator[bool]:
    """Hand over each key as it is pressed; tell whether there is a terminal at all."""
    if not sys.stdin.isatty():
        yield False
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield True
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _copy(connection: socket.socket, keys: int | None) -> None:
    """Pass octets both ways until the machine's side ends, or somebody leaves."""
    out = sys.stdout.buffer
    sources: list[int] = [connection.fileno(), *([] if keys is None else [keys])]
    is_terminal = keys is not None and os.isatty(keys)
    with contextlib.suppress(ConnectionError, KeyboardInterrupt):
        while True:
            ready, _, _ = select.select(sources, [], [])
            if connection.fileno() in ready:
                data = connection.recv(_PIECE)
                if not data:
                    return
                out.write(data)
                out.flush()
            if keys in ready:
                typed = os.read(keys, _PIECE) if keys is not None else b""
                if not typed:
                    sources.remove(sources[-1])
                    continue
                before, leave, _ = typed.partition(LEAVE) if is_terminal else (typed, b"", b"")
                connection.sendall(before)
                if leave:
                    return
