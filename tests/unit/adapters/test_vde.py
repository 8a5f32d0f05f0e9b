"""VDE, both ends in one thread: nobody waits for anybody, and peers that say nothing or the wrong thing do no harm."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.adapters.bench import Bench, frame
from vnet.adapters.vde_client import PATIENCE as CLIENT_PATIENCE
from vnet.adapters.vde_client import RETRY, VdeClient
from vnet.adapters.vde_server import MOST_CLIENTS, PATIENCE, PAUSE, VdeServer
from vnet.adapters.vde_wire import ADDRESS, MAGIC, NEW_PORT, REQUEST, VERSION
from vnet.errors import HostError
from vnet.topology.adapter_kinds.vde import VdeSpec

AT_ONCE = 0.05
"""Seconds of real time that a step may take which waits for nobody."""


class Far(Bench):
    """A second network of the same lab: with a cable of its own, on the same clock."""

    def __init__(self, directory: str, near: Bench) -> None:
        super().__init__(directory)
        self.timeline, self.readers, self.writers = near.timeline, near.readers, near.writers


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(str(tmp_path))


@pytest.fixture
def serve(bench: Bench) -> Iterator[Callable[[], VdeServer]]:
    made: list[VdeServer] = []

    def begin() -> VdeServer:
        made.append(VdeServer(VdeSpec(directory=f"{bench.directory}/vde", listens=True), bench.context))
        made[-1].start()
        return made[-1]

    yield begin
    for server in made:
        end(server)


def end(adapter: VdeServer | VdeClient) -> None:
    adapter.stop()
    adapter.close()


@pytest.fixture
def far(bench: Bench) -> Far:
    return Far(bench.directory, bench)


def plug_in(far: Bench) -> VdeClient:
    made = VdeClient(VdeSpec(directory=f"{far.directory}/vde", listens=False), far.context)
    made.start()
    return made


def dial(bench: Bench, peer: str = "") -> socket.socket:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.settimeout(5)
    stream.connect(f"{bench.directory}/vde/ctl")
    if peer:
        stream.sendall(REQUEST.pack(MAGIC, VERSION, NEW_PORT, socket.AF_UNIX, peer.encode()))
    return stream


def is_closed(stream: socket.socket) -> bool:
    stream.setblocking(False)
    try:
        return stream.recv(1) == b""
    except BlockingIOError:
        return False


def test_one_lab_is_the_switch_and_plugs_into_it(bench: Bench, far: Far, serve: Callable[[], VdeServer]) -> None:
    """Opened in one thread, the switch answers when the lab runs; it goes, comes back, and frames pass again."""
    server = serve()
    client = plug_in(far)
    assert "has not answered yet" in client.problem
    bench.turn()
    assert client.problem == "" and not far.events
    far.send(frame(1))
    bench.send(frame(2))
    bench.turn()
    assert bench.arrived == [frame(1)] and far.arrived == [frame(2)]
    end(server)
    bench.turn()
    assert client.problem.endswith("is gone") and far.events[-1][0] == "adapter-lost"
    serve()
    started = time.monotonic()
    bench.pass_time(RETRY)
    bench.turn()
    assert client.problem == "" and far.events[-1][0] == "adapter-back" and time.monotonic() - started < AT_ONCE
    far.send(frame(3))
    bench.turn()
    assert bench.arrived == [frame(1), frame(3)]
    end(client)


def test_a_mute_switch_stalls_nobody(bench: Bench, far: Far) -> None:
    """It accepts and says nothing: the lab goes on, and asks again later; that is told once."""
    os.mkdir(f"{bench.directory}/vde")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mute:
        mute.bind(f"{bench.directory}/vde/ctl")
        mute.listen()
        client = plug_in(far)
        started = time.monotonic()
        for _ in range(10):
            bench.pass_time(CLIENT_PATIENCE)
            assert client.problem.endswith("does not answer")
            bench.pass_time(RETRY)
            assert client.problem.endswith("not answered yet")
        assert time.monotonic() - started < 10 * AT_ONCE
        assert [kind for kind, _ in far.events] == ["adapter-lost"]
        assert len([name for name in os.listdir(bench.directory) if name.startswith("vde-")]) == 1
        far.send(frame(1))
        assert client.drops == {"no-switch": 1}
        mute.close()
        bench.turn()
    end(client)
    assert os.listdir(bench.directory) == ["vde"]


def test_no_socket_is_made_for_a_switch_that_is_not_there(bench: Bench, far: Far) -> None:
    with pytest.raises(HostError, match="no vde_switch at .*: No such file"):
        plug_in(far)
    assert os.listdir(bench.directory) == []


def test_a_client_that_gives_a_port_of_the_switch_for_its_own_is_refused(
    bench: Bench, serve: Callable[[], VdeServer]
) -> None:
    """It would be joined to itself; a symbolic link leads there as well."""
    server = serve()
    os.symlink(f"{bench.directory}/vde/002.port", f"{bench.directory}/link")
    for peer in (f"{bench.directory}/vde/001.port", f"{bench.directory}/link"):
        with dial(bench, peer) as stream:
            bench.turn()
            assert is_closed(stream)
    assert server.drops == {"bad-request": 2} and os.listdir(f"{bench.directory}/vde") == ["ctl"]


def test_clients_that_say_nothing_are_sent_away(bench: Bench, serve: Callable[[], VdeServer]) -> None:
    server = serve()
    silent = []
    for _ in range(MOST_CLIENTS):
        silent.append(dial(bench))
        bench.turn(1)
    bench.pass_time(PATIENCE - 1)
    assert not any(map(is_closed, silent))
    bench.pass_time(1)
    assert all(map(is_closed, silent)) and server.drops == {"silent": MOST_CLIENTS}
    for stream in silent:
        stream.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
        mine.bind(f"{bench.directory}/mine")
        with dial(bench, f"{bench.directory}/mine") as stream:
            bench.turn()
            assert len(stream.recv(ADDRESS.size)) == ADDRESS.size
            bench.pass_time(2 * PATIENCE)
            assert not is_closed(stream), "who has asked may stay"


def test_without_descriptors_nobody_is_let_in_for_a_while(bench: Bench, serve: Callable[[], VdeServer]) -> None:
    """The listener stays readable: it must not wake the lab again and again."""
    server = serve()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with dial(bench) as stream:
        spare = os.dup(stream.fileno())
        os.close(spare)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, limits[1]))
        try:
            bench.turn(20)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert server.drops == {"no-descriptors": 1}
        bench.pass_time(PAUSE)
        bench.pass_time(PATIENCE)
        assert server.drops["silent"] == 1 and is_closed(stream)
