"""What lies beyond a machine's NICs: a switch with VLANs (Open vSwitch, user-space datapath) and peers behind it.

Each NIC is a veth device in the machine's namespace, whose other end is a port of the switch. Peers are namespaces on access
ports. Nothing needs kernel modules, and all of it is gone at the end.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from machine import Machine
from rig import skip_for

from benchmarks.setup_peers import environment, root, why_not

SCHEMA = "usr/share/openvswitch/vswitch.ovsschema"
needs_switch = skip_for(why_not(("ovs-vswitchd", "ovsdb-server")))


def run(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=environment())
    assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


class Peer:
    """A host on an access port, called so in messages; ``run`` types a command there."""

    def __init__(self, space: str, address: str) -> None:
        self.space = space
        self.address = address

    def argv(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.space, *words]

    def run(self, *words: str, check: bool = True) -> str:
        return run(*self.argv(*words), check=check)

    def reaches(self, address: str, count: int = 1) -> bool:
        done = subprocess.run(self.argv("ping", "-c", str(count), "-W", "2", address), capture_output=True, check=False)
        return done.returncode == 0


class Outside:
    """The switch. Made by ``outside``."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.space = f"vo{secrets.token_hex(3)}"
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._peers: list[str] = []

    def _start(self, *words: str) -> None:
        variables = {**environment(), "OVS_RUNDIR": str(self._folder), "OVS_LOGDIR": str(self._folder)}
        with (self._folder / "log").open("ab") as log:
            argv = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.space, *words]
            self._processes.append(subprocess.Popen(argv, env=variables, stdout=log, stderr=log))

    def configure(self, *words: str) -> str:
        return run("ovs-vsctl", f"--db=unix:{self._folder}/db.sock", "--timeout=20", *words)

    def open(self) -> None:
        run("ip", "netns", "add", self.space)
        database = str(self._folder / "conf.db")
        schema = next(path for path in (root() / SCHEMA, Path("/") / SCHEMA) if path.exists())
        run("ovsdb-tool", "create", database, str(schema))
        self._start("ovsdb-server", database, f"--remote=punix:{self._folder}/db.sock", f"--unixctl={self._folder}/a.ctl")
        deadline = time.monotonic() + 20
        while not (self._folder / "db.sock").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.configure("--no-wait", "init")
        # it sends by what it has cached until it looks again, by itself for half a second: hardware has no such delay
        self.configure("--no-wait", "set", "Open_vSwitch", ".", "other_config:max-revalidator=50")
        daemon = ("ovs-vswitchd", f"unix:{self._folder}/db.sock", "--disable-system", f"--unixctl={self._folder}/b.ctl")
        self._start(*daemon)
        self.configure("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=standalone")

    def close(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        for space in (*self._peers, self.space):
            run("ip", "netns", "del", space, check=False)

    def nic(self, name: str, *port: str, mac: str | None = None, machine: Machine | None = None) -> None:
        """Give the machine a NIC without offloads, and its other end a port with settings such as ``trunks=16,20``."""
        machine = machine or self.machine
        far = f"p-{name}"
        address = ["address", mac] if mac else []
        veth = ["ip", "link", "add", name, *address, "netns", machine.name, "type", "veth", "peer", "name", far]
        run(*veth, "netns", self.space)
        self._plain(machine.name, name)
        self._plug(far, port)

    def peer(self, tag: str, address: str, *port: str) -> Peer:
        """Add a host with an address of its own on a port with settings such as ``tag=16``."""
        space = f"{self.space}-{tag}"
        far = f"p-{tag}"
        run("ip", "netns", "add", space)
        self._peers.append(space)
        veth = ["ip", "link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", far, "netns", self.space]
        run(*veth)
        self._plain(space, "eth0")
        run("ip", "-n", space, "addr", "add", address, "dev", "eth0")
        self._plug(far, port)
        return Peer(space, address.partition("/")[0])

    def wire(self, name: str, address: str) -> Peer:
        """Give the machine a NIC that leads to one peer, without a switch: super-frames pass whole."""
        space = f"{self.space}-{name}"
        run("ip", "netns", "add", space)
        self._peers.append(space)
        run("ip", "link", "add", name, "netns", self.machine.name, "type", "veth", "peer", "name", "eth0", "netns", space)
        self._quiet(self.machine.name, name)
        self._quiet(space, "eth0")
        run("ip", "-n", space, "addr", "add", address, "dev", "eth0")
        return Peer(space, address.partition("/")[0])

    def cable(self, name: str, up: bool) -> None:
        """Plug the cable of a NIC in, or pull it."""
        run("ip", "-n", self.space, "link", "set", f"p-{name}", "up" if up else "down")

    @contextmanager
    def watching(self, name: str, expression: str = "") -> Iterator[list[str]]:
        """See what passes by the far end of a NIC's cable; the lines are there when the block has ended."""
        lines: list[str] = []
        argv = [
            "ip",
            "netns",
            "exec",
            self.space,
            "tcpdump",
            "--immediate-mode",
            "-l",
            "-n",
            "-e",
            "-i",
            f"p-{name}",
            *expression.split(),
        ]
        watcher = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert watcher.stderr is not None
        while "listening on" not in watcher.stderr.readline():
            assert watcher.poll() is None, "tcpdump did not start"
        try:
            yield lines
        finally:
            time.sleep(0.2)
            watcher.terminate()
            lines += watcher.communicate(timeout=10)[0].splitlines()

    def _quiet(self, space: str, name: str) -> None:
        run("ip", "-n", space, "link", "set", name, "addrgenmode", "none")
        run("ip", "-n", space, "link", "set", name, "up")

    def _plain(self, space: str, name: str) -> None:
        """Have an interface send plain frames: the switch takes no super-frames and fills no checksums in."""
        run("ip", "netns", "exec", space, "ethtool", "-K", name, "tx", "off", "tso", "off", "gso", "off")
        self._quiet(space, name)

    def _plug(self, far: str, port: tuple[str, ...]) -> None:
        self._quiet(self.space, far)
        run("ip", "netns", "exec", self.space, "ethtool", "-K", far, "gro", "off")
        self.configure("--may-exist", "add-port", "br0", far, "--", "set", "port", far, *(port or ("vlan_mode=trunk",)))


@contextmanager
def outside(machine: Machine) -> Iterator[Outside]:
    """Start a switch beside a machine for the length of the block."""
    folder = Path(tempfile.mkdtemp(prefix="vo", dir="/tmp"))  # sockets have short names
    made = Outside(machine, folder)
    try:
        made.open()
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)
