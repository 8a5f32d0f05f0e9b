"""Waiting for what tells nobody."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], what: str, timeout: float = 15.0) -> None:
    """Ask again and again until it is so; *what* names it if it never is."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout:g} s"
        time.sleep(0.05)


def wait_ready(lab: subprocess.Popen[str]) -> None:
    """Read what ``vnet up`` prints until the lab is ready."""
    assert lab.stdout is not None
    said = []
    for line in lab.stdout:
        said.append(line)
        if line.strip() == "ready":
            return
    raise AssertionError("".join(said))
