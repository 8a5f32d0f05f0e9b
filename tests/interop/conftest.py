"""What the labs of these tests need of the host, apart from anybody else's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def own_run_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Keep locks and journals away from the labs of whoever runs the tests; short, because sockets have short names."""
    with tempfile.TemporaryDirectory(prefix="vt") as directory:
        monkeypatch.setenv("VNET_RUN_DIR", directory)
        yield directory
