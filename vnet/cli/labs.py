"""``vnet ls`` and ``vnet down``: the labs of this user, and their end."""

from __future__ import annotations

import click

from vnet.cli.completion import LabName
from vnet.cli.output import print_json, print_table
from vnet.errors import LabError, UsageError
from vnet.runtime.client import ANSWER_TIMEOUT, call, end_lab, find_lab, left_behind, sweep_dead
from vnet.runtime.places import LabPlace, all_labs
from vnet.units import SECOND, format_duration


def _describe(place: LabPlace) -> dict[str, object]:
    row: dict[str, object] = {"name": place.name, "state": "dead", "pid": None, "left_behind": 0}
    if not place.is_running():
        return {**row, "left_behind": left_behind(place)}
    row.update(state="running", pid=place.read_pid())
    try:
        info = call(place, "info", timeout=ANSWER_TIMEOUT)
    except LabError:
        # a lab that a script or a test runs has no control socket; one of vnet up has none for a moment
        return {**row, "state": "busy" if place.control.exists() else "no commands"}
    return {**row, **info} if isinstance(info, dict) else row


@click.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls_command(as_json: bool) -> None:
    """List the labs: running, dead (killed, and left something behind that vnet down removes), or "no commands".

    The last are starting or ending, or are run by a program of yours that opened no control socket.
    """
    rows = [_describe(place) for place in all_labs()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo("no lab is running; vnet up FILE starts one", err=True)
        return
    cells = []
    for row in rows:
        time_s = row.get("time_s")
        age = format_duration(int(time_s) * SECOND) if isinstance(time_s, int | float) else ""
        kind = "" if "live" not in row else "live" if row["live"] else "simulated"
        cells.append((row["name"], row["state"], kind, row["pid"], age, row.get("guests"), row.get("source")))
    print_table(("lab", "state", "time", "process", "age", "guests", "file"), cells)


@click.command("down")
@click.argument("labs", type=LabName(), nargs=-1, metavar="LAB...")
@click.option("--all", "everything", is_flag=True, help="All labs of this user.")
def down_command(labs: tuple[str, ...], everything: bool) -> None:
    """End a LAB and wait until it is gone; after one that was killed, remove what it left.

    --all passes over labs that take no commands: a program of yours runs them, or they are just starting. Name one to end
    it, and the program with it.

    \b
    vnet down office
    vnet down --all
    """
    known = {place.name: place for place in all_labs()}
    if not labs and not everything:
        raise UsageError(
            "which lab is to end? name it, or write --all" + (f"; there are: {', '.join(known)}" if known else "")
        )
    for name in labs if labs else known:
        place = known.get(name) or find_lab(name)
        if place.is_running():
            if not labs and not place.control.exists():
                click.echo(
                    f"{name}: left alone, since it takes no commands; vnet down {name} ends it and its program", err=True
                )
                continue
            end_lab(place)
            if place.journal.exists():  # its program died of the signal and undid nothing
                _sweep(place)
            click.echo(f"{name}: ended")
            continue
        _sweep(place)
        click.echo(f"{name}: was dead; nothing of it is left")


def _sweep(place: LabPlace) -> None:
    for text in sweep_dead(place):
        click.echo(f"{place.name}: removed {text}")
