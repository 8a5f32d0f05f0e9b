"""QEMU's hub: the process that QEMU's own networking would be, without a machine around it."""

from __future__ import annotations

from benchmarks.bed import Bed, Pair, wait_until


def pair(bed: Bed) -> Pair:
    """Start a hub with two guests."""
    outside = bed.space("outside")
    words = ["qemu-system-x86_64", "-machine", "none", "-nographic", "-monitor", "none", "-serial", "none"]
    for index in range(2):
        words += ["-netdev", f"tap,id=t{index},ifname=tap{index},script=no,downscript=no"]
        words += ["-netdev", f"hubport,id=h{index},hubid=0,netdev=t{index}"]
    hub = bed.start(*words, space=outside)
    wait_until(lambda: "tap1" in outside.run("ip", "-o", "link"), "QEMU opening its TAP devices")
    a = bed.guest("a", "tap0", "10.77.0.1/24", outside)
    b = bed.guest("b", "tap1", "10.77.0.2/24", outside)
    return Pair(a, b, "10.77.0.1", "10.77.0.2", (hub.pid,))
