"""TCP of emulated hosts: bulk transfer and short connections in a simulated lab, by CPU seconds of one process each.

Two hosts on one switch, links without impairment, the user's side being trio programs: ``trio.open_tcp_stream`` and
``serve_tcp``, as a test would have them. A connection is opened, carries a request of 100 octets and an answer of 1,000, and
is closed by both ends; one after the other, since many at once are faster.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

import vnet
from benchmarks.rows import ROUNDS, Row, interleave, medians
from vnet.runtime.lab import Lab

TOPOLOGY: Final = """
name: two
networks: {lan: {subnet: 10.0.0.0/24}}
guests:
  a: {nics: [{network: lan, address: 10.0.0.1/24}]}
  b: {nics: [{network: lan, address: 10.0.0.2/24}]}
"""
OCTETS: Final = 2_000_000_000
PIECE: Final = 1 << 20
CONNECTIONS: Final = 2000
REQUEST: Final = bytes(100)
ANSWER: Final = bytes(1000)

BULK: Final = "simulated TCP between emulated hosts, payload per CPU second"
SHORT: Final = "simulated TCP connections opened, used and closed per CPU second"


async def bulk(lab: Lab) -> int:
    """Move octets one way; return how many arrived, in bits."""
    arrived = 0
    done = trio.Event()

    async def take(stream: trio.SocketStream) -> None:
        nonlocal arrived
        while data := await stream.receive_some(PIECE):
            arrived += len(data)
        done.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: lab.guests["b"].serve_tcp(take, 9, task_status=task_status))
        piece = bytes(PIECE)
        async with await lab.guests["a"].open_tcp_stream("b", 9) as stream:
            for _ in range(OCTETS // PIECE):
                await stream.send_all(piece)
        await done.wait()
        nursery.cancel_scope.cancel()
    return arrived * 8


async def connections(lab: Lab) -> int:
    """Open connections one after the other; return how many were used."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(ANSWER)

    used = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: lab.guests["b"].serve_tcp(answer, 9, task_status=task_status))
        for _ in range(CONNECTIONS):
            async with await lab.guests["a"].open_tcp_stream("b", 9) as stream:
                await stream.send_all(REQUEST)
                got = 0
                while data := await stream.receive_some():
                    got += len(data)
                used += got == len(ANSWER)
        nursery.cancel_scope.cancel()
    return used


WORK: Final[dict[str, Callable[[Lab], Awaitable[int]]]] = {"bulk": bulk, "connections": connections}


def measure(what: str) -> float:
    """Do one kind of work in this process; return how much of it in a CPU second."""

    async def main() -> float:
        async with vnet.open_lab(vnet.parse_topology(TOPOLOGY)) as lab:
            await lab.ping("a", "b")
            started = time.process_time()
            amount = await WORK[what](lab)
            return amount / (time.process_time() - started)

    return vnet.simulate(main)


def _in_a_process(what: str) -> float:
    command = [sys.executable, "-m", "benchmarks.stack_tcp", what]
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure the rows of this group."""
    measured = interleave({what: partial(_in_a_process, what) for what in WORK}, rounds)
    return [
        Row(
            what=BULK, gate=2, ambition=4, unit="Gbit", ratios=tuple(value / 1e9 for value in measured["bulk"]),
            figures=medians({"vnet": measured["bulk"]}, "Gbit/s", 1e9),
        ),
        Row(
            what=SHORT, gate=1000, ambition=2000, unit="conn.", ratios=tuple(measured["connections"]),
            figures=medians({"vnet": measured["connections"]}, "connections/s", 1, 0),
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
