"""Live labs for these tests, and the real programs in their guests.

No test waits a fixed time: what is awaited is a program's own word, a table or a deadline. A program that is still there
when its block ends is killed, and the lab ends whatever descends from it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

import vnet
from tests.system import rig
from vnet.adapters import netns
from vnet.guests.namespace import NamespaceGuest

DEADLINE = 60.0
"""Seconds for a whole test: never reached but by a failure."""

PAIR = """
name: NAME
networks:
  n: {subnet: 10.77.0.0/24}
guests:
  emulated: {nics: [{network: n, address: 10.77.0.1/24}]}
  linux: {kind: namespace, nics: [{network: n, address: 10.77.0.2/24}]}
"""

SITE = """
name: NAME
networks:
  internet: {subnet: 203.0.113.0/24}
  dmz: {vlan: 20, subnet: 172.17.1.0/24}
  office: {vlan: 16, subnet: 10.20.100.0/24}
switches: {core: {}, edge: {}}
links:
  - {between: [core, edge], trunk: [office]}
routers:
  perimeter:
    interfaces: {internet: 203.0.113.2/24, dmz: 172.17.1.1/24}
    routes: [{to: 10.20.100.0/24, via: 172.17.1.254}]
    nat:
      outside: internet
      inside: [dmz, office]
      forwards: [{protocol: tcp, port: 8080, to: "10.20.100.10:80"}]
  inner:
    interfaces: {dmz: 172.17.1.254/24, office: 10.20.100.1/24}
    default_gateway: 172.17.1.1
guests:
  www: {kind: namespace, nics: [{network: internet, address: 203.0.113.80/24, gateway: none}]}
  web:
    kind: namespace
    nics: [{network: dmz, address: 172.17.1.26/24, gateway: 172.17.1.1}]
    routes: [{to: 10.20.100.0/24, via: 172.17.1.254}]
  pc: {switch: edge, kind: namespace, nics: [{network: office, address: 10.20.100.10/24}]}
"""
"""pc -- edge == trunk, VLAN 16 == core -- inner, plain router -- web in the DMZ -- perimeter with NAT -- www."""

WWW, WEB, PC = "203.0.113.80", "172.17.1.26", "10.20.100.10"
EXTERNAL, PERIMETER, INNER = "203.0.113.2", "172.17.1.1", "10.20.100.1"


def needs(*programs: str) -> list[pytest.MarkDecorator]:
    """Mark tests that need root and these programs: where those are missing they are skipped, in CI they fail."""
    return [pytest.mark.real, rig.needs(*programs)]


def named(text: str) -> str:
    """Give a topology a name that no other lab has."""
    return text.replace("NAME", f"vt{secrets.token_hex(3)}")


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Take a lone exception out of the groups in which nurseries wrapped it, so that pytest shows what happened."""
    try:
        yield
    except BaseExceptionGroup as group:
        lone: BaseException = group
        while isinstance(lone, BaseExceptionGroup) and len(lone.exceptions) == 1:
            lone = lone.exceptions[0]
        raise lone from None


@asynccontextmanager
async def live(text: str, **options: object) -> AsyncIterator[vnet.Lab]:
    """Run a lab; nothing in it may take longer than the deadline or fail inside vnet."""
    with plainly(), trio.fail_after(DEADLINE):
        async with vnet.open_lab(vnet.parse_topology(named(text)), **options) as lab:
            yield lab
            assert [event.fields for event in lab.events if event.kind == "internal-error"] == []


def guest(lab: vnet.Lab, name: str) -> NamespaceGuest:
    """Look up a guest that is a namespace."""
    found = lab.guests[name]
    assert isinstance(found, NamespaceGuest)
    return found


async def run(where: NamespaceGuest, *command: str, status: int = 0) -> str:
    """Run a program to its end and return all it wrote; it must end with *status*."""
    done = await where.exec(*command)
    text = (done.output + done.errors).decode()
    assert done.status == status, f"{' '.join(command)}: status {done.status}\n{text}"
    return text


def opened(where: NamespaceGuest, make: Callable[[], socket.socket]) -> socket.socket:
    """Make a socket inside the guest; it stays there, and this process uses it."""
    with open(netns.path_of(where.namespace)) as namespace:
        made = netns.inside(namespace.fileno(), make)
    made.setblocking(False)
    return made


async def until(condition: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
    """Wait for something that happens in a program or a table."""
    with trio.move_on_after(seconds):
        while not condition():  # noqa: ASYNC110 - a program has no event to wait for
            await trio.sleep(0.002)
        return
    raise AssertionError(f"after {seconds:g} s still not: {what}")


class Program:
    """A program that runs, and what it wrote so far."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.said = ""
        self._seen = 0

    @property
    def lines(self) -> list[str]:
        return self.said.splitlines()

    async def says(self, text: str) -> None:
        """Wait until it writes *text*, behind what was awaited before."""
        await until(lambda: text in self.said[self._seen :], f"{text!r} in {self.said!r}")
        self._seen = self.said.index(text, self._seen) + len(text)

    async def ends(self) -> int:
        """Wait until it ended by itself; return its status."""
        return await self.process.wait()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for piece in self.process.stdout:
            self.said += piece.decode(errors="replace")


@asynccontextmanager
async def program(where: NamespaceGuest, *command: str, ready: str = "") -> AsyncIterator[Program]:
    """Run a program for the length of the block, once it wrote *ready*."""
    process = await trio.lowlevel.open_process(
        where.exec_argv(command),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    started = Program(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(started._read)
        try:
            if ready:
                await started.says(ready)
            yield started
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


def web_server(where: NamespaceGuest, directory: object, port: int = 80):
    """Serve a directory with Python's own web server; its log names who asked."""
    command = (sys.executable, "-u", "-m", "http.server", str(port), "--directory", str(directory))
    return program(where, *command, ready="Serving HTTP")
