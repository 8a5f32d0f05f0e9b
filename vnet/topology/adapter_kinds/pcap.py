"""``pcap``: a capture file stands for what is beyond the network: its frames come in, and what goes out is recorded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, final

from vnet.topology.adapter_kinds.spec import AdapterSpec
from vnet.topology.vocabulary import DurationText, Strict, about
from vnet.units import Duration

if TYPE_CHECKING:
    from vnet.topology.adapter_kinds.surroundings import Surroundings
    from vnet.topology.problems import Path

SMALLEST_SPEED: Final = 1e-6
LARGEST_SPEED: Final = 1_000_000.0


class Pcap(Strict, frozen=True, kw_only=True):
    """Capture files, pcap or pcapng."""

    replay: Annotated[str | None, about("The file whose frames come into the network.")] = None
    record: Annotated[str | None, about("The pcapng file to write, with what goes out by here and what comes in.")] = None
    start: Annotated[DurationText | None, about("How long to wait before the first frame; not given: not at all.")] = None
    speed: Annotated[float | None, about("How much faster than recorded to replay, such as 2 or 0.5; not given: 1.")] = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PcapSpec(AdapterSpec):
    """Paths, None for no file; ``start`` in ns after the adapter is opened."""

    kind: ClassVar[str] = "pcap"
    works_simulated: ClassVar[bool] = True
    replay: str | None
    record: str | None
    start: Duration
    speed: float

    def describe(self) -> str:
        """Say which files."""
        told = [f"{word} {path}" for word, path in (("replay", self.replay), ("record", self.record)) if path]
        return " ".join(["pcap", *told])


def resolve_pcap(model: str | Pcap, around: Surroundings, path: Path) -> PcapSpec | None:
    """Read which files; a path alone is one to replay. Relative paths begin where the lab is started."""
    full = Pcap(replay=model) if isinstance(model, str) else model
    if not full.replay and not full.record:
        around.error(path, "a pcap adapter replays a file or records one; write replay: or record:")
        return None
    for key, value in (("replay", full.replay), ("record", full.record)):
        if value and "\0" in value:
            around.error(
                path if isinstance(model, str) else (*path, key), f"{value[:40]!r} cannot be a path: it has a zero octet"
            )
            return None
    if full.replay and full.record and same_file(full.replay, full.record) and not full.record.startswith("/dev/"):
        around.error((*path, "record"), f"{full.record} would be written over while it is replayed; record another file")
        return None
    speed = 1.0 if full.speed is None else full.speed
    if not SMALLEST_SPEED <= speed <= LARGEST_SPEED:
        text = f"{speed:g} is no speed; write a number from {SMALLEST_SPEED:g} to {LARGEST_SPEED:g}"
        around.error((*path, "speed"), text)
        speed = 1.0
    start = around.reader.duration(full.start, (*path, "start"), 0)
    return PcapSpec(replay=full.replay or None, record=full.record or None, start=start, speed=speed)


def same_file(one: str, other: str) -> bool:
    """Tell whether two paths lead to one file, be it there or not."""
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there yet, or may not be looked at
        return os.path.realpath(one) == os.path.realpath(other)
