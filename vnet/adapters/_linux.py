"""The few Linux calls and numbers that Python's standard library lacks: namespaces, mounts, TUN/TAP ioctls.

Each function raises OSError with errno set, as ``os`` does. ``os.unshare`` and ``os.setns`` came with Python 3.12.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from struct import Struct
from typing import Final

CLONE_NEWNET: Final = 0x40000000

MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SHARED: Final = 1 << 20
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

SO_NETNS_COOKIE: Final = 71
"""Option of any socket (Linux 5.14): a number for its network namespace that is never given out twice while the machine
runs, unlike the inode number of the namespace."""

# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
TUNSETOFFLOAD: Final = 0x400454D0
TUNGETIFF: Final = 0x800454D2
TUNSETVNETHDRSZ: Final = 0x400454D8
TUNSETCARRIER: Final = 0x400454E2
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
IFF_TUN_EXCL: Final = 0x8000
TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
TUN_F_TSO_ECN: Final = 0x08
TUN_F_USO4: Final = 0x20
TUN_F_USO6: Final = 0x40
BASIC_OFFLOADS: Final = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
ALL_OFFLOADS: Final = BASIC_OFFLOADS | TUN_F_USO4 | TUN_F_USO6
"""With segmentation of UDP, which Linux knows from 6.2 on."""

IFREQ_FLAGS: Final = Struct("16sH22x")
"""struct ifreq with its ifr_flags member."""
MAX_INTERFACE_NAME: Final = 15


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str, path: str | None = None) -> None:
    if result != 0:
        number = ctypes.get_errno()
        text = f"{what}: {os.strerror(number)}"
        raise OSError(number, text, path) if path else OSError(number, text)


def unshare(flags: int) -> None:
    """Move the calling thread, and no other, into new namespaces."""
    _check(_libc().unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Move the calling thread, and no other, into the namespace behind *fd*."""
    _check(_libc().setns(fd, flags), "setns")


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    """Mount *source* on *target*, as mount(2) does."""
    args = (os.fsencode(source), os.fsencode(target), kind.encode() if kind else None, ctypes.c_ulong(flags), None)
    _check(_libc().mount(*args), "mount", target)


def unmount(target: str, flags: int = MNT_DETACH | UMOUNT_NOFOLLOW) -> None:
    """Take the topmost mount off *target*, as umount2(2) does."""
    _check(_libc().umount2(os.fsencode(target), flags), "umount", target)


def is_little_endian() -> bool:
    """Tell the byte order of the machine, which is that of virtio-net headers unless a device is told otherwise."""
    return sys.byteorder == "little"
