"""What tests of branches run in copies of a lab: module-level functions, since a copy finds them by name."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import trio

from vnet.runtime.lab import Lab
from vnet.runtime.sinks import MemorySink

LAB = """
name: fork
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {lease: 1h}}}
switches: {left: {}, right: {}}
links: [{between: [left, right], trunk: all, loss: 10%, latency: 2ms}]
guests:
  one: {switch: left, nics: [{network: lan, address: 10.0.0.1/24}]}
  two: {switch: right, nics: [{network: lan, address: 10.0.0.2/24}]}
  pc: {switch: right, nics: [lan]}
"""


async def a_day(lab: Lab, losses: float = 0.1) -> tuple[bytes, str, float]:
    """Do what depends on every kind of state: timers, loss, leases, caches, random draws."""
    lab.links["left", "right"].loss = losses
    sink = MemorySink()
    capture = lab.captures.start(sink)
    for _ in range(5):
        await lab.ping("one", "two")
        await lab.ping("two", "pc")
    await trio.sleep(24 * 3600)
    capture.finish()
    return sink.octets(), lab.events.to_lines(), lab.now


async def fail(lab: Lab, error: BaseException) -> None:
    raise error


async def wait(lab: Lab, seconds: float) -> float:
    await trio.sleep(seconds)
    return lab.now


async def pids(lab: Lab) -> tuple[int, int]:
    return os.getpid(), os.getppid()


async def die(lab: Lab) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def leave(lab: Lab) -> None:
    os._exit(0)


class Unspeakable(Exception):
    """Can neither be pickled and made again, nor be shown."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__()

    def __str__(self) -> str:
        raise ValueError("no words")


class Shifty:
    """Can be pickled, and not made again."""

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("x",)


class Turncoat(Exception):
    """Comes out of a pickle as something else."""

    def __reduce__(self) -> tuple[object, ...]:
        return str, ("x",)


async def return_shifty(lab: Lab) -> Shifty:
    return Shifty()


async def fail_as_turncoat(lab: Lab) -> None:
    raise Turncoat("of all")


async def fail_unspeakably(lab: Lab) -> None:
    raise Unspeakable(1, 2)


async def interrupt(lab: Lab, pid: int) -> str:
    os.kill(pid, signal.SIGUSR1)
    return "late answer"


async def interrupt_and_spin(lab: Lab, pid: int) -> None:
    os.kill(pid, signal.SIGUSR1)
    while True:
        signal.pause()


async def orphan(lab: Lab) -> None:
    os.kill(os.getppid(), signal.SIGKILL)


async def after(lab: Lab, seconds: float) -> tuple[float, int]:
    """Wait in two steps, so that others have their turn in between; ping as well."""
    await trio.sleep(seconds / 2)
    reply = await lab.ping("one", "two", count=3)
    await trio.sleep(seconds / 2)
    return lab.now, reply.received


async def be_killed_with_a_branch_inside(lab: Lab, inside: bool, descriptor: int) -> None:
    """Have a branch, or a snapshot, of this branch kill this one, and go on."""
    if inside:
        await lab.branch(kill_parent)
    else:
        await (await lab.snapshot()).run(kill_grandparent)


async def kill_parent(lab: Lab) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    while True:
        signal.pause()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def kill_grandparent(lab: Lab) -> None:
    os.kill(parent_of(os.getppid()), signal.SIGKILL)
    while True:
        signal.pause()


async def for_ever(lab: Lab) -> None:
    await trio.sleep_forever()


@contextlib.contextmanager
def patience(seconds: float = 20) -> Iterator[None]:
    """Fail instead of waiting for ever for a process that does not end."""

    def give_up(number: int, frame: object) -> None:
        raise AssertionError("still waiting for a copy")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
