"""TAP devices: how frames reach Linux and come from it.

Each read and each write passes one frame, with its virtio-net header of ten octets before it. The kernel hands over
super-frames of up to 64 KiB and frames without checksum, and takes them back the same way, so that a bulk transfer costs one
tenth of the system calls. The device is not persistent: it goes when its descriptor is closed, by whatever kind of death.

``TapPort`` is the hottest live code, and its two functions are written for that: no await, no attribute chains, and no
exception but the one that ends a burst. What was measured: ``os.read`` and two slices cost 0.1 to 0.2 us less than
``os.readv`` into buffers, which must be copied out anyway; ``os.writev`` of header and frame costs 1.4 us less than writing
their concatenation for a super-frame, and 0.1 us more for a small frame.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections import Counter
from collections.abc import Callable
from struct import pack
from typing import Final, final

from vnet.adapters import _linux
from vnet.adapters.base import FRAMES_A_WAKE_UP, Poller
from vnet.errors import HostError
from vnet.ports import NO_OFFLOAD, Port, Report, no_report
from vnet.wire.vlan import TAG_OCTETS

QUEUE_LENGTH: Final = 10_000
"""Frames that Linux may queue toward the fabric. Linux's own default, 1000, loses frames of a burst 1.4 times earlier."""
HEADER_OCTETS: Final = len(NO_OFFLOAD)
READ_OCTETS: Final = HEADER_OCTETS + 18 + 65_536
"""The largest super-frame with its header, and a tag."""

JOIN_LIMIT: Final = 1024
"""Below this size, in octets, joining header and frame costs less than handing two buffers over; such frames are *small*."""
_EAGER: Final = 16
"""Wake-ups in a row that found all they were allowed to read, before more is read at a time."""
_SEVERAL: Final = 4
"""Frames that a wake-up must find to be worth the EAGAIN at its end."""


_DEVICE_GONE: Final = frozenset({errno.EBADFD, errno.ENODEV, errno.EBADF, errno.ENXIO})
_REASONS: Final = {
    errno.EAGAIN: "queue-full",
    errno.ENOBUFS: "no-buffers",
    errno.ENOMEM: "no-buffers",
    errno.EIO: "interface-down",
    errno.EINVAL: "malformed",
    errno.E2BIG: "oversize",
    errno.EMSGSIZE: "oversize",
}


@final
class TapDevice:
    """An open TAP device in the network namespace of the thread that opens it, a new one called *name*.

    With *attach* it may be there already. With *fd* it is open as that descriptor, which is from now on ours, as macvtap
    devices are. ``offloads`` are the TUN_F flags that the kernel took: segmentation of UDP is left out where it is unknown
    (before Linux 6.2). Raise HostError if the device cannot be had.
    """

    __slots__ = ("fd", "name", "offloads")

    def __init__(self, name: str, *, attach: bool = False, fd: int | None = None) -> None:
        if not _linux.is_little_endian():
            raise HostError("live labs need a little-endian machine: virtio-net headers are not converted")
        if not 0 < len(name) <= _linux.MAX_INTERFACE_NAME:
            raise HostError(f"{name!r} is no name for an interface: Linux takes 1 to {_linux.MAX_INTERFACE_NAME} characters")
        self.name = name
        self.fd = _open_tun() if fd is None else fd
        try:
            if fd is None:
                flags = _linux.IFF_TAP | _linux.IFF_NO_PI | _linux.IFF_VNET_HDR | (0 if attach else _linux.IFF_TUN_EXCL)
                fcntl.ioctl(self.fd, _linux.TUNSETIFF, _linux.IFREQ_FLAGS.pack(name.encode(), flags))
            fcntl.ioctl(self.fd, _linux.TUNSETVNETHDRSZ, pack("i", HEADER_OCTETS))
            self.offloads = _set_offloads(self.fd)
        except OSError as error:
            os.close(self.fd)
            if error.errno == errno.EPERM:
                raise HostError(f"making TAP device {name} needs root (CAP_NET_ADMIN)") from error
            if error.errno == errno.EBUSY and not attach:
                raise HostError(f"there is an interface called {name} already") from error
            if error.errno == errno.EBUSY:
                raise HostError(f"TAP device {name} is in use by another program") from error
            if error.errno == errno.EINVAL and attach:
                raise HostError(f"interface {name} is no TAP device that can be attached") from error
            raise HostError(f"cannot make TAP device {name}: {error.strerror}") from error

    @classmethod
    def opened(cls, name: str, fd: int, offloads: int) -> TapDevice:
        """Take a device that somebody else opened, with a header of ``HEADER_OCTETS`` and these offloads."""
        device = cls.__new__(cls)
        device.name, device.fd, device.offloads = name, fd, offloads
        return device

    @property
    def has_udp_segmentation(self) -> bool:
        """Tell whether Linux hands over UDP super-frames (UDP_SEGMENT) whole."""
        return bool(self.offloads & _linux.TUN_F_USO4)

    def set_carrier(self, up: bool) -> None:
        """Show Linux a plugged or an unplugged cable."""
        fcntl.ioctl(self.fd, _linux.TUNSETCARRIER, pack("i", up))

    def close(self) -> None:
        """Remove the device; blocks for some 15 ms, so a live lab calls it in threads."""
        os.close(self.fd)


def _open_tun() -> int:
    try:
        return os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise HostError("/dev/net/tun is missing: load the kernel module tun (modprobe tun)") from error
    except PermissionError as error:
        raise HostError("/dev/net/tun may not be opened: run as root") from error
    except OSError as error:
        raise HostError(f"/dev/net/tun cannot be opened: {error.strerror}") from error


