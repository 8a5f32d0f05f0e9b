"""VM sockets of live labs, which need no root: a front-end and gvproxy's clients made of Python, and live changes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import vnet
from tests.unit.adapters.front_end import FrontEnd
from vnet.adapters.vhost_session import FEATURES
from vnet.topology import parse_topology
from vnet.wire.arp import request_frame

TOPOLOGY = parse_topology(
    """
name: vms
networks:
  lan: {subnet: 10.0.0.0/24, adapter: {vhost_user: {socket: lan.sock}}}
guests:
  a: {nics: [{network: lan, address: 10.0.0.10/24}]}
""",
    source="vms",
)
MAC = bytes.fromhex("020000000077")
REQUEST = request_frame(MAC, bytes((10, 0, 0, 77)), bytes((10, 0, 0, 10)))


@pytest.fixture(autouse=True)
def run_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short one, since paths of sockets are short."""
    directory = tmp_path_factory.mktemp("run")
    monkeypatch.setenv("VNET_RUN_DIR", str(directory))
    return directory


async def until(done: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not done():  # noqa: ASYNC110 - the kernel is what changes
            await trio.sleep(0.002)


def sockets_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*.sock"))


def maps_guest_memory() -> bool:
    return "memfd:guest" in Path("/proc/self/maps").read_text()


def is_answer(frame: bytes) -> bool:
    return frame[:6] == MAC and frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2"


async def talk_by_memory(path: str) -> None:
    """Be a front-end whose guest asks for a's address, twenty times; die at once then."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    front = FrontEnd(connection)
    front.setup(FEATURES)
    front.offer(64)
    got: list[bytes] = []

    def answered() -> bool:
        got.extend(each[12:] for each in front.received())
        return any(map(is_answer, got))

    try:
        for _ in range(20):
            got.clear()
            front.transmit(bytes(12) + REQUEST)
            await until(answered)
            front.offer(1)
    finally:
        front.close()


@pytest.mark.trio
async def test_a_front_end_and_changes_while_the_lab_runs(run_directory: Path) -> None:
    async with vnet.open_lab(TOPOLOGY) as lab:
        network = lab.networks["lan"]
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            path = str(network.details["socket"])
            assert network.state == f"unbound: nobody has connected to {path}"
            await talk_by_memory(path)
            await until(lambda: network.details["connected"] is False)
            await network.rebind("{gvproxy: {protocol: bess, socket: bess.sock}}")
            assert sockets_in(run_directory) == ["bess.sock"]
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.connect(str(network.details["socket"]))
                client.setblocking(False)
                await until(lambda: network.state == "up")
                client.send(REQUEST)
                answer = b""
                while not is_answer(answer):
                    await trio.lowlevel.wait_readable(client)
                    answer = client.recv(2000)
            await network.rebind("{gvproxy: {protocol: vfkit, socket: vfkit.sock}}")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                client.bind(str(run_directory / "client"))
                client.setblocking(False)
                client.connect(str(network.details["socket"]))
                client.send(b"VFKT")
                client.send(REQUEST)
                answer = b""
                while not is_answer(answer):
                    await trio.lowlevel.wait_readable(client)
                    answer = client.recv(2000)
            os.unlink(run_directory / "client")
            await network.rebind("{vhost_user: {socket: lan.sock}}")
        assert len(os.listdir("/proc/self/fd")) == before
    assert sockets_in(run_directory) == []


@pytest.mark.trio
async def test_a_lab_ends_under_a_front_end_at_work() -> None:
    async with vnet.open_lab(TOPOLOGY) as lab:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(lab.networks["lan"].details["socket"]))
        front = FrontEnd(connection)
        front.setup(FEATURES)
        await until(lambda: lab.networks["lan"].state == "up")
    assert front.is_cut_off()
    front.close()
    assert not maps_guest_memory()
