"""Open vSwitch, user-space (netdev) datapath, TAP ports; its database, sockets and logs are in the bed's folder."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bed import Bed, Pair, run, wait_until
from benchmarks.setup_peers import find, root

SCHEMA = "usr/share/openvswitch/vswitch.ovsschema"


def pair(bed: Bed) -> Pair:
    """Start a switch with two guests."""
    outside = bed.space("outside")
    folder = bed.folder
    database, control = folder / "conf.db", f"unix:{folder}/db.sock"
    schema = next(path for path in (root() / SCHEMA, Path("/") / SCHEMA) if path.exists())
    run("ovsdb-tool", "create", str(database), str(schema))
    bed.start(
        "env", f"OVS_RUNDIR={folder}", f"OVS_LOGDIR={folder}", "ovsdb-server", str(database), f"--remote=p{control}",
        f"--unixctl={folder}/ovsdb.ctl", log="ovsdb.log",
    )  # fmt: skip
    wait_until((folder / "db.sock").exists, "ovsdb-server listening")

    def configure(*words: str) -> None:
        run("ovs-vsctl", f"--db={control}", "--timeout=20", *words)

    configure("--no-wait", "init")
    switch = bed.start(
        "env", f"OVS_RUNDIR={folder}", f"OVS_LOGDIR={folder}", str(find("ovs-vswitchd")), control, "--disable-system",
        f"--unixctl={folder}/vswitchd.ctl", space=outside, log="vswitchd.log",
    )  # fmt: skip
    configure("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=standalone")
    for index in range(2):
        configure("add-port", "br0", f"tap{index}", "--", "set", "interface", f"tap{index}", "type=tap")
    outside.run("ip", "link", "set", "br0", "up")
    a = bed.guest("a", "tap0", "10.77.0.1/24", outside)
    b = bed.guest("b", "tap1", "10.77.0.2/24", outside)
    return Pair(a, b, "10.77.0.1", "10.77.0.2", (switch.pid,))
