"""Try what the kernel lets us do with namespaces and TAP devices, and print what happened as JSON.

    python -IS _probe.py root|user

``vnet doctor`` runs it as a child, because it moves itself into namespaces; they and everything in them end with it.
"root" makes a network namespace with the privileges there are, "user" goes through a user namespace first, and through a
second one inside it. It stands alone, with the standard library only, so that it starts in a moment.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import struct
import sys

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
OFFLOADS = {"csum": 0x01, "tso": 0x01 | 0x02 | 0x04 | 0x08, "uso": 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40}


def unshare(flags: int) -> str:
    """Make new namespaces; return the reason if that is refused, else an empty text."""
    libc = ctypes.CDLL(None, use_errno=True)
    return "" if libc.unshare(flags) == 0 else os.strerror(ctypes.get_errno())


def become_root() -> str:
    """Map the user to root in the new user namespace; without that it has no rights there."""
    try:
        with open("/proc/self/setgroups", "w") as file:
            file.write("deny")
        for name, number in (("uid_map", USER), ("gid_map", GROUP)):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(f"0 {number} 1")
    except OSError as error:
        return error.strerror or "refused"
    return ""


def tap() -> dict[str, str]:
    """Make a TAP device and ask for each offload; the reason of what was refused, or an empty text."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"vnetprobe", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", 10))
    except OSError as error:
        return {"tap": error.strerror or "refused"}
    results = {"tap": ""}
    for name, flags in OFFLOADS.items():
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, flags)
            results[name] = ""
        except OSError as error:
            results[name] = error.strerror or "refused"
    return results


def main(way: str) -> dict[str, str]:
    """Do what the module says."""
    if way == "root":
        refused = unshare(CLONE_NEWNET)
        return {"namespace": refused} if refused else {"namespace": "", **tap()}
    refused = unshare(CLONE_NEWUSER | CLONE_NEWNET) or become_root()
    if refused:
        return {"namespace": refused}
    results = {"namespace": "", **tap()}
    results["nested"] = unshare(CLONE_NEWUSER | CLONE_NEWNS)
    return results


if __name__ == "__main__":
    USER, GROUP = os.getuid(), os.getgid()
    print(json.dumps(main(sys.argv[1])))  # noqa: T201
