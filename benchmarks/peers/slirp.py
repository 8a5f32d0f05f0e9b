"""slirp4netns: a guest whose NAT is a user-space TCP/IP stack; the "internet" is the loopback of a namespace of our own."""

from __future__ import annotations

from benchmarks.bed import Bed, Pair, wait_until


def pair(bed: Bed, mtu: int = 1500) -> Pair:
    """Give a guest a way out; ``b`` is the outside, which the guest knows as 10.0.2.2."""
    outside = bed.space("outside")
    guest = bed.space("a")
    slirp = bed.start(
        "slirp4netns", "--configure", f"--mtu={mtu}", "--netns-type=path", f"/run/netns/{guest.name}", "eth0", space=outside
    )  # fmt: skip
    wait_until(lambda: "10.0.2.100" in guest.run("ip", "address", "show"), "slirp4netns configuring the guest")
    return Pair(guest, outside, "10.0.2.100", "10.0.2.2", (slirp.pid,))
