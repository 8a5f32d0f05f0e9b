"""What the adapters share that are a TAP device and no more."""

from __future__ import annotations

from collections import Counter

from vnet.adapters.base import AdapterContext
from vnet.adapters.tap import TapDevice, TapPort


class TapBase:
    """A device that is set up, on a network; it is closed with the adapter."""

    def __init__(self, device: TapDevice, mtu: int, context: AdapterContext) -> None:
        self._device = device
        self._poller = context.poller
        self._tap = TapPort(context.port.name, device, mtu, context.report, context.port)
        self._is_open = True

    @property
    def drops(self) -> Counter[str]:
        """What Linux did not take."""
        return self._tap.drops

    @property
    def problem(self) -> str:
        """Somebody may have deleted the interface."""
        return "" if self._tap.is_reading or not self._is_open else f"interface {self._device.name} is gone"

    def start(self) -> None:
        """Begin to pass frames."""
        self._tap.start(self._poller)

    def stop(self) -> None:
        """Stop passing frames."""
        self._is_open = False
        self._tap.stop()

    def close(self) -> None:
        """Give the device back; it goes if it was made."""
        self._device.close()

    def details(self) -> dict[str, object]:
        """Tell what the machine calls it."""
        return {"interface": self._device.name}
