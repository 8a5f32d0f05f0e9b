"""Where the fabric meets the machine: what an adapter is, and who wakes it up.

An adapter owns one or more file descriptors and the ``Port`` behind them. The live driver (``runtime.shell``) is its
``Poller``: one task that sleeps on all descriptors of a lab and calls back. Nothing here waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, final, runtime_checkable

from vnet.adapters.resources import Ledger
from vnet.errors import WireError
from vnet.ports import Port, Randomness, Report, Scheduler
from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.wire.segmentation import complete

FRAMES_A_WAKE_UP: Final = 64
"""At most so many frames are read before the others get their turn; more gain nothing, less cost wake-ups."""


def cut_up(frame: bytes, offload: bytes, drops: Counter[str]) -> list[bytes]:
    """List the plain frames that a super-frame stands for; one that cannot be is counted, and nothing is left of it."""
    try:
        return complete(frame, offload)
    except WireError:
        drops["malformed"] += 1
        return []


class Poller(Protocol):
    """The live driver, as adapters see it."""

    def register(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call *on_readable* whenever *fd* has something to read (level-triggered), an error or a hang-up included."""

    def unregister(self, fd: int) -> None:
        """Forget *fd*; it is safe to call within a callback, and for a descriptor that is not registered."""

    def wants_read(self, fd: int, callback: Callable[[], None] | None) -> None:
        """Call *callback* whenever *fd* has something to read; None stops that, and takes it up again when asked to."""

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


def _ignore(up: bool) -> None:
    """Stand for a port whose carrier nobody looks at."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterContext:
    """What a network's way out is opened with.

    ``port`` is the adapter's end of its cable: frames handed to it are to go out, and what comes in is for ``port.send``.
    ``directory`` is the lab's own, for sockets; what would outlive the lab is written down in ``ledger`` first.
    ``set_carrier`` is for those with a cable of their own outside: without carrier the switch port is down.
    """

    port: Port
    poller: Poller
    scheduler: Scheduler
    streams: Callable[[str], Randomness]
    report: Report
    ledger: Ledger
    directory: str
    mtu: int = 1500
    set_carrier: Callable[[bool], None] = _ignore


class HostAdapter(Protocol):
    """The way out of a network, open; made by ``vnet.adapters.registry.open_adapter``, perhaps in another thread."""

    @property
    def drops(self) -> Counter[str]:
        """Counts by reason of what could not go out."""

    @property
    def problem(self) -> str:
        """Why nothing passes at present, such as "eth1 is gone"; empty if all is well."""

    def start(self) -> None:
        """Begin to pass frames."""

    def stop(self) -> None:
        """Stop passing frames: the poller may not call any more. Calling again does nothing."""

    def close(self) -> None:
        """Give everything back, after ``stop``; may block for some ms, and runs in another thread."""

    def details(self) -> dict[str, object]:
        """Tell what ``vnet show`` should say of it, fit for JSON."""


@runtime_checkable
class RecordingAdapter(Protocol):
    """A way out that writes a file of the user's."""

    def leave_file(self) -> None:
        """Write nothing into the file any more, not even what is under way: in a copy of the lab it is the original's."""


@runtime_checkable
class StatefulAdapter(Protocol):
    """A way out with connections and timers of its own, which belong to the lab's thread."""

    def retire(self) -> None:
        """End what is under way while the cable is still there; called in the lab's thread before ``stop``."""

    def adapt(self, spec: AdapterSpec) -> bool:
        """Become what *spec* says without losing a connection; False if that needs another adapter.

        Called in the lab's thread. Raise HostError for what the machine refuses; nothing has changed then.
        """
