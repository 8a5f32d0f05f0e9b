"""Virtual machines of a topology: what a guest of kind qemu boots, and with which parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Final, Literal, final

from vnet.topology.nic_models import DEFAULT_MODEL, DEVICES, device_of
from vnet.topology.problems import Path, suggestion
from vnet.units import DAY, Duration, Size

if TYPE_CHECKING:
    from vnet.topology.draft import Draft
    from vnet.topology.model import Guest, Nic

MEBIBYTE: Final[Size] = 1 << 20
MEMORY: Final[Size] = 256 * MEBIBYTE
LEAST_MEMORY: Final[Size] = 4 * MEBIBYTE
MACHINE: Final = "pc"
MOST_CPUS: Final = 255
MOST_ORDER: Final = 1_000_000
MOST_DELAY: Final[Duration] = DAY
"""VS-84: 86,400 s."""

KEYS: Final = (
    "kernel", "initrd", "append", "disk", "iso", "memory", "cpus", "machine", "accel", "console", "args", "start_order",
    "start_delay", "start_action", "stop_action",
)  # fmt: skip


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedMachine:
    """A virtual machine: paths are complete, ``memory`` is octets; what boots is kernel, disk, iso or the network.

    ``start_order`` sorts the machines of a lab, the smallest first; each is started ``start_delay`` after the one before it
    runs. ``start_action`` tells whether it starts with the lab, ``stop_action`` how it ends with it (VS-84).
    """

    kernel: str | None = None
    initrd: str | None = None
    append: str | None = None
    disk: str | None = None
    iso: str | None = None
    memory: Size = MEMORY
    cpus: int = 1
    machine: str = MACHINE
    accel: Literal["tcg", "kvm"] = "tcg"
    console: bool = True
    args: tuple[str, ...] = ()
    start_order: int = 0
    start_delay: Duration = 0
    start_action: Literal["always", "never"] = "always"
    stop_action: Literal["turn-off", "shutdown", "save"] = "turn-off"

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """The files that must be there, each with its key."""
        named = (("kernel", self.kernel), ("initrd", self.initrd), ("disk", self.disk), ("iso", self.iso))
        return tuple((key, path) for key, path in named if path is not None)


def resolve_machine(draft: Draft, name: str, model: Guest) -> ResolvedMachine | None:
    """Read what belongs to a machine; a guest that is none must not have any of it."""
    path: Path = ("guests", name)
    if model.kind != "qemu":
        for key in KEYS:
            if getattr(model, key) not in (None, []) and not draft.problems.blamed((*path, "kind")):
                text = f"guest {name!r} is {model.kind}, so it has no {key}; add kind: qemu"
                draft.problems.error("not-a-machine", (*path, key), text, key=True)
        return None
    folder = folder_of(draft)

    def file(text: str | None) -> str | None:
        return None if text is None else str(folder / text)

    for key, needs in (("initrd", "kernel"), ("append", "kernel")):
        if getattr(model, key) is not None and getattr(model, needs) is None:
            draft.problems.error("not-a-machine", (*path, key), f"{key} goes with kernel; add kernel:", key=True)
    reader = draft.reader
    memory = reader.size(model.memory, (*path, "memory")) or MEMORY
    if memory < LEAST_MEMORY:
        draft.problems.error("bad-size", (*path, "memory"), f"{memory} octets are too few; write such as 256MiB")
    delay = reader.duration(model.start_delay, (*path, "start_delay"), 0)
    if delay > MOST_DELAY:
        draft.problems.error("out-of-range", (*path, "start_delay"), "a machine waits one day at most; write up to 24h")
    return ResolvedMachine(
        kernel=file(model.kernel),
        initrd=file(model.initrd),
        append=model.append,
        disk=file(model.disk),
        iso=file(model.iso),
        memory=memory,
        cpus=reader.whole(model.cpus, (*path, "cpus"), 1, MOST_CPUS, 1),
        machine=model.machine or MACHINE,
        accel=model.accel or "tcg",
        console=model.console != "none",
        args=tuple(model.args or ()),
        start_order=reader.whole(model.start_order, (*path, "start_order"), -MOST_ORDER, MOST_ORDER, 0),
        start_delay=delay,
        start_action=model.start_action or "always",
        stop_action=model.stop_action or "turn-off",
    )


def resolve_model(draft: Draft, guest: Guest, nic: Nic, path: Path) -> str | None:
    """Read the device model of a NIC; one that QEMU does not have is a mistake only where there is a QEMU."""
    if guest.kind != "qemu":
        return nic.model
    model = nic.model or DEFAULT_MODEL
    if device_of(model) is None:
        text = f"there is no NIC model {model!r}; {suggestion(model, list(DEVICES))}"
        draft.problems.error("bad-nic", (*path, "model"), text)
    return model


def folder_of(draft: Draft) -> FilePath:
    """Return the folder of the topology file; for a topology that is in no file, where vnet runs."""
    source = draft.problems.file
    return FilePath(source).parent if source is not None and not source.startswith("<") else FilePath()
