"""A tiny Linux for virtual machines: Debian's packaged kernel and an initial RAM disk of busybox and NIC drivers.

It gives a shell on the serial console. A test types there, and reads what comes back up to a mark that it asked for.
"""

from __future__ import annotations

import lzma
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

GUEST = Path(__file__).parents[2] / ".venv/guest"
KERNEL = GUEST / "vmlinuz"
PARAMETERS = "console=ttyS0 quiet no_timer_check"
"""For the kernel. On a busy computer the timer of a machine without KVM comes too late for its check, and Linux panics."""
BUSYBOX = GUEST / "busybox"
UML = GUEST / "linux.uml"
APPLETS = (
    "cat", "cut", "dmesg", "echo", "grep", "head", "ifconfig", "insmod", "ip", "ls", "mkdir", "mount", "nc", "ping",
    "poweroff", "ps", "reboot", "sed", "seq", "setsid", "sh", "sha256sum", "sleep", "sysctl", "tail", "tr", "udhcpc",
    "uptime", "vconfig", "wc", "wget",
)  # fmt: skip
DRIVERS = ("virtio_pci", "virtio_net", "virtio-rng", "e1000", "e1000e", "8139cp", "8139too", "pcnet32", "ne2k-pci", "tulip",
           "e100", "vmxnet3", "8021q")  # fmt: skip

INIT = """#!/bin/sh
export PATH=/bin:/usr/bin PS1='' HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
dmesg -n 3
for module in $(cat /modules/order); do insmod /modules/$module; done
ip link set lo up
if grep -q vnet.dhcp /proc/cmdline; then ip link set eth0 up; udhcpc -q -n -t 20 -i eth0 -s /lease; fi
echo guest-is-up
while true; do setsid sh -c 'stty -echo; exec sh' </dev/ttyS0 >/dev/ttyS0 2>&1; done
"""

UDHCPC = """#!/bin/sh
case $1 in
deconfig) ip link set $interface up; ip addr flush dev $interface;;
bound|renew)
    ip addr flush dev $interface
    ip addr add $ip/$mask dev $interface
    for each in $router; do ip route replace default via $each dev $interface; done
    echo "leased $interface $ip";;
esac
"""


def why_not() -> str:
    """Say what is missing; empty if machines can be run here."""
    if shutil.which("qemu-system-x86_64") is None:
        return "needs qemu-system-x86_64"
    if not KERNEL.exists():
        return f"needs a kernel in {GUEST} (make test fetches it)"
    return ""


def why_no_uml() -> str:
    """Say what is missing for a machine that is a User-mode Linux; empty if one can be run here."""
    return "" if UML.exists() else f"needs {UML} (make test fetches Debian's package user-mode-linux)"


def unpacked_kernel() -> Path:
    """Unpack the kernel, once: without KVM a machine takes half of its boot for that. QEMU starts what is in it by PVH."""
    path = GUEST / "vmlinux"
    if not path.exists():
        packed = KERNEL.read_bytes()
        fresh = GUEST / f"vmlinux.{secrets.token_hex(4)}"  # whoever runs beside us may be at it, too
        fresh.write_bytes(lzma.LZMADecompressor().decompress(packed[packed.index(b"\xfd7zXZ\0") :]))
        fresh.rename(path)
    return path


def dependencies(module: str) -> list[str]:
    """Name the modules that one needs, themselves first, as its .modinfo says."""
    data = (GUEST / "modules" / f"{module}.ko").read_bytes()
    found = re.search(rb"\0depends=([^\0]*)\0", data)
    names = found[1].decode().split(",") if found and found[1] else []
    return [each for name in names for each in (*dependencies(file_of(name)), file_of(name))]


def file_of(name: str) -> str:
    """Find the file of a module, whose name may have - where the module has _."""
    for path in (GUEST / "modules").glob("*.ko"):
        if path.stem.replace("-", "_") == name.replace("-", "_"):
            return path.stem
    raise FileNotFoundError(name)


def cpio(entries: Iterable[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """Write an archive as the kernel unpacks it: cpio(5), new ASCII format."""
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        for part in (header, data):
            yield part + bytes(-len(part) % 4)


def with_libraries(program: str) -> list[Path]:
    """Name the files of a program of the machine: itself, and the libraries that ldd finds."""
    path = shutil.which(program)
    assert path is not None, program
    told = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    return [Path(path), *map(Path, re.findall(r"(/\S+) \(0x", told))]


def make_initrd(path: Path, *programs: str, drivers: Iterable[str] = DRIVERS) -> Path:
    """Make the initial RAM disk, with *programs* of the machine beside busybox."""
    modules = list(dict.fromkeys(each for name in drivers for each in (*dependencies(name), name)))
    script, directory, link = 0o100755, 0o040755, 0o120777
    files = [file for program in programs for file in with_libraries(program)]
    folders = dict.fromkeys(str(each)[1:] for file in files for each in reversed(file.parents) if str(each) != "/")
    entries = [
        (name, directory, b"") for name in (*folders, "bin", "dev", "proc", "sys", "modules", "tmp", "usr", "usr/share")
    ]
    entries += [("init", script, INIT.encode()), ("bin/busybox", script, BUSYBOX.read_bytes())]
    entries += [
        (f"bin/{name}", link, b"busybox") for name in (*APPLETS, "stty", "env", "kill", "dd", "date", "sync", "true")
    ]
    entries += [("lease", script, UDHCPC.encode())]
    entries += [("modules/order", 0o100644, "\n".join(f"{name}.ko" for name in modules).encode())]
    entries += [(f"modules/{name}.ko", 0o100644, (GUEST / f"modules/{name}.ko").read_bytes()) for name in modules]
    entries += [(str(file)[1:], script, file.read_bytes()) for file in dict.fromkeys(files)]
    path.write_bytes(b"".join(cpio(entries)))
    return path
