"""When the machines of a lab start, as their file says (VS-84)."""

from __future__ import annotations

from collections.abc import Iterator

from vnet.topology.machines import ResolvedMachine
from vnet.topology.resolved import ResolvedTopology
from vnet.units import Duration, Instant


def in_order(topology: ResolvedTopology) -> Iterator[tuple[str, ResolvedMachine]]:
    """Yield the machines that start with their lab, by name, the first one first."""
    machines = [(guest.name, guest.machine) for guest in topology.guests.values() if guest.machine is not None]
    for name, machine in sorted(machines, key=lambda each: each[1].start_order):
        if machine.start_action == "always":
            yield name, machine


def start_times(topology: ResolvedTopology) -> dict[str, Instant | None]:
    """Tell when each machine starts that boots in no time, as stand-ins do: its delay after the one before it.

    None is for those that do not start with the lab.
    """
    times: dict[str, Instant | None] = {guest.name: None for guest in topology.guests.values() if guest.machine is not None}
    when: Duration = 0
    for name, machine in in_order(topology):
        when += machine.start_delay
        times[name] = when
    return times
