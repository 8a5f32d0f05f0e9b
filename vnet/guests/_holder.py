"""Hold a network namespace that an ordinary user may make, and make sockets and TAP devices inside it for the lab.

    python -IS _holder.py FD [PID]

It stands alone, with the standard library only, because it is started by its path. In new user and network namespaces, or
in those of process PID, it answers requests on the Unix socket FD until that is closed, which is when the lab is gone: one
JSON value a message, answered by one, with a descriptor beside it where one was asked for. The first message, unasked, is
what stat tells of the network namespace: device and inode.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
TAP_FLAGS = 0x0002 | 0x1000 | 0x4000 | 0x8000  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_TUN_EXCL
VNET_HEADER_OCTETS = 10
LONGEST_REQUEST = 65536


def call(function: str, *args: object) -> None:
    """Call the C library; raise OSError."""
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def make_namespaces() -> None:
    """Become root of namespaces of one's own (user_namespaces(7)): the only user there is who started us."""
    user, group = os.geteuid(), os.getegid()
    call("unshare", CLONE_NEWUSER | CLONE_NEWNET)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def join_namespaces(pid: int) -> None:
    """Join those of a process: its user namespace first, which gives the right to join the other."""
    for name, kind in (("user", CLONE_NEWUSER), ("net", CLONE_NEWNET)):
        if os.stat(f"/proc/{pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
            fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)
            call("setns", fd, kind)
            os.close(fd)


def open_tap(name: str, offloads: list[int]) -> tuple[int, int]:
    """Make a TAP device; return its descriptor, and the first of *offloads* that the kernel takes."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP_FLAGS))
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_OCTETS))
        for flags in offloads:
            try:
                fcntl.ioctl(fd, TUNSETOFFLOAD, flags)
            except OSError:
                continue
            return fd, flags
        return fd, 0
    except OSError:
        os.close(fd)
        raise


def answer(request: dict[str, object]) -> tuple[object, int]:
    """Do one thing; return the value, and a descriptor or -1."""
    match request:
        case {"socket": [int(family), int(kind), int(protocol)]}:
            return None, socket.socket(family, kind, protocol).detach()
        case {"tap": str(name), "offloads": list(offloads)}:
            fd, taken = open_tap(name, offloads)
            return taken, fd
        case {"index": str(name)}:
            return socket.if_nametoindex(name), -1
        case {"write": str(path), "text": str(text)}:
            with open(path, "w") as file:
                file.write(text)
            return None, -1
        case {"read": str(path)}:
            with open(path) as file:
                return file.read(), -1
        case _:
            raise OSError(22, "Invalid argument")


def serve(control: socket.socket) -> None:
    """Answer until nobody asks any more."""
    while True:
        request = control.recv(LONGEST_REQUEST)
        if not request:
            return
        fd = -1
        try:
            value, fd = answer(json.loads(request))
            reply = {"value": value}
        except OSError as error:
            reply = {"errno": error.errno or 5, "error": error.strerror or str(error)}
        if fd < 0:
            control.send(json.dumps(reply).encode())
        else:
            socket.send_fds(control, [json.dumps(reply).encode()], [fd])
            os.close(fd)


def main(argv: list[str]) -> None:
    """Do what the module says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the lab, which ends us
    control = socket.socket(fileno=int(argv[0]))
    try:
        if len(argv) > 1:
            join_namespaces(int(argv[1]))
        else:
            make_namespaces()
    except OSError as error:
        control.send(json.dumps({"errno": error.errno or 5, "error": error.strerror or str(error)}).encode())
        return
    status = os.stat("/proc/self/ns/net")
    control.send(json.dumps({"value": f"{status.st_dev}:{status.st_ino}"}).encode())
    serve(control)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ConnectionError:  # the lab is gone, or gave up while we started: nobody is left who could be told
        sys.exit(1)
