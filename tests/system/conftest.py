"""What tests of this folder share: the machine they run labs on, and a guest's system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Machine, machine
from outside import Outside, outside
from tiny_guest import make_initrd


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Machine]:
    """A namespace that stands for the machine."""
    with machine(tmp_path) as made:
        yield made


@pytest.fixture
def around(host: Machine) -> Iterator[Outside]:
    """A switch beside it, which has no cable to it yet."""
    with outside(host) as made:
        yield made


@pytest.fixture(scope="session")
def initrd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The initial RAM disk of tiny guests."""
    return make_initrd(tmp_path_factory.mktemp("guest") / "initrd")


@pytest.fixture
def run_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Labs run in a directory of the test, with a short name: paths of sockets must be short."""
    directory = tmp_path_factory.mktemp("run")
    monkeypatch.setenv("VNET_RUN_DIR", str(directory))
    return directory