def _set_offloads(fd: int) -> int:
    try:
        fcntl.ioctl(fd, _linux.TUNSETOFFLOAD, _linux.ALL_OFFLOADS)
    except OSError:
        fcntl.ioctl(fd, _linux.TUNSETOFFLOAD, _linux.BASIC_OFFLOADS)
        return _linux.BASIC_OFFLOADS
    return _linux.ALL_OFFLOADS


@final
class TapPort:
    """The adapter of one TAP device: frames that Linux sends leave by ``port``, frames handed to it go to Linux.

    ``drops`` counts by reason what Linux did not take. *mtu* is that of the interface: larger frames are dropped, as a NIC
    drops them. The descriptor stays the device's; ``stop`` only stops reading. ``on_carrier`` is told after Linux was.
    """

    __slots__ = (
        "_burst", "_carrier_shown", "_fd", "_full_reads", "_limit", "_mtu", "_poller", "_report",
        "device", "drops", "on_carrier", "port",
    )  # fmt: skip

    def __init__(
        self, name: str, device: TapDevice, mtu: int = 1500, report: Report = no_report, port: Port | None = None
    ) -> None:
        self.port = Port(name, self._to_linux) if port is None else port
        self.port.set_handler(self._to_linux)
        self.port.on_carrier = self._on_carrier
        self.drops: Counter[str] = Counter()
        self.on_carrier: Callable[[bool], None] | None = None
        self.device = device
        self._carrier_shown = True  # as Linux has it for a device that was just opened
        self._fd = device.fd
        self._burst = 1
        self._full_reads = 0
        self._mtu = mtu
        self._limit = mtu + 14 + TAG_OCTETS
        self._report = report
        self._poller: Poller | None = None

    @property
    def ports(self) -> tuple[Port, ...]:
        """The one port."""
        return (self.port,)

    @property
    def is_reading(self) -> bool:
        """Whether frames that Linux sends are taken: from ``start`` on, until ``stop`` or the end of the device."""
        return self._poller is not None

    def start(self, poller: Poller) -> None:
        """Begin to read."""
        self._poller = poller
        poller.register(self._fd, self.on_readable)

    def stop(self) -> None:
        """Stop reading; what is handed over from now on is counted as dropped."""
        if self._poller is not None:
            self._poller.unregister(self._fd)
            self._poller = None
        self._fd = -1

    def on_readable(self) -> None:
        """Pass on what Linux has sent, at most ``FRAMES_A_WAKE_UP`` frames.

        To be told that there is no more (EAGAIN) costs as much as a frame. So one frame is read a time, until they have come
        without a pause for a while; then all that wait are, as long as that finds several.

        Small frames are all read before the first is passed on: written in one go, more of them reach their receiver while
        it is awake, and Linux wakes it up less often. A large one is passed on at once, while the cache holds it.
        """
        fd, read, burst = self._fd, os.read, self._burst
        batch: list[bytes] = []
        found = 0
        try:
            for found in range(burst):  # noqa: B007
                data = read(fd, READ_OCTETS)
                batch.append(data)
                if len(data) > JOIN_LIMIT:
                    self._pass_on(batch)
                    batch.clear()
        except BlockingIOError:
            if found < _SEVERAL:
                self._burst = 1
                self._full_reads = 0
        except OSError as error:
            self._on_read_error(error)
        else:
            self._full_reads += 1
            if self._full_reads >= _EAGER:
                self._burst = FRAMES_A_WAKE_UP
        self._pass_on(batch)

    def _pass_on(self, batch: list[bytes]) -> None:
        send, plain = self.port.send, NO_OFFLOAD
        for data in batch:
            if data.startswith(plain):
                send(data[10:], plain)
            else:
                # DATA_VALID alone asks for nothing
                send(data[10:], data[:10] if data[0] & 1 or data[1] else plain)

    def _to_linux(self, frame: bytes, offload: bytes) -> None:
        if len(frame) > self._limit and self._is_oversize(offload):
            self.drops["oversize"] += 1
            return
        try:
            if len(frame) < JOIN_LIMIT:
                os.write(self._fd, offload + frame)
            else:
                os.writev(self._fd, (offload, frame))
        except OSError as error:
            self._on_write_error(error)

    def _is_oversize(self, offload: bytes) -> bool:
        """Judge a super-frame by the frames that it stands for."""
        gso_size = offload[4] | offload[5] << 8
        return offload[1] == 0 or gso_size > self._mtu

    def _on_write_error(self, error: OSError) -> None:
        number = error.errno or 0
        if number in _DEVICE_GONE:
            self.drops["device-gone"] += 1
            self._gone()
        else:
            self.drops[_REASONS.get(number) or errno.errorcode.get(number, "error").lower()] += 1

    def _on_read_error(self, error: OSError) -> None:
        if error.errno == errno.EINVAL:
            self.drops["unreadable"] += 1  # a super-frame of a kind that the header cannot name; the kernel dropped it
        else:
            self._gone()  # EBADFD or EFAULT; to go on would be an endless loop, since poll says "error" again and again

    def _gone(self) -> None:
        """Somebody deleted the interface, or its namespace: say so once and be a port without carrier."""
        if self._fd >= 0:
            self.stop()
            self._report("device-gone", port=self.port.name, device=self.device.name)
            self.port.set_carrier(False)

    def _on_carrier(self, up: bool) -> None:
        if self._fd >= 0 and up != self._carrier_shown:
            self._carrier_shown = up
            try:
                self.device.set_carrier(up)
            except OSError:
                self.drops["carrier"] += 1  # a kernel before 5.0 does not show the cable; frames pass all the same
        if self.on_carrier is not None:
            self.on_carrier(up)
