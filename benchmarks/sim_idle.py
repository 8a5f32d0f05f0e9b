"""Ten minutes of a lab in which little happens: twenty hosts with leases, connections that are open, a word now and then.

Five of the hosts keep a TCP connection to the sixth and say something every 30 s; all renew their leases; a ping goes round
each minute. The lab is built and torn down within the time that is measured, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Final

import trio

import vnet
from benchmarks.rows import ROUNDS, Row, interleave, medians
from vnet.runtime.lab import Lab

HOSTS: Final = 20
SECONDS: Final = 600
TALKERS: Final = 5
TOPOLOGY: Final = f"""
name: idle
networks: {{lan: {{subnet: 10.0.0.0/24, dhcp: {{lease: 4min}}}}}}
guests: {{{", ".join(f"h{number}: {{nics: [lan]}}" for number in range(HOSTS))}}}
"""
WHAT: Final = "simulated lab of 20 mostly idle hosts, lab seconds per wall second"


async def talk(lab: Lab, name: str) -> None:
    """Say a word every half minute, and wait for the answer."""
    async with await lab.guests[name].open_tcp_stream("h0", 7) as stream:
        while True:
            await stream.send_all(b"word")
            await stream.receive_some()
            await trio.sleep(30)


async def scenario() -> None:
    """Run the ten minutes."""
    async with vnet.open_lab(vnet.parse_topology(TOPOLOGY)) as lab, trio.open_nursery() as nursery:
        await lab.wait_up()

        async def echo(stream: trio.SocketStream) -> None:
            async for data in stream:
                await stream.send_all(data)

        await nursery.start(lambda task_status: lab.guests["h0"].serve_tcp(echo, 7, task_status=task_status))
        for number in range(1, TALKERS + 1):
            nursery.start_soon(talk, lab, f"h{number}")
        for minute in range(SECONDS // 60):
            reply = await lab.ping(f"h{minute + 6}", "h0")
            assert reply.ok, "the lab is whole"
            await trio.sleep(60)
        nursery.cancel_scope.cancel()


def measure() -> float:
    """Return how many seconds of the lab passed in one of the wall clock."""
    started = time.perf_counter()
    vnet.simulate(scenario)
    return SECONDS / (time.perf_counter() - started)


def _in_a_process() -> float:
    command = [sys.executable, "-m", "benchmarks.sim_idle"]
    return float(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def rows(rounds: int = ROUNDS) -> list[Row]:
    """Measure the row of this group."""
    measured = interleave({"vnet": _in_a_process}, rounds)["vnet"]
    figures = medians({"vnet": measured}, "lab s/s", 1, 0)
    return [Row(what=WHAT, gate=SECONDS, ambition=10 * SECONDS, unit="s", ratios=tuple(measured), figures=figures)]


if __name__ == "__main__":
    print(json.dumps(measure()))
