"""Names of interfaces of the machine, as they may stand in a topology."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path

LONGEST_NAME: Final = 15
"""IFNAMSIZ in Linux is 16 octets with the final zero."""
INTERFACE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")

_LINUX_NAME: Final = re.compile(r"[^\s/:]{1,15}", re.ASCII)


def check_interface_name(name: str, around: Surroundings, path: Path) -> None:
    """Note it if an interface cannot be called so."""
    if not INTERFACE_NAME.fullmatch(name):
        text = f"{name[:40]!r} cannot be an interface's name; use up to 15 letters, digits, -, _ and ., a letter first"
        around.error(path, text)


def check_existing_name(name: str, around: Surroundings, path: Path) -> None:
    """Note it if no interface that somebody else made can be called so: Linux takes more than we choose (dev_valid_name)."""
    if not _LINUX_NAME.fullmatch(name) or name in (".", ".."):
        around.error(path, f"{name[:40]!r} cannot be a NIC's name: they have up to {LONGEST_NAME} octets, no space, / or :")
