"""Every exception that vnet raises, and whose fault each one is.

::

    VnetError
    |-- WireError            the peer: octets that are no valid PDU
    |-- TopologyError        the caller: a topology that cannot be built (carries every problem found)
    |-- UsageError           the caller: a name that is not there, a call in the wrong state
    |-- HostError            the machine: a device, a permission or a program is missing
    |-- LabError             a lab that failed while it ran
    |   `-- SimulationStalled    nothing is left to happen, and somebody still waits
    `-- NetworkError         the network: what a program on a guest is told
        |-- Unreachable          an ICMP error, or no route
        |-- NoAnswer             nothing came back in time
        |-- UnknownName          a name server says that there is no such name, or no address for it
        `-- PeerError            a peer that refused, or does not follow its protocol

Only ``WireError`` may leave a decoder, whatever octets went in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a topology: where it stands, what is wrong and what would be right.

    ``code`` is stable and short, such as "unknown-key". ``file``, ``line`` and ``column`` (both from 1) are None for
    a topology that was built in Python; ``where`` is the path inside it, such as ``guests.mail.nics[0].address``.
    """

    code: str
    severity: Literal["error", "warning"]
    text: str
    where: str = ""
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """Return ``file:line:column: text``, the form that editors jump to."""
        steps = (self.file, self.line, self.column) if self.line is not None else (self.file or self.where,)
        place = ":".join(str(step) for step in steps if step)
        mark = "warning: " if self.severity == "warning" else ""
        return f"{place}: {mark}{self.text}" if place else mark + self.text


class VnetError(Exception):
    """Base of everything that vnet raises on purpose; its text is fit to show to a user."""


class WireError(VnetError):
    """Octets from a peer that do not form a valid PDU."""


class TopologyError(VnetError):
    """A topology that cannot be built; ``problems`` holds all that is wrong with it, warnings too, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems if problem.severity == "error"))


class UsageError(VnetError):
    """A call that cannot be carried out: an unknown name, a wrong state, an argument out of range."""


class HostError(VnetError):
    """The machine that vnet runs on lacks a device, a permission or a program; the text says how to get it."""


class LabError(VnetError):
    """A lab failed while it ran."""


class SimulationStalled(LabError):
    """Every task waits and no event is scheduled: virtual time can never move again."""


class NetworkError(VnetError):
    """What the emulated network tells a program that runs on a guest."""


class Unreachable(NetworkError):
    """The destination cannot be reached: no route, no neighbor, or an ICMP error said so."""


class NoAnswer(NetworkError):
    """Nothing came back before the time-out."""


class UnknownName(NetworkError):
    """There is no such name, or it has no address: a name server said so."""


class PeerError(NetworkError):
    """The program at the other end refused, went away in the middle, or does not speak the protocol it should."""
