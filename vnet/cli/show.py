"""``vnet show``: the state of a running lab as tables or JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias, cast

import click

from vnet.cli.completion import LabName
from vnet.cli.output import cell_text, print_json, print_table
from vnet.errors import LabError
from vnet.runtime.client import call, find_lab
from vnet.units import SECOND, format_duration, format_rate, nanoseconds

Row: TypeAlias = Mapping[str, object]
Column: TypeAlias = "tuple[str, str | Callable[[Row], object]]"

WHAT: Final = (
    "networks", "ports", "links", "fdb", "leases", "nat", "flows", "guests", "programs", "routers", "stp", "events",
)  # fmt: skip
OVERVIEW: Final = ("networks", "guests", "leases")
EVENTS_SHOWN: Final = 40


def _duration(key: str) -> Callable[[Row], object]:
    def text(row: Row) -> object:
        value = row[key]
        if not isinstance(value, int | float):
            return ""
        duration = nanoseconds(value)
        return format_duration(duration if duration < SECOND else duration // SECOND * SECOND)

    return text


def _dhcp(row: Row) -> object:
    dhcp = row["dhcp"]
    return (
        f"{dhcp['range']} by {dhcp['server']}, {dhcp['leases']} of {dhcp['pool']} leased" if isinstance(dhcp, dict) else ""
    )


def _counted(key: str) -> Callable[[Row], object]:
    def text(row: Row) -> object:
        counts = row[key]
        return ", ".join(f"{name} {count}" for name, count in counts.items() if count) if isinstance(counts, dict) else ""

    return text


def _rate(row: Row) -> object:
    rate = row["rate_bps"]
    return format_rate(rate) if isinstance(rate, int) else ""


def _loss(row: Row) -> object:
    loss = row["loss"]
    return f"{loss:.4g}" if isinstance(loss, float) and loss else ""


def _impairments(row: Row) -> object:
    """Tell the impairments that are set: few links have any, so they share a column."""
    variation = _duration("delay_variation_s")(row) if row["delay_variation_s"] else None
    parts = [f"up to {variation} more"] if variation else []
    parts += [f"{key} {row[key]:.4g}" for key in ("reordering", "duplication", "corruption") if row[key]]
    return ", ".join(parts)


def _link_drops(row: Row) -> object:
    return _both_ways(cast("list[dict[str, int]]", row["drops"]))


def _altered(row: Row) -> object:
    return _both_ways(cast("list[dict[str, int]]", row["altered"]))


def _both_ways(ways: Sequence[Mapping[str, int]]) -> str:
    return (
        " / ".join(", ".join(f"{name} {count}" for name, count in way.items()) or "0" for way in ways) if any(ways) else ""
    )


def _adapter(row: Row) -> str:
    """Name a network's way out, and what is wrong with it."""
    if row["adapter"] == "none":
        return ""
    return str(row["adapter"]) if row["state"] == "up" else f"{row['adapter']} ({row['state']})"


_LONG: Final = ("program", "first_sent_s", "last_arrival_s", "sent_octets", "received_octets")
_NIL: Final = (*_LONG, "duplicates", "reordered")
"""What lines of results do without: what other numbers tell as well, and what did not happen."""


def _with_results(row: Row) -> list[Row]:
    """Make a line for each result of a program, or one that says why there is none; JSON has what is left out here."""
    results = cast("list[Row]", row["results"])
    texts = [
        " ".join(f"{key}={_short(value)}" for key, value in each.items() if key not in (_LONG if value else _NIL))
        for each in results
    ]
    return [{**row, "result": text} for text in texts or [str(row["error"] or "")]]


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return cell_text(value)


def _peer(row: Row) -> str:
    """Name what is plugged into a switch port; for what came from outside, how it speaks and what is wrong."""
    plug = row.get("plug")
    if not isinstance(plug, dict):
        return str(row["peer"])
    return f"{row['peer']} ({plug['kind']}{', nobody there' if plug['problem'] else ''})"


