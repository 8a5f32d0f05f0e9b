"""The ``vnet`` command: finds the subcommand, and turns every failure into one or two lines and an exit status.

Status 0 is success, 1 is "no" (a broken topology, no answer, a lab that failed), 2 is wrong use, 130 is Ctrl-C. A traceback
is printed only for those who ask for it with VNET_DEBUG=1.

Subcommands are imported when they are called, because half of them need trio or networkx and ``vnet --help`` needs neither.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final, final

import click

from vnet.cli.output import print_error
from vnet.errors import TopologyError, UsageError, VnetError

SUCCESS: Final = 0
NO: Final = 1
WRONG_USE: Final = 2
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
"""What a shell reports for a program that SIGPIPE ended."""

_COMMANDS: Final = {
    "check": ("check", "Validate a topology file."),
    "graph": ("graph", "Draw a topology."),
    "schema": ("check", "Print the JSON Schema of topology files."),
    "up": ("up", "Run a lab."),
    "down": ("labs", "End labs, or clean up after dead ones."),
    "ls": ("labs", "List the labs."),
    "show": ("show", "Show the state of a lab."),
    "exec": ("execute", "Run a command in a namespace guest."),
    "console": ("console", "Look at the console of a virtual machine."),
    "plug": ("plug", "Make a port for a virtual machine, and print its command line."),
    "unplug": ("plug", "Take such a port away again."),
    "qemu": ("qemu", "Run QEMU attached to a lab."),
    "set": ("change", "Change a running lab: links, ports, loss, latency."),
    "flush": ("change", "Empty a table: fdb, leases or nat."),
    "ping": ("probe", "Ping from a guest."),
    "pingall": ("probe", "Measure who reaches whom, beside what the rules say."),
    "capture": ("capture", "Capture frames as pcapng."),
    "doctor": ("doctor", "Say what this machine can do."),
    "completion": ("completion", "Print the completion script of a shell."),
}


@final
class LazyGroup(click.Group):
    """A group whose commands live in modules of their own, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List all, in the order in which somebody new needs them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"vnet.cli.{_COMMANDS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Look the command up; suggest the nearest one for a name that is not there."""
        name = args[0]
        if name in _COMMANDS or name.startswith("-"):
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches

        near = get_close_matches(name, _COMMANDS, 1)
        raise click.UsageError(f"there is no command {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""), ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(package_name="vnet", prog_name="vnet", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> int:
    """A virtual network fabric in user space: switches, guests and services, live or in virtual time.

    \b
    vnet check lab.yaml          is the topology right?
    vnet up lab.yaml             run it; Ctrl-C ends it
    vnet up lab.yaml --simulate 24h
    vnet ls; vnet show LAB leases; vnet pingall LAB; vnet capture LAB web | tshark -i -
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return WRONG_USE
    return SUCCESS


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status; never raise."""
    try:
        result = cli.main(None if arguments is None else list(arguments), prog_name="vnet", standalone_mode=False)
        if sys.stdout is not None:  # None if it was closed before we began
            sys.stdout.flush()
        return result if isinstance(result, int) else SUCCESS
    except BaseException as error:
        return _explain(only_error(error))


def only_error(error: BaseException) -> BaseException:
    """Unwrap the groups that nurseries put around a single error; of several, take the one a user can act on."""
    while isinstance(error, BaseExceptionGroup):
        known = [each for each in error.exceptions if isinstance(each, VnetError | BaseExceptionGroup)]
        error = (known or list(error.exceptions))[0]
    return error


def _explain(error: BaseException) -> int:
    """Print what went wrong and choose the exit status."""
    if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno == errno.EPIPE):
        # Whoever read our output has gone: there is nobody to tell. Python must not try to flush at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return INTERRUPTED
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "vnet"
        text = " ".join(error.format_message().split()).rstrip(".")
        print_error(f"{text}\n      {path} --help says how it is used")
        return WRONG_USE
    if isinstance(error, TopologyError):
        for problem in error.problems:
            click.echo(str(problem), err=True)
        return NO
    if isinstance(error, VnetError | click.ClickException):
        print_error(error.format_message() if isinstance(error, click.ClickException) else str(error))
        return WRONG_USE if isinstance(error, UsageError) else NO
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else NO
    if os.environ.get("VNET_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        print_error(f"{place}{error.strerror or error}")
        return NO
    print_error(
        f"internal error, {type(error).__name__}: {str(error)[:200]}\n"
        "      this is a fault of vnet; VNET_DEBUG=1 shows where, for a report"
    )
    return NO


def main() -> None:
    """Be the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no such character is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run())
