"""What tests of vhost-user stand on: an adapter on a bench, and front-ends made of Python that are plugged into it."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator

import pytest

from tests.unit.adapters.bench import Bench
from tests.unit.adapters.front_end import FrontEnd
from vnet.adapters.registry import open_adapter
from vnet.adapters.vhost_rings import MERGEABLE, VERSION_1, bits
from vnet.adapters.vhost_session import FEATURES, PROTOCOL_FEATURES
from vnet.adapters.vhost_user import VhostUserAdapter
from vnet.topology.adapter_kinds.sockets import SocketPlace
from vnet.topology.adapter_kinds.vhost_user import VhostUserSpec

ALL = FEATURES
PLAIN = bits(MERGEABLE, VERSION_1, PROTOCOL_FEATURES)
NO_HEADER = bytes(10) + b"\0\0"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Rig:
    """An adapter on a bench, and what is plugged into it."""

    def __init__(self, directory: str) -> None:
        self.bench = Bench(directory)
        self.arrived: list[tuple[bytes, bytes]] = []
        self.bench.far.set_handler(lambda frame, offload: self.arrived.append((frame, offload)))
        self.front_ends: list[FrontEnd] = []
        spec = VhostUserSpec(place=SocketPlace(path="v"), listens=True)
        adapter = open_adapter(spec, self.bench.context)
        assert isinstance(adapter, VhostUserAdapter)
        self.adapter = adapter
        self.adapter.start()

    def connect(self, size: int = 256) -> FrontEnd:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(self.adapter.place))
        made = FrontEnd(connection, size)
        self.front_ends.append(made)
        self.bench.turn()
        return made

    def running(self, features: int = ALL, size: int = 256) -> FrontEnd:
        """Connect a front-end whose guest's driver is ready."""
        made = self.connect(size)
        made.setup(features)
        self.bench.turn(12)
        assert self.adapter.problem == ""
        made.given_back(0)
        for index in (0, 1):
            made.interrupts(index)
        return made

    def close(self) -> None:
        for each in self.front_ends:
            each.close()
        self.adapter.stop()
        self.adapter.close()


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="vu") as made:
        yield made


@pytest.fixture
def rig(directory: str) -> Iterator[Rig]:
    made = Rig(directory)
    yield made
    made.close()
