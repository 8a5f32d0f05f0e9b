"""Run a program in a network namespace, as ``ip netns exec`` does, and with the guest's own resolv.conf.

    python -IS _enter.py --net /run/netns/NAME [--resolv FILE] [--token TEXT] -- COMMAND...
    python -IS _enter.py --pid PID ...

With a process it goes into its user namespace, too, if that is another one than ours.

It stands alone, with the standard library only, because it is started by its path: 15 ms instead of 150. It mounts within
a mount namespace of its own, so nothing of the host changes: /sys of the namespace, what lies in /etc/netns/NAME over the
files of the same name in /etc, and the guest's resolv.conf. Exit status 127: no such command; 126: it cannot be run;
125: there is no such namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_SLAVE = 0x1000, 0x4000, 1 << 19


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

    namespace = options.get("--net") or f"/proc/{options['--pid']}/ns/net"

    def join(path: str, kind: int) -> None:
        fd = os.open(path, os.O_RDONLY)
        call("setns", fd, kind)
        os.close(fd)

    try:
        user = namespace.replace("/ns/net", "/ns/user") if "--pid" in options else ""
        if user and os.stat(user).st_ino != os.stat("/proc/self/ns/user").st_ino:
            network = os.open(namespace, os.O_RDONLY)  # from there it may not be seen
            join(user, CLONE_NEWUSER)
            call("setns", network, CLONE_NEWNET)
            os.close(network)
        else:
            join(namespace, CLONE_NEWNET)
        call("unshare", CLONE_NEWNS)
        mount("", "/", b"none", MS_SLAVE | MS_REC)
    except OSError as error:
        sys.stderr.write(f"vnet: cannot enter {namespace}: {error.strerror}\n")
        sys.exit(125)
    with contextlib.suppress(OSError):  # a container may forbid it; only what looks into /sys/class/net misses it
        mount(os.path.basename(namespace), "/sys", b"sysfs", 0)
    overlays = []
    directory = os.path.join("/etc/netns", os.path.basename(namespace))
    if "--resolv" in options and os.path.exists(options["--resolv"]):
        overlays.append((options["--resolv"], "/etc/resolv.conf"))
    if os.path.isdir(directory):
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
