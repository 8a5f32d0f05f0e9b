"""The kernel's bridge with veth pairs: no process in the path at all."""

from __future__ import annotations

from benchmarks.bed import Bed, Pair


def pair(bed: Bed) -> Pair:
    """Make a bridge with two guests."""
    outside = bed.space("outside")
    outside.run("ip", "link", "add", "br0", "type", "bridge")
    outside.run("ip", "link", "set", "br0", "up")
    guests = []
    for index, name in enumerate("ab"):
        outside.run("ip", "link", "add", f"port{index}", "type", "veth", "peer", "name", f"guest{index}")
        outside.run("ip", "link", "set", f"port{index}", "master", "br0", "up")
        guests.append(bed.guest(name, f"guest{index}", f"10.77.0.{index + 1}/24", outside))
    return Pair(guests[0], guests[1], "10.77.0.1", "10.77.0.2")
