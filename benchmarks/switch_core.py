"""The switch in memory: the whole product with its hooks idle, beside a plain dict-per-VLAN loop over the same frames.

8 access ports, 2 VLANs, 8 hosts behind each port, 64-octet frames from anybody to anybody of the same VLAN on another port.
The product does all it always does: cached decision, ageing, counters, size check, admission, ingress filtering. The plain
loop is what one would write first: learn on change, look up, hand over; no counters, no ageing, no filtering, everything
inline, from a list. The same loop as a handler that is called with each frame, as adapters call a switch, is shown beside
it. Each ends in the same call of an egress handler. Seconds are those of the CPU: one thread, nothing to wait for.
"""

from __future__ import annotations

import gc
from random import Random
from time import process_time
from typing import Final

from benchmarks.rows import ROUNDS, Row, against_best, interleave, medians
from vnet.fabric.timeline import Timeline
from vnet.ports import NO_OFFLOAD, Handler, Port, connect
from vnet.switch.switch import Switch
from vnet.switch.vlan import access

PORTS: Final = 8
HOSTS_PER_PORT: Final = 8
FRAMES: Final = 200_000
PASSES: Final = 5
"""Of which the fastest counts: what slows a pass of a tenth of a second down is the machine."""

Traffic = list[tuple[int, bytes]]
"""Ingress port, numbered from 0, and frame."""


def traffic(frames: int = FRAMES) -> Traffic:
    """Make the frames; hosts of even ports are in one VLAN, those of odd ports in the other."""
    random = Random(1)
    macs = [[bytes((2, 0, 0, 0, port, host)) for host in range(HOSTS_PER_PORT)] for port in range(PORTS)]
    payload = b"\x08\x00" + bytes(46)
    made = []
    for _ in range(frames):
        ingress = random.randrange(PORTS)
        egress = random.choice([port for port in range(ingress % 2, PORTS, 2) if port != ingress])
        made.append((ingress, random.choice(macs[egress]) + random.choice(macs[ingress]) + payload))
    return made


def sink() -> tuple[Handler, list[int]]:
    """Make an egress handler and the place where it counts."""
    count = [0]

    def take(_frame: bytes, _offload: bytes) -> None:
        count[0] += 1

    return take, count


def product(frames: Traffic) -> float:
    """Return the frames per second through a Switch."""
    switch = Switch("s", Timeline())
    counts = []
    for index in range(PORTS):
        take, count = sink()
        counts.append(count)
        connect(Port(f"far{index}", take), switch.add_port(access(1 + index % 2)).port)
    warm = [(switch.ports[ingress + 1].port.receive, frame) for ingress, frame in frames]
    for receive, frame in warm[: len(warm) // 10]:
        receive(frame, NO_OFFLOAD)
    before = sum(count[0] for count in counts)
    gc.collect()
    offload = NO_OFFLOAD
    times = []
    for _ in range(PASSES):
        began = process_time()
        for receive, frame in warm:
            receive(frame, offload)
        times.append(process_time() - began)
    assert sum(count[0] for count in counts) - before == PASSES * len(frames)
    return len(frames) / min(times)


def plain(frames: Traffic) -> float:
    """Return the frames per second through the plain loop."""
    takes = [sink() for _ in range(PORTS)]
    handlers = [take for take, _ in takes]
    vid_of = [1 + index % 2 for index in range(PORTS)]
    members = {vid: [port for port in range(PORTS) if vid_of[port] == vid] for vid in (1, 2)}

    def forward(trace: Traffic) -> None:
        fdb = tables
        offload = NO_OFFLOAD
        for ingress, frame in trace:
            vid = vid_of[ingress]
            table = fdb[vid]
            source = frame[6:12]
            if table.get(source) != ingress:
                table[source] = ingress
            egress = table.get(frame[:6])
            if egress is None:
                for port in members[vid]:
                    if port != ingress:
                        handlers[port](frame, offload)
            elif egress != ingress:
                handlers[egress](frame, offload)

    tables: dict[int, dict[bytes, int]] = {1: {}, 2: {}}
    forward(frames[: len(frames) // 10])
    before = sum(count[0] for _, count in takes)
    gc.collect()
    times = []
    for _ in range(PASSES):
        began = process_time()
        forward(frames)
        times.append(process_time() - began)
    assert sum(count[0] for _, count in takes) - before == PASSES * len(frames)
    return len(frames) / min(times)


def plain_handler(frames: Traffic) -> float:
    """Return the frames per second through the plain loop's body, called for each frame."""
    takes = [sink() for _ in range(PORTS)]
    handlers = [take for take, _ in takes]
    tables: dict[int, dict[bytes, int]] = {1: {}, 2: {}}

    def make(ingress: int) -> Handler:
        vid = 1 + ingress % 2
        table = tables[vid]
        others = [port for port in range(PORTS) if 1 + port % 2 == vid and port != ingress]

        def receive(frame: bytes, offload: bytes) -> None:
            source = frame[6:12]
            if table.get(source) != ingress:
                table[source] = ingress
            egress = table.get(frame[:6])
            if egress is None:
                for port in others:
                    handlers[port](frame, offload)
            elif egress != ingress:
                handlers[egress](frame, offload)

        return receive

    receivers = [make(port) for port in range(PORTS)]
    warm = [(receivers[ingress], frame) for ingress, frame in frames]
    gc.collect()
    offload = NO_OFFLOAD
    times = []
    for _ in range(PASSES):
        began = process_time()
        for receive, frame in warm:
            receive(frame, offload)
        times.append(process_time() - began)
    assert sum(count[0] for _, count in takes) >= PASSES * len(frames)
    return len(frames) / min(times)


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure the row."""
    frames = traffic()
    measured = interleave(
        {
            "vnet": lambda: product(frames),
            "plain loop": lambda: plain(frames),
            "the same as a handler": lambda: plain_handler(frames),
        },
        rounds,
    )
    return [
        Row(
            what="switch core in memory vs plain dict-per-VLAN loop", gate=1.0, ambition=1.5,
            ratios=against_best(measured, "vnet", ("plain loop",)), figures=medians(measured, "k frames/s", 1e3, 0),
            note="decisions cached for each ingress port by the frame's first 14 octets (18 where tags are carried)",
        )
    ]  # fmt: skip
