"""``vnet ping`` and ``vnet pingall``: who reaches whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, cast

import click

from vnet.cli.completion import LabName
from vnet.cli.output import print_json, print_table
from vnet.errors import LabError
from vnet.runtime.client import call, find_lab

Row: TypeAlias = Mapping[str, object]

_MARKS: Final = {
    (True, True): "yes", (False, False): "-", (True, False): "YES!", (False, True): "no!",
    (True, None): "yes?", (False, None): "no?",
}  # fmt: skip
"""By (reached, expected); what differs stands out, and what the rules do not judge."""


def _milliseconds(value: object) -> str:
    return f"{value * 1000:.3f} ms" if isinstance(value, int | float) else ""


@click.command("ping")
@click.argument("lab", type=LabName())
@click.argument("guest")
@click.argument("target")
@click.option("--count", "-c", "-n", type=click.IntRange(1, 1_000_000), default=1, show_default=True, help="Echo requests.")
@click.option("--interval", "-i", type=click.FloatRange(0, 3600), default=1.0, show_default=True, help="Seconds between.")
@click.option("--timeout", "-W", type=click.FloatRange(0.001, 3600), default=2.0, show_default=True, help="Seconds to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print the replies and the sum as JSON.")
def ping_command(lab: str, guest: str, target: str, count: int, interval: float, timeout: float, as_json: bool) -> int:
    """Ping TARGET, a guest, router or address, from GUEST. The exit status is 1 if nothing came back.

    \b
    vnet ping office pc1 mail
    vnet ping office web 203.0.113.1 -c 5 --json
    """
    replies: list[Row] = []

    def show(data: object) -> None:
        if not isinstance(data, dict):
            return
        replies.append(data)
        if as_json:
            return
        if data["ok"]:
            click.echo(f"reply from {data['from']}: seq {data['seq']}, {_milliseconds(data['rtt_s'])}")
        else:
            click.echo(f"seq {data['seq']}: {data['error'] or 'no answer'}")

    arguments = {"guest": guest, "target": target, "count": count, "interval": interval, "timeout": timeout}
    interrupted = False
    try:
        call(find_lab(lab), "ping", arguments, show)
    except KeyboardInterrupt:
        interrupted = True
    total = _sum_up(guest, target, replies)
    if as_json:
        print_json({**total, "replies": replies})
    elif replies:
        click.echo(_sum_text(total))
    return 130 if interrupted else 0 if total["received"] else 1


def _sum_up(guest: str, target: str, replies: Sequence[Row]) -> dict[str, object]:
    trips = [trip for reply in replies if isinstance(trip := reply["rtt_s"], float)]
    return {
        "guest": guest, "target": target, "sent": len(replies), "received": len(trips),
        "rtt_min_s": min(trips, default=None), "rtt_avg_s": sum(trips) / len(trips) if trips else None,
        "rtt_max_s": max(trips, default=None),
    }  # fmt: skip


def _sum_text(total: Row) -> str:
    sent, received = cast("int", total["sent"]), cast("int", total["received"])
    trips = "/".join(_milliseconds(total[f"rtt_{each}_s"]).removesuffix(" ms") for each in ("min", "avg", "max"))
    times = f", rtt min/avg/max {trips} ms" if received else ""
    lost = 100 * (sent - received) // sent
    return f"{total['guest']} to {total['target']}: {sent} sent, {received} received, {lost}% lost{times}"


@click.command("pingall")
@click.argument("lab", type=LabName())
@click.option("--protocol", "-p", type=click.Choice(["icmp", "tcp", "udp"]), default="icmp", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), help="Port for tcp and udp; a closed port counts as reached.")
@click.option("--timeout", "-W", type=click.FloatRange(0.001, 3600), default=2.0, show_default=True, help="Seconds to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print the matrix as JSON.")
def pingall_command(lab: str, protocol: str, port: int | None, timeout: float, as_json: bool) -> int:
    """Probe every guest of LAB from every other, and print the matrix beside what the rules say.

    The exit status is 1 if what was measured and what the rules say differ.

    \b
    vnet pingall office
    vnet pingall office --protocol tcp --port 80
    """
    if (protocol == "icmp") != (port is None):
        raise click.UsageError("icmp has no ports" if protocol == "icmp" else f"{protocol} needs a port: --port N")
    data = call(find_lab(lab), "pingall", {"protocol": protocol, "port": port, "timeout": timeout})
    if not isinstance(data, dict):
        raise LabError("the lab answered what is no matrix")
    if as_json:
        print_json(data)
    else:
        print_matrix(data)
    return 1 if data["differences"] else 0


def print_matrix(data: Row) -> None:
    """Print the matrix, sources down and targets across; then what the rules say beside what was measured, by network."""
    guests = cast("list[str]", data["guests"])
    rows = cast("list[Row]", data["matrix"])
    cell = {(row["from"], row["to"]): _MARKS[bool(row["reached"]), _expected(row)] for row in rows}
    what = str(data["protocol"]) + (f" port {data['port']}" if data["port"] else "")
    print_table(["from \\ to", *guests], [[each, *(cell.get((each, to), "") for to in guests)] for each in guests])
    click.echo()
    print_table(["from", "to", "rules allow", "measured", "why"], _by_network(rows))
    reached = sum(bool(row["reached"]) for row in rows)
    differences = cast("int", data["differences"])
    unjudged = sum(_expected(row) is None for row in rows)
    verdict = f", {differences} differ from what the rules say" if differences else ", just as the rules say"
    if unjudged:
        verdict = (verdict if unjudged < len(rows) else "") + f"; {unjudged} over IPv6 are not judged"
    click.echo(f"{what}: {reached} of {len(rows)} pairs reached{verdict}")
    for row in rows:
        if row["agrees"] is False:
            measured = "reached" if row["reached"] else f"not reached ({row['detail'] or 'no answer'})"
            click.echo(f"{row['from']} > {row['to']}: {measured}, but the rules say: {row['reason']}")


def _expected(row: Row) -> bool | None:
    """Tell what the rules say; None if they do not judge the pair."""
    return None if row["expected"] is None else bool(row["expected"])


def _by_network(rows: list[Row]) -> list[list[str]]:
    """Sum the pairs up by network: how many the rules allow, how many were reached, and the rules' first reason."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row["from_network"]), str(row["to_network"])), []).append(row)
    table = []
    for (source, target), pairs in groups.items():
        judged = [row for row in pairs if _expected(row) is not None]
        allowed = sum(bool(row["expected"]) for row in judged)
        reached = sum(bool(row["reached"]) for row in pairs)
        deciding = next((row for row in judged if bool(row["expected"]) == (allowed > 0)), pairs[0])
        why = "same network" if judged and source == target else str(deciding["reason"])
        rules = f"{allowed} of {len(judged)}" if judged else "?"
        table.append([source, target, rules, f"{reached} of {len(pairs)}", why])
    return table
