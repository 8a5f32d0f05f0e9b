"""The end of a live lab, and what leases bring: with real namespaces."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

import pytest
import trio

import vnet
from vnet.guests.namespace import NamespaceGuest
from vnet.runtime.sinks import MemorySink
from vnet.topology import parse_topology
from vnet.topology.resolved import ResolvedTopology

pytestmark = [pytest.mark.real, pytest.mark.trio]

LAST_WORDS = """
import signal, socket, sys
def end(*_):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"these are my last words", ("10.0.0.20", 9))
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VNET_RUN_DIR", str(tmp_path / "run"))
    return f"t{secrets.token_hex(3)}"


def topology_of(name: str, text: str) -> ResolvedTopology:
    return parse_topology(f"name: {name}\n{text}", source=name)


@pytest.mark.parametrize("by_signal", [False, True])
async def test_programs_end_while_frames_still_pass(name: str, by_signal: bool) -> None:
    """A DHCP client that is told to end can give its lease back."""
    topology = topology_of(
        name,
        "networks: {lan: {subnet: 10.0.0.0/24}}\n"
        "guests:\n"
        "  pc: {kind: namespace, nics: [{network: lan, address: 10.0.0.10/24}]}\n"
        "  server: {nics: [{network: lan, address: 10.0.0.20/24}]}\n",
    )
    sink = MemorySink()
    with trio.fail_after(30), trio.CancelScope() as scope:
        async with vnet.open_lab(topology) as lab:
            guest = lab.guests["pc"]
            assert isinstance(guest, NamespaceGuest)
            lab.captures.start(sink, ["server"])
            program = await guest._processes.spawn(guest.exec_argv(["python3", "-c", LAST_WORDS]), output=subprocess.PIPE)
            assert program.stdout is not None
            said = b""
            while said != b"ready\n":
                said += await program.stdout.receive_some()
            if by_signal:
                scope.cancel()
                await trio.sleep_forever()
    with trio.fail_after(5):
        assert await program.wait() == 0
    assert b"these are my last words" in sink.octets()


async def test_routes_and_the_gateway_of_a_guest_come_with_its_lease(name: str) -> None:
    topology = topology_of(
        name,
        "networks: {lan: {subnet: 10.0.0.0/24, dhcp: {gateway: 10.0.0.1}}}\n"
        "guests:\n"
        "  pc:\n"
        "    kind: namespace\n"
        "    gateway: 10.0.0.2\n"
        "    nics: [{network: lan, dhcp: vnet}]\n"
        "    routes: [{to: 10.9.0.0/24, via: 10.0.0.3}]\n",
    )
    with trio.fail_after(30):
        async with vnet.open_lab(topology) as lab:
            await lab.wait_up()
            guest = lab.guests["pc"]
            assert isinstance(guest, NamespaceGuest)
            routes = (await guest.exec("ip", "route", check=True)).output.decode()
    assert "default via 10.0.0.2 dev eth0" in routes and "10.9.0.0/24 via 10.0.0.3 dev eth0" in routes
    assert "10.0.0.1 " not in routes