_TABLES: Final[Mapping[str, Sequence[Column]]] = {
    "networks": (
        ("network", "name"), ("vlan", "vlan"), ("subnet", "subnet"),
        ("adapter", _adapter), ("dhcp", _dhcp),
        ("members", "members"),
    ),
    "ports": (
        ("port", lambda row: f"{row['switch']}:{row['port']}"), ("peer", _peer), ("state", "state"), ("mode", "mode"),
        ("pvid", "pvid"), ("tagged", "tagged"), ("rx frames", "rx_frames"), ("rx octets", "rx_octets"),
        ("tx frames", "tx_frames"), ("tx octets", "tx_octets"), ("drops", _counted("drops")),
    ),
    "links": (
        ("link", "name"), ("between", "between"), ("state", "state"), ("rate", _rate), ("latency", _duration("latency_s")),
        ("loss", _loss), ("impairments", _impairments), ("drops", _link_drops), ("altered", _altered),
    ),
    "fdb": (
        ("switch", "switch"), ("vlan", "vlan"), ("mac", "mac"), ("port", "port"), ("peer", "peer"), ("owner", "owner"),
        ("type", "type"), ("age", _duration("age_s")),
    ),
    "leases": (
        ("network", "network"), ("address", "address"), ("mac", "mac"), ("owner", "owner"), ("hostname", "hostname"),
        ("state", "state"), ("expires in", _duration("expires_in_s")),
    ),
    "nat": (
        ("router", "router"), ("protocol", "protocol"), ("inside", "inside"), ("outside", "outside"),
        ("connections", "connections"), ("forward", "forward"),
    ),
    "flows": (
        ("router", "router"), ("protocol", "protocol"), ("state", "state"), ("from", "from"), ("to", "to"),
        ("source", "source"), ("destination", "destination"), ("translated", "translated"),
        ("expires in", _duration("expires_in_s")),
    ),
    "guests": (
        ("guest", "guest"), ("kind", "kind"), ("interface", "name"), ("network", "network"), ("address", "addresses"),
        ("mac", "mac"), ("gateway", "gateway"),
        ("state", lambda row: f"{row['state']} by {row['active']}" if row.get("active") else row["state"]), ("dhcp", "dhcp"),
    ),
    "programs": (("guest", "guest"), ("program", "name"), ("state", "state"), ("result", "result")),
    "routers": (
        ("router", "name"), ("interfaces", "interfaces"), ("forwarded", "forwarded"), ("drops", _counted("drops")),
        ("rules", _counted("rules")),
    ),
    "stp": (("switch", "switch"), ("protocol", "protocol"), ("configured", "configured"), ("priority", "priority")),
    "events": (
        ("time", lambda row: f"{row['time_s']:.6f}"), ("node", "node"), ("event", "event"),
        ("what", lambda row: " ".join(f"{name}={cell_text(value)}" for name, value in cast("Row", row["fields"]).items())),
    ),
}  # fmt: skip


def rows_of(data: object) -> list[Row]:
    """Take a view as it came over the socket; raise LabError if it is none."""
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise LabError("the lab answered what is no table")
    return data


def _kind(row: Row) -> str:
    """Name a guest's kind, and how its machine stands."""
    machine = row["machine"]
    return f"{row['kind']} {machine['state']}" if isinstance(machine, dict) else str(row["kind"])


def print_view(what: str, rows: Sequence[Row], title: str = "") -> None:
    """Print a view as a table; for guests, one line for each interface, for programs one for each result."""
    problems: list[str] = []
    if what == "guests":
        nics = cast("list[tuple[Row, list[Row]]]", [(row, row["interfaces"]) for row in rows])
        problems = [f"{row['name']}: {row['problem']}" for row in rows if row.get("problem")]
        rows = [{**nic, "guest": row["name"], "kind": _kind(row)} for row, interfaces in nics for nic in interfaces]
    elif what == "programs":
        rows = [line for row in rows for line in _with_results(row)]
    columns = _TABLES[what]
    cells = [[key(row) if callable(key) else row.get(key) for _, key in columns] for row in rows]
    print_table([title_ for title_, _ in columns], cells, title)
    for problem in problems:
        click.echo(problem)


@click.command("show")
@click.argument("lab", type=LabName())
@click.argument("what", type=click.Choice(WHAT), required=False, metavar="[WHAT]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--last", type=click.IntRange(1), help=f"Events: how many (default {EVENTS_SHOWN}; with --json all).")
def show_command(lab: str, what: str | None, as_json: bool, last: int | None) -> None:
    """Show the state of LAB; without WHAT, its networks, guests and leases.

    WHAT is one of networks, ports, links, fdb, leases, nat, flows, guests, programs, routers, stp,
    events.

    \b
    vnet show office leases
    vnet show office ports --json | jq '.[] | select(.drops != {})'
    """
    place = find_lab(lab)
    wanted = OVERVIEW if what is None else (what,)
    if what == "events" and last is None and not as_json:
        last = EVENTS_SHOWN
    views = {each: rows_of(call(place, "show", {"what": each, "last": last})) for each in wanted}
    if as_json:
        print_json(views if what is None else views[what])
        return
    for number, (name, rows) in enumerate(views.items()):
        if number:
            click.echo()
        print_view(name, rows, name if what is None else "")
