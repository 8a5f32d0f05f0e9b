"""An ordinary user: no root, no capability; who can read Python and this checkout, wherever they are."""

from __future__ import annotations

import os
import shlex
import stat
import sys
import tempfile
from pathlib import Path

NOBODY = 65534
ROOT = Path(__file__).parents[2]

_PRIVILEGES = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all",
)  # fmt: skip


def closed_directory(path: Path) -> Path | None:
    """Find the directory on the way to *path* into which others may not go."""
    for each in [*reversed(path.parents), path]:
        if not each.stat().st_mode & stat.S_IXOTH:
            return each
    return None


def as_somebody(directory: Path, *words: str) -> list[str]:
    """Give the command line that runs something as nobody in particular.

    Where Python or the checkout lie in a closed directory, such as root's home, the command gets a mount namespace of its
    own, in which nothing but these is there. *directory* is where they wait meanwhile.
    """
    needed = [Path(sys.base_prefix).resolve(), ROOT]
    closed = dict.fromkeys(found for path in needed if (found := closed_directory(path)) is not None)
    command = [*_PRIVILEGES, *words]
    if not closed:
        return command
    keep = [(directory / f"keep{number}", path) for number, path in enumerate(needed)]
    script = [f"mount --bind {shlex.quote(str(path))} {shlex.quote(str(place))}" for place, path in keep]
    script += [f"mount -t tmpfs -o mode=755 none {shlex.quote(str(each))}" for each in closed]
    for place, path in keep:
        if any(each in (path, *path.parents) for each in closed):
            script += [
                f"mkdir -p {shlex.quote(str(path))}",
                f"mount --bind {shlex.quote(str(place))} {shlex.quote(str(path))}",
            ]
    for place, _ in keep:
        place.mkdir(exist_ok=True)
    text = "set -e; " + "; ".join(script) + '; cd /; exec "$@"'
    return ["unshare", "--mount", "sh", "-c", text, "sh", *command]


def make_directory(parent: str = "/tmp") -> Path:
    """Make a directory of the user's with a short name: paths of sockets must be short."""
    made = Path(tempfile.mkdtemp(prefix="vt", dir=parent))
    os.chown(made, NOBODY, NOBODY)
    return made
