"""Device models of virtual machines' NICs: our word for each, and QEMU's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DEFAULT_MODEL: Final = "virtio"

DEVICES: Final[Mapping[str, str]] = {
    "virtio": "virtio-net-pci",
    "e1000": "e1000",
    "e1000e": "e1000e",
    "rtl8139": "rtl8139",
    "pcnet": "pcnet",
    "ne2k": "ne2k_pci",
    "tulip": "tulip",
    "vmxnet3": "vmxnet3",
    "i82559er": "i82559er",
    "i82551": "i82551",
    "i82557b": "i82557b",
    "igb": "igb",
}
"""``tulip`` is the DEC 21143, after the 21140 (VS-40); ``rtl8139`` Xen's (XN-20), ``pcnet`` VMware's vlance (VM-11)."""

SYNONYMS: Final[Mapping[str, str]] = {
    "virtio-net": "virtio", "virtio-net-pci": "virtio", "dec21140": "tulip", "vlance": "pcnet", "ne2k_pci": "ne2k",
    "e100": "i82559er",
}  # fmt: skip


def device_of(model: str) -> str | None:
    """Name the QEMU device of a model; None for a model that there is not."""
    return DEVICES.get(SYNONYMS.get(model, model))
