"""A router between three networks with a host on each, and what passes."""

from __future__ import annotations

from router_lab import RouterLab
from scapy.layers.inet import IP

PC, WEB, PEER = "10.20.100.16", "172.17.1.26", "203.0.113.9"


def plain_lab(**fields):
    lab = RouterLab(**fields)
    return lab, lab.host("pc", "office", PC), lab.host("web", "dmz", WEB), lab.host("peer", "internet", PEER)


def ipv4_seen(lab: RouterLab, host: str) -> list[IP]:
    return [IP(frame[14:]) for frame, _ in lab.seen[host] if frame[12:14] == b"\x08\x00"]


def is_right(packet: IP) -> bool:
    """Tell whether scapy would write the same checksums."""
    again = packet.copy()
    del again.chksum
    if again.frag == 0 and not again.flags.MF:
        del again.payload.chksum
    return bytes(again) == bytes(packet)


def warm(lab: RouterLab, host, *targets: str) -> None:
    """Let everybody find everybody, so that what follows is all that is seen."""
    for target in targets:
        lab.ping(host, target)
    for seen in lab.seen.values():
        seen.clear()
