"""Where problems gather while a topology is read, so that one run reports them all.

Whoever finds something wrong says so with ``error`` or ``warning`` and the *path* of the culprit in the topology, such as
``("guests", "mail", "nics", 0, "address")``, and goes on. The places (line and column) come from the loader; a topology that
was built in Python has none, and its problems name the path instead.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal, Protocol, TypeAlias, final

from vnet.errors import Problem

Path: TypeAlias = tuple[str | int, ...]
"""Keys and list indexes from the top of the topology."""
Place: TypeAlias = tuple[int, int]
"""Line and column, from 1."""

MOST_PROBLEMS: Final = 200
"""A file with more is not a topology; the rest would only scroll the first ones away."""

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


class Places(Protocol):
    """Tells where in a file a path stands."""

    def find(self, path: Path, *, key: bool) -> Place | None:
        """Return the place of the value at *path*, or of its key; of the nearest enclosing value if it is not there."""


def format_path(path: Path) -> str:
    """Write a path as ``guests.mail.nics[0]``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{step!r}]"
    return text


def nearest(wrong: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Find the known word that *wrong* was probably meant to be; *likeness* 1 is the same word."""
    by_folded = {word.casefold(): word for word in known}
    # difflib takes the square of the length; nobody mistypes a word of a hundred letters
    matches = difflib.get_close_matches(wrong.casefold()[:100], by_folded, n=1, cutoff=likeness)
    return by_folded[matches[0]] if matches else None


def suggestion(wrong: str, known: Sequence[str]) -> str:
    """Say what was probably meant, or what there is."""
    match = nearest(wrong, known)
    if match is not None:
        return f"did you mean {match!r}?"
    if not known:
        return "there are none"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"known: {shown}"


@final
class Problems:
    """Collects problems; each culprit is blamed for the same thing once.

    What only follows from a mistake that was noted already would send people to the wrong line; whoever is about to
    complain of it asks ``blamed``, ``within`` or ``lost`` first.
    """

    def __init__(self, file: str | None = None) -> None:
        self.file = file
        self.places: Places | None = None
        self.overflow = 0
        self._found: dict[tuple[str, str, str], Problem] = {}
        self._typed: dict[Path, str] = {}
        self._blamed: set[Path] = set()
        self._within: set[Path] = set()

    def rename(self, path: Path, typed: str) -> None:
        """Say that the last key of *path* was meant where *typed* stands; problems are placed there."""
        self._typed[path] = typed

    def blame(self, path: Path) -> None:
        """Say that the value at *path* could not be used, so that nothing is known of what it was meant to be."""
        self._blamed.add(path)

    def blamed(self, path: Path) -> bool:
        """Tell whether the value at *path* could not be used."""
        return path in self._blamed

    def within(self, path: Path) -> bool:
        """Tell whether an error was noted at *path* or beneath it."""
        return path in self._within

    def lost(self, path: Path) -> bool:
        """Tell whether it is not known what was meant at *path*: it, or something beneath it, is wrong."""
        return path in self._blamed or path in self._within

    def error(self, code: str, path: Path, text: str, *, key: bool = False) -> None:
        """Note something that keeps the topology from being built; *key* blames the key rather than its value."""
        self._add("error", code, path, text, key)

    def warning(self, code: str, path: Path, text: str, *, key: bool = False) -> None:
        """Note something that works, but probably not as meant."""
        self._add("warning", code, path, text, key)

    def at_place(self, code: str, text: str, line: int | None = None, column: int | None = None) -> None:
        """Note an error in the file itself, before there are paths."""
        problem = Problem(code=code, severity="error", text=text, file=self.file, line=line, column=column)
        self._found.setdefault((code, f"{line}:{column}", text), problem)

    def has_error(self, *codes: str) -> bool:
        """Tell whether an error was noted; with *codes*, one of these."""
        return bool(self.overflow) or any(
            p.severity == "error" and (not codes or p.code in codes) for p in self._found.values()
        )

    def all(self) -> tuple[Problem, ...]:
        """Return what was found, in file order (in order of discovery where there is no file)."""
        found = sorted(self._found.values(), key=lambda p: (p.line or 0, p.column or 0))
        if self.overflow:
            text = f"{self.overflow} more problems are not shown"
            found.append(Problem(code="too-many-problems", severity="error", text=text, file=self.file))
        return tuple(found)

    def _add(self, severity: Literal["error", "warning"], code: str, path: Path, text: str, key: bool) -> None:
        if severity == "error":
            self._within.update(path[:steps] for steps in range(len(path) + 1))
        path = self._as_typed(path)
        where = format_path(path)
        if (code, where, text) in self._found:
            return
        if len(self._found) >= MOST_PROBLEMS:
            self.overflow += 1
            return
        line, column = (self.places.find(path, key=key) if self.places else None) or (None, None)
        self._found[code, where, text] = Problem(
            code=code, severity=severity, text=text, where=where, file=self.file, line=line, column=column
        )

    def _as_typed(self, path: Path) -> Path:
        if not self._typed:
            return path
        return tuple(self._typed.get(path[: index + 1], step) for index, step in enumerate(path))
