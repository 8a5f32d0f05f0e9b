"""One seed, one result on every Python: fifty hosts with TCP, loss and timers, each run in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "fifty_hosts.py"
pytestmark = [pytest.mark.real, pytest.mark.long]
OTHERS = ("3.12", "3.13")


@cache
def digests(python: str | Path, hash_seed: int, seed: int = 7) -> str:
    command = [str(python), str(PROGRAM), str(seed)]
    result = subprocess.run(
        command, env={"PYTHONHASHSEED": str(hash_seed)}, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def interpreter(version: str) -> Path | None:
    """Find a Python of that version: in the PATH, or where pyenv keeps them."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in [*(folder / f"python{version}" for folder in folders), *sorted(pyenv.glob(f"{version}.*/bin/python"))]:
        if candidate.exists() and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def test_hash_seeds_and_load_change_nothing() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        first = digests(sys.executable, 1)
        assert int(first.split()[0]) > 10_000_000, "a capture worth comparing"
        assert digests(sys.executable, 4711) == first
        assert digests(sys.executable, 1, seed=8) != first
    finally:
        busy.kill()
        busy.wait()


@pytest.mark.interpreter
@pytest.mark.parametrize("version", OTHERS)
def test_other_pythons_give_the_same_octets(version: str, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    made = subprocess.run(
        [ROOT / "tools" / "make-venv", python, tmp_path / "venv", "."],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert digests(tmp_path / "venv" / "bin" / "python", 99) == digests(sys.executable, 1)
