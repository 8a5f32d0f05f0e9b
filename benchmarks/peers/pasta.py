"""pasta: a guest whose connections end in host sockets, at its fastest MTU; the "host" is a namespace of our own."""

from __future__ import annotations

from benchmarks.bed import Bed, Pair, wait_until

MTU = 65520


def pair(bed: Bed) -> Pair:
    """Give a guest a way out; ``b`` is the outside, whose loopback the guest knows by the address of its gateway."""
    outside = bed.space("outside")
    outside.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")  # it wants an interface to copy
    outside.run("ip", "link", "set", "eth1", "up")
    outside.run("ip", "address", "add", "10.9.0.2/24", "dev", "eth0")
    outside.run("ip", "link", "set", "eth0", "up")
    outside.run("ip", "route", "add", "default", "via", "10.9.0.1")
    guest = bed.space("a")
    closed = [word for option in ("--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns") for word in (option, "none")]
    pasta = bed.start(
        "pasta", "--foreground", "--runas", "0:0", "--config-net", "--ipv4-only", "--mtu", str(MTU), *closed,
        "--netns", f"/run/netns/{guest.name}", space=outside,
    )  # fmt: skip
    # With the default its queue overflows, and TCP waits for what pasta itself dropped: a tenth of the rate and less.
    guest.run("sysctl", "-qw", "net.ipv4.tcp_wmem=4096 16384 400000")
    wait_until(lambda: "10.9.0.2" in guest.run("ip", "address", "show"), "pasta configuring the guest")
    return Pair(guest, outside, "10.9.0.2", "10.9.0.1", (pasta.pid,))
