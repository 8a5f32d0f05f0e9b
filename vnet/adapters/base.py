"""Where the fabric meets the machine: what an adapter is, and who wakes it up.

An adapter owns one or more file descriptors and the ``Port`` behind them. The live driver (``runtime.shell``) is its
``Poller``: one task that sleeps on all descriptors of a lab and calls back. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from vnet.ports import Port

FRAMES_A_WAKE_UP: Final = 64
"""At most so many frames are read before the others get their turn; more gain nothing, less cost wake-ups."""


class Poller(Protocol):
    """The live driver, as adapters see it."""

    def register(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call *on_readable* whenever *fd* has something to read (level-triggered), an error or a hang-up included."""

    def unregister(self, fd: int) -> None:
        """Forget *fd*; it is safe to call within a callback, and for a descriptor that is not registered."""

    def wants_write(self, fd: int, callback: Callable[[], None] | None) -> None:
        """Call *callback* whenever *fd* takes more; None ends that."""


class Adapter(Protocol):
    """One way out of the fabric."""

    @property
    def ports(self) -> Sequence[Port]:
        """The ports to be joined to switch ports, or to anything else."""

    def start(self, poller: Poller) -> None:
        """Begin to pass frames."""

    def stop(self) -> None:
        """Stop passing frames, and give the descriptors up; calling again does nothing."""
