"""What tests with virtual machines share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_guest import make_initrd


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
