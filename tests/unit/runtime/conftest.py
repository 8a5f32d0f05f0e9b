"""What tests of live labs share: a place for them that is the test's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where labs have their locks and sockets; it is not there yet."""
    monkeypatch.setenv("VNET_RUN_DIR", str(tmp_path / "run"))
    return tmp_path / "run"
