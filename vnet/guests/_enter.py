"""Run a program in a network namespace, as ``ip netns exec`` does, and with the guest's own resolv.conf.

    python -IS _enter.py --net PATH --or PATH --identity DEVICE:INODE [--name NAME] [--resolv FILE] [--token TEXT] -- COMMAND
    python -IS _enter.py --pid PID --identity DEVICE:INODE ...

With a process it goes into its user namespace, too, if that is another one than ours. It goes nowhere but into the namespace
with that identity, whatever the paths lead to by now: a process number is given out anew.

It stands alone, with the standard library only, because it is started by its path: 15 ms instead of 150. It mounts within
a mount namespace of its own, so nothing of the host changes: /sys of the namespace, what lies in /etc/netns/NAME over the
files of the same name in /etc, and the guest's resolv.conf. Exit status 127: no such command; 126: it cannot be run;
125: there is no such namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_SLAVE = 0x1000, 0x4000, 1 << 19


def open_namespace(paths: list[str], identity: str) -> int:
    """Open the first of *paths* that leads to the namespace with *identity*; raise OSError if none does."""
    reason = OSError(errno.ESTALE, "the lab's namespace is not there any more, or not seen from here")
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                reason = error
            continue
        status = os.fstat(fd)
        if f"{status.st_dev}:{status.st_ino}" == identity:
            return fd
        os.close(fd)
    raise reason


def main(argv: list[str]) -> None:
    """Do what the module says."""
    split = argv.index("--")
    options = dict(zip(argv[0:split:2], argv[1:split:2], strict=True))
    command = argv[split + 1 :]
    libc = ctypes.CDLL(None, use_errno=True)

    def call(function: str, *args: object) -> None:
        if getattr(libc, function)(*args) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{function}: {os.strerror(number)}")

    def mount(source: str, target: str, kind: bytes, flags: int) -> None:
        call("mount", os.fsencode(source), os.fsencode(target), kind, ctypes.c_ulong(flags), None)

    if "--token" in options:
        os.environ["VNET_LAB_TOKEN"] = options["--token"]

    name = options.get("--name", "")
    process = f"/proc/{options['--pid']}/ns" if "--pid" in options else ""
    paths = [f"{process}/net"] if process else [options["--net"], options["--or"]]
    try:
        network = open_namespace(paths, options["--identity"])
        user = os.open(f"{process}/user", os.O_RDONLY) if process else -1
        if process and os.fstat(user).st_ino != os.stat("/proc/self/ns/user").st_ino:
            call("setns", user, CLONE_NEWUSER)
        call("setns", network, CLONE_NEWNET)
        for fd in (network, user):
            if fd >= 0:
                os.close(fd)
        call("unshare", CLONE_NEWNS)
        mount("", "/", b"none", MS_SLAVE | MS_REC)
    except OSError as error:
        sys.stderr.write(f"vnet: cannot enter {name or paths[-1]}: {error.strerror}\n")
        sys.exit(125)
    with contextlib.suppress(OSError):  # a container may forbid it; only what looks into /sys/class/net misses it
        mount(name or "sysfs", "/sys", b"sysfs", 0)
    overlays = []
    directory = os.path.join("/etc/netns", name)
    if "--resolv" in options and os.path.exists(options["--resolv"]):
        overlays.append((options["--resolv"], "/etc/resolv.conf"))
    if name and os.path.isdir(directory):
        overlays += [(os.path.join(directory, name), os.path.join("/etc", name)) for name in os.listdir(directory)]
    for source, target in overlays:
        try:
            mount(source, os.path.realpath(target), b"none", MS_BIND)
        except OSError as error:
            sys.stderr.write(f"vnet: {target} is not the guest's own: {error.strerror}\n")
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        sys.stderr.write(f"vnet: {command[0]}: command not found\n")
        sys.exit(127)
    except OSError as error:
        sys.stderr.write(f"vnet: {command[0]}: {error.strerror}\n")
        sys.exit(126)


if __name__ == "__main__":
    main(sys.argv[1:])
