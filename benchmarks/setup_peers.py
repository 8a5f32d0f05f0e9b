"""Fetch the peer programs without installing them: ``python -m benchmarks.setup_peers [PROGRAM...]``.

Some packages start services when they are installed, which a benchmark has no business doing. So every missing
package is downloaded by apt, verified by it, and unpacked with ``dpkg -x`` into a cache folder: no maintainer script
runs, nothing outside the folder changes, no root is needed. Programs run from there with ``environment()``, which
points the loader at the folder's libraries. A program that is installed already is used as it is.

The folder is ``$VNET_BENCH_CACHE``, or ``vnet-bench-peers`` beneath the user's cache folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "iperf3": ("iperf3",),
    "vde_switch": ("vde2",),
    "ovs-vswitchd": ("openvswitch-switch",),
    "qemu-system-x86_64": ("qemu-system-x86",),
    "slirp4netns": ("slirp4netns",),
    "pasta": ("passt",),
    "ns3/core-module.h": ("libns3-dev",),
    "kea-dhcp4": ("kea-dhcp4-server",),
    "mn": ("mininet",),
    "brctl": ("bridge-utils",),
}
"""What is looked for (a program, or a header if it ends in .h) and the packages that bring it."""

PROGRAMS: Final = ("usr/bin", "usr/sbin", "sbin", "usr/lib/openvswitch-switch")
LIBRARIES: Final = ("usr/lib/x86_64-linux-gnu", "usr/lib", "lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu")


def root() -> Path:
    """Name the folder that stands for ``/`` in the unpacked packages."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("VNET_BENCH_CACHE") or Path(cache) / "vnet-bench-peers")


def environment() -> dict[str, str]:
    """Return the environment in which unpacked programs find their libraries and modules."""
    libraries = [str(root() / folder) for folder in LIBRARIES]
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join([*libraries, *([inherited] if inherited else [])]),
        "PATH": ":".join([os.environ.get("PATH", ""), "/usr/sbin:/sbin", *(str(root() / folder) for folder in PROGRAMS)]),
    }


def find(what: str) -> str | None:
    """Return the path of an installed or unpacked program or header, or None."""
    if what.endswith(".h"):
        headers = (base / "usr/include" / what for base in (Path("/"), root()))
        return next((str(header) for header in headers if header.exists()), None)
    return shutil.which(what, path=environment()["PATH"])


def missing() -> list[str]:
    """List what no row can find, of what can be fetched."""
    return [what for what in PACKAGES if find(what) is None]


def why_not(needs: Iterable[str]) -> str:
    """Say what a row would need that is not there, or nothing."""
    absent = [what for what in needs if find(what) is None]
    if not absent:
        return ""
    fetch = ": run python -m benchmarks.setup_peers" if any(what in PACKAGES for what in absent) else ""
    return f"needs {', '.join(absent)}{fetch}"


def _archives(packages: tuple[str, ...]) -> list[tuple[str, str]]:
    """Ask apt for the (name, version) of the packages and of whatever they need that is not installed."""
    listing = subprocess.run(
        ["apt-get", "install", "--no-install-recommends", "--simulate", "-qq", "-o", "Debug::NoLocking=true", *packages],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    planned = [line.split() for line in listing.splitlines() if line.startswith("Inst ")]
    return [(words[1], next(word for word in words[2:] if word.startswith("(")).strip("()")) for words in planned]


def unpack(what: str) -> None:
    """Download and unpack the packages that bring *what*; raise CalledProcessError if apt cannot."""
    folder = root() / "archives"
    folder.mkdir(parents=True, exist_ok=True)
    for name, version in _archives(PACKAGES[what]):
        print(f"  {name} {version}", flush=True)
        subprocess.run(
            ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", f"{name}={version}"], check=True, cwd=folder
        )
        for archive in folder.glob(f"{name}_*.deb"):
            subprocess.run(["dpkg", "-x", archive, root()], check=True)
            archive.unlink()


def main(names: Sequence[str] = ()) -> int:
    """Fetch whatever is missing of *names*, or of everything; return 1 if something still is."""
    wanted = list(names) or list(PACKAGES)
    lacking = [what for what in missing() if what in wanted]
    if lacking and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=False)
    for what in lacking:
        print(f"{what}: from {', '.join(PACKAGES[what])}", flush=True)
        try:
            unpack(what)
        except subprocess.CalledProcessError as failure:
            print(f"  failed: {failure}", file=sys.stderr)
    still = [what for what in missing() if what in wanted]
    print(f"peers in {root()}: " + (f"still missing {', '.join(still)}" if still else "all there"))
    return 1 if still else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
