"""Load topology files: text in, resolved topology or every problem out.

``load_topology`` and ``parse_topology`` raise ``TopologyError`` with all problems; ``check_topology`` returns them. Whatever
the file is (binary, huge, nested without end), nothing else comes out.
"""

from __future__ import annotations

import os
from pathlib import Path

from vnet.errors import Problem, TopologyError
from vnet.topology.problems import Problems
from vnet.topology.resolve import resolve_data
from vnet.topology.resolved import ResolvedTopology
from vnet.topology.yaml_reader import MOST_OCTETS, NodePlaces, read_yaml


def load_topology(path: str | Path) -> ResolvedTopology:
    """Load, resolve and validate a topology file; raise ``TopologyError``."""
    return _or_raise(*check_topology(path))


def parse_topology(text: str | bytes, source: str = "<text>") -> ResolvedTopology:
    """Resolve and validate the text of a topology file; raise ``TopologyError``. *source* names it in problems."""
    return _or_raise(*check_text(text, source))


def check_topology(path: str | Path) -> tuple[ResolvedTopology | None, tuple[Problem, ...]]:
    """Load a topology file; return it (None if it has errors) and everything that is wrong with it, warnings too."""
    try:
        with open(Path(path), "rb", opener=_open_at_once) as file:
            raw = file.read(MOST_OCTETS + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        problems = Problems(str(path))
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        problems.at_place("unreadable-file", f"cannot be read: {reason}")
        return None, problems.all()
    return check_text(raw, str(path))


def check_text(text: str | bytes, source: str = "<text>") -> tuple[ResolvedTopology | None, tuple[Problem, ...]]:
    """Do what ``check_topology`` does to the text of a file."""
    problems = Problems(source)
    root = read_yaml(text, problems)
    if root is None:
        return None, problems.all()
    problems.places = NodePlaces(root)
    resolved = resolve_data(root.data, problems)
    return None if problems.has_error() else resolved, problems.all()


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for somebody to write into a FIFO; one that nobody writes into is empty."""
    fd = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    return fd


def _or_raise(resolved: ResolvedTopology | None, problems: tuple[Problem, ...]) -> ResolvedTopology:
    if resolved is None:
        raise TopologyError(problems)
    return resolved
