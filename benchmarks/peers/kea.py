"""Kea's DHCPv4 server with its memfile lease database: an append-only file on disk, as it is set up by default."""

from __future__ import annotations

import json
import os

from benchmarks.bed import Bed, Space, wait_until


def configuration(lease_file: str) -> dict[str, object]:
    """Give what vnet's server gives, over raw sockets, with no other work (no clean-up of the file while it is measured)."""
    options = (("routers", "10.0.0.1"), ("domain-name-servers", "10.0.0.53"), ("domain-name", "lab.example"))
    return {
        "Dhcp4": {
            "interfaces-config": {"interfaces": ["eth0"], "dhcp-socket-type": "raw"},
            "lease-database": {"type": "memfile", "persist": True, "name": lease_file, "lfc-interval": 0},
            "valid-lifetime": 129600,
            "renew-timer": 64800,
            "rebind-timer": 97200,
            "option-data": [{"name": name, "data": data} for name, data in options],
            "subnet4": [{"subnet": "10.0.0.0/8", "pools": [{"pool": "10.1.0.0 - 10.200.255.255"}]}],
            "loggers": [{"name": "kea-dhcp4", "severity": "ERROR", "output_options": [{"output": "stdout"}]}],
        }
    }


def server(bed: Bed, cpu: int) -> Space:
    """Start Kea on one end of a veth pair; return the namespace of the other end, where it is ``eth0``."""
    home, clients = bed.space("kea"), bed.space("load")
    home.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", clients.name)
    home.run("ip", "address", "add", "10.0.0.2/8", "dev", "eth0")
    for space in (home, clients):
        space.run("ip", "link", "set", "eth0", "up")
    folder = str(bed.folder)
    (bed.folder / "kea.json").write_text(json.dumps(configuration(f"{folder}/leases.csv")))
    kea = bed.start(
        "env", f"KEA_PIDFILE_DIR={folder}", f"KEA_LOCKFILE_DIR={folder}",
        "taskset", "-c", str(cpu), "kea-dhcp4", "-c", f"{folder}/kea.json", space=home,
    )  # fmt: skip
    sockets = f"/proc/{kea.pid}/net/packet"

    def listening() -> bool:
        if kea.poll() is not None:
            raise RuntimeError(f"Kea ended: {(bed.folder / 'log').read_text()}")
        return len(home.run("cat", "/proc/net/packet").splitlines()) > 1 and os.path.exists(sockets)

    wait_until(listening, "Kea listening")
    return clients
