"""A guest and a user adapter, over each IP version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.adapters.user_rig import Rig, rig


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def lab(tmp_path: Path, version: int) -> Iterator[Rig]:
    with rig(tmp_path, version=version) as made:
        yield made
