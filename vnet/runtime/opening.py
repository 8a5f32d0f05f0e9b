"""Open a lab: ``open_lab`` is the way in for scripts, tests and the command line alike.

Inside ``vnet.simulate`` a lab is simulated: every guest is emulated, no privilege is needed, nothing of the host is used.
Elsewhere it is live: namespace guests are real, and the lab holds its lock, its journal and its shell.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeAlias

import trio

from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.fabric.trace import EventLog
from vnet.guests.stand_in import StandIn
from vnet.runtime.build import Builder
from vnet.runtime.clock import current_simulation
from vnet.runtime.lab import Lab
from vnet.runtime.live import LiveHost
from vnet.runtime.machines import end_machine
from vnet.runtime.state import open_store
from vnet.runtime.ways import simulated_context
from vnet.topology import load_topology
from vnet.topology.host import with_host
from vnet.topology.resolved import ResolvedTopology

Source: TypeAlias = "str | Path | ResolvedTopology"
"""A topology, or the path of its file."""
Progress: TypeAlias = Callable[[str], None]


def silent(text: str) -> None:
    """Show no progress."""


@asynccontextmanager
async def open_lab(
    source: Source,
    *,
    seed: int | None = None,
    state: str | Path | None = None,
    emulate: bool = False,
    progress: Progress = silent,
) -> AsyncIterator[Lab]:
    """Build and run a lab for the length of the block; nothing of it is left afterwards.

    *seed* defaults to that of the simulation, or 0. *state* is a directory where DHCP bindings outlive the lab. With
    *emulate* a live lab needs no root: every guest is emulated, as in a simulation. Raise TopologyError, or HostError when
    the machine lacks what a live lab needs.
    """
    topology = source if isinstance(source, ResolvedTopology) else load_topology(source)
    simulation = current_simulation()
    if simulation is None:
        async with _open_live(topology, 0 if seed is None else seed, state, emulate, progress) as lab:
            yield lab
        return
    timeline = simulation.timeline
    events = EventLog(timeline)
    used_seed = simulation.seed if seed is None else seed
    topology = with_host(topology)
    async with AsyncExitStack() as stack:
        store = stack.enter_context(open_store(state, topology.name, timeline, live=False))
        streams = RandomStreams(used_seed)
        builder = Builder(topology, timeline, streams, events, store.for_network, {})
        lab = Lab(timeline, events, builder, seed=used_seed, live=False, has_state_file=state is not None)
        stack.push_async_callback(lab.networks.close)
        await lab.networks.open(partial(simulated_context, timeline, streams, events))
        try:
            async with _programs(lab), _machines(lab):
                yield lab
        finally:
            for each in tuple(lab.snapshots):
                each.close()
            lab.captures.close()
            for link in lab.links.values():
                link.unplug()


@asynccontextmanager
async def _open_live(
    topology: ResolvedTopology, seed: int, state: str | Path | None, emulate: bool, progress: Progress
) -> AsyncIterator[Lab]:
    timeline = Timeline()
    events = EventLog(timeline)
    if emulate:
        topology = with_host(topology)
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(LiveHost.open(topology, timeline, events, emulate, progress))
        store = stack.enter_context(open_store(state, topology.name, timeline, live=True))  # who has the lock has the file
        progress("plugging everything together")
        builder = Builder(topology, timeline, RandomStreams(seed), events, store.for_network, host.guests)
        lab = Lab(timeline, events, builder, seed=seed, live=True, epoch=time.time_ns() - timeline.now, emulate=emulate)
        stack.callback(lab.captures.close)
        host.shell.on_error = lambda error: _report_error(events, error)
        make_context = partial(host.adapter_context, timeline, events)
        stack.push_async_callback(lab.networks.close)
        await lab.networks.open(make_context)
        stack.push_async_callback(lab.plugs.close)
        lab.plugs.open(make_context)
        await stack.enter_async_context(host.running(lab))
        stack.push_async_callback(lab.networks.settle)
        await stack.enter_async_context(_programs(lab))
        await stack.enter_async_context(_machines(lab))
        yield lab


def _programs(lab: Lab) -> AbstractAsyncContextManager[None]:
    """Run the programs of the topology; a lab without any loads nothing of them."""
    if not any(guest.run for guest in lab.topology.guests.values()):
        return nullcontext()
    from vnet.runtime.programs import running_programs

    return running_programs(lab)


@asynccontextmanager
async def _machines(lab: Lab) -> AsyncIterator[None]:
    """End the machines that are stood in for as their file says, before their programs and with all that is around them."""
    try:
        yield
    finally:
        stand_ins = [guest for guest in lab.guests.values() if isinstance(guest, StandIn)]
        if stand_ins:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    for each in stand_ins:
                        nursery.start_soon(end_machine, each)


def _report_error(events: EventLog, error: Exception) -> None:
    """Show that a part of the lab failed, and go on with the rest."""
    events.add("lab", "internal-error", error=f"{type(error).__name__}: {error}")
    print(f"vnet: internal error: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
