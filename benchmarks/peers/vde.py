"""VDE2: one vde_switch that holds the TAP devices of both guests itself (no vde_plug2tap between: its fastest form)."""

from __future__ import annotations

from benchmarks.bed import Bed, Pair, wait_until


def pair(bed: Bed) -> Pair:
    """Start a switch with two guests."""
    outside = bed.space("outside")
    switch = bed.start(
        "vde_switch", "-sock", str(bed.folder / "ctl"), "-tap", "tap0", "-tap", "tap1", space=outside
    )  # fmt: skip
    wait_until(lambda: "tap1" in outside.run("ip", "-o", "link"), "vde_switch opening its TAP devices")
    a = bed.guest("a", "tap0", "10.77.0.1/24", outside)
    b = bed.guest("b", "tap1", "10.77.0.2/24", outside)
    return Pair(a, b, "10.77.0.1", "10.77.0.2", (switch.pid,))
