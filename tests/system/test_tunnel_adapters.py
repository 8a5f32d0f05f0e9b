"""VXLAN, GENEVE and plain UDP: to the kernel's devices, to Open vSwitch, and from lab to lab."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Machine, machine
from rig import needs

from benchmarks.setup_peers import environment, find, root

pytestmark = [pytest.mark.real, needs("ping", "iperf3", "ethtool")]

LAB = """
name: NAME
networks:
  far: {subnet: 10.9.0.0/24, adapter: ADAPTER}
  near: {subnet: 10.9.1.0/24, adapter: OTHER}
guests:
  a: {nics: [{network: far, address: 10.9.0.5/24, mtu: MTU}], run: [iperf3]}
  b: {kind: namespace, nics: [{network: far, address: 10.9.0.6/24, mtu: MTU}]}
  c: {nics: [{network: near, address: 10.9.1.5/24}]}
"""


def lab(adapter: str, other: str = "none", mtu: int = 1500) -> str:
    return LAB.replace("ADAPTER", adapter).replace("OTHER", other).replace("MTU", str(mtu))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines on one cable, 192.0.2.1 and 192.0.2.2."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with machine(tmp_path / "one") as one, machine(tmp_path / "two") as two:
        one.run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", two.name)
        for number, host in enumerate((one, two), 1):
            host.run("ip", "addr", "add", f"192.0.2.{number}/24", "dev", "wire")
            host.run("ip", "addr", "add", f"2001:db8::{number}/64", "dev", "wire", "nodad")
            host.run("ethtool", "-K", "wire", "tx", "off")  # or else inner checksums stay pending, which no UDP socket sees
            host.run("ip", "link", "set", "wire", "up")
        yield one, two


def reaches(host: Machine, address: str) -> bool:
    return host.run("ping", "-c", "2", "-i", "0.2", "-W", "2", address, check=False).returncode == 0


def kernel_device(host: Machine, kind: str, vni: int, remote: str, address: str) -> str:
    name = f"{kind}{vni}"
    more = ["dstport", "4789"] if kind == "vxlan" else []
    host.run("ip", "link", "add", name, "type", kind, "id", str(vni), "remote", remote, *more)
    host.run("ip", "addr", "add", address, "dev", name)
    host.run("ip", "link", "set", name, "up")
    return name


@pytest.mark.parametrize("remote", ["192.0.2.2", "2001:db8::2"])
def test_vxlan_to_the_kernel(hosts: tuple[Machine, Machine], remote: str) -> None:
    one, two = hosts
    one.up(lab(f'{{vxlan: {{vni: 42, remote: "{remote}"}}}}', f'{{vxlan: {{vni: 43, remote: "{remote}"}}}}', 1430))
    back = "192.0.2.1" if "." in remote else "2001:db8::1"
    name = kernel_device(two, "vxlan", 42, back, "10.9.0.9/24")
    two.run("ip", "link", "set", name, "mtu", "1430")
    assert reaches(two, "10.9.0.5") and reaches(two, "10.9.0.6")
    assert not reaches(two, "10.9.1.5")
    other = kernel_device(two, "vxlan", 43, back, "10.9.1.9/24")
    assert reaches(two, "10.9.1.5") and other
    for direction in ([], ["-R"]):
        report = json.loads(two.run("iperf3", "-c", "10.9.0.5", "-n", "20M", "-J", *direction).stdout)
        assert report["end"]["sum_received"]["bytes"] >= 19_000_000
    answer = one.vnet("exec", one.name, "b", "--", "ping", "-c", "1", "-W", "2", "10.9.0.9")
    assert "1 received" in answer.stdout


def test_a_jumbo_of_the_guest_goes_in_fragments(hosts: tuple[Machine, Machine]) -> None:
    """The cable takes 1500 octets, guests send 1500: the datagrams have 1550."""
    one, two = hosts
    one.up(lab("{vxlan: {vni: 42, remote: 192.0.2.2}}"))
    name = kernel_device(two, "vxlan", 42, "192.0.2.1", "10.9.0.9/24")
    two.run("ip", "link", "set", name, "mtu", "1500")
    assert two.run("ping", "-c", "2", "-s", "1472", "-M", "do", "-W", "2", "10.9.0.5").returncode == 0
    report = json.loads(two.run("iperf3", "-c", "10.9.0.5", "-n", "5M", "-J", "-R").stdout)
    assert report["end"]["sum_received"]["bytes"] >= 5_000_000


def test_strangers_are_not_let_in(hosts: tuple[Machine, Machine]) -> None:
    one, two = hosts
    one.up(lab("{vxlan: {vni: 42, remote: 192.0.2.77}}"))
    kernel_device(two, "vxlan", 42, "192.0.2.1", "10.9.0.9/24")
    two.run("ip", "neigh", "add", "10.9.0.5", "lladdr", "52:54:00:00:00:01", "dev", "vxlan42")
    assert not reaches(two, "10.9.0.5")
    (far,) = (row for row in one.show(one.name, "networks") if row["name"] == "far")
    assert far["details"]["drops"]["unknown-peer"] >= 2


def test_lab_to_lab(hosts: tuple[Machine, Machine]) -> None:
    """GENEVE and plain UDP between two labs; the addresses of one of them are moved out of the way."""
    one, two = hosts
    adapters = ("{geneve: {vni: 7, remote: 192.0.2.%d}}", "{udp: {local: 192.0.2.%d:5000, remote: 192.0.2.%d:5000}}")
    one.up(lab(adapters[0] % 2, adapters[1] % (1, 2)))
    moved = lab(adapters[0] % 1, adapters[1] % (2, 1)).replace("10.9.0.5/", "10.9.0.15/").replace("10.9.0.6/", "10.9.0.16/")
    two.up(moved.replace("10.9.1.5/", "10.9.1.15/"))
    for source, target in (("a", "10.9.0.15"), ("b", "10.9.0.16"), ("c", "10.9.1.15")):
        assert one.vnet("ping", one.name, source, target).returncode == 0
    report = one.vnet("exec", one.name, "b", "--", "iperf3", "-c", "10.9.0.15", "-n", "20M", "-J").stdout
    assert json.loads(report)["end"]["sum_received"]["bytes"] >= 19_000_000


@pytest.fixture(params=["vxlan", "geneve"])
def switch(hosts: tuple[Machine, Machine], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, Machine]]:
    """Open vSwitch with its user-space datapath and one kind of tunnel on the second machine; ``br0`` has 10.9.0.9."""
    _, two = hosts
    schema = "usr/share/openvswitch/vswitch.ovsschema"
    found = next((path for path in (root() / schema, Path("/") / schema) if path.exists()), None)
    assert found is not None, "Open vSwitch is not there: python -m benchmarks.setup_peers fetches it"
    folder, env = tmp_path / "ovs", environment()
    folder.mkdir()
    env |= {"OVS_RUNDIR": str(folder), "OVS_LOGDIR": str(folder)}
    control = f"unix:{folder}/db.sock"
    subprocess.run(["ovsdb-tool", "create", f"{folder}/conf.db", str(found)], check=True, env=env)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [
        subprocess.Popen(
            two.argv("ovsdb-server", f"{folder}/conf.db", f"--remote=p{control}", f"--unixctl={folder}/d.ctl"),
            env=env,
            **quiet,
        )
    ]
    try:
        two.run("sh", "-c", f"for i in $(seq 100); do [ -S {folder}/db.sock ] && exit 0; sleep 0.1; done; exit 1")

        def configure(*words: str) -> None:
            subprocess.run(two.argv("ovs-vsctl", f"--db={control}", "--timeout=20", *words), check=True, env=env)

        configure("--no-wait", "init")
        command = two.argv(str(find("ovs-vswitchd")), control, "--disable-system", f"--unixctl={folder}/v.ctl")
        started.append(subprocess.Popen(command, env=env, **quiet))
        configure("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev", "fail-mode=standalone")
        configure("add-br", "br-wire", "--", "set", "bridge", "br-wire", "datapath_type=netdev", "fail-mode=standalone")
        configure("add-port", "br-wire", "wire")
        two.run("ip", "addr", "flush", "dev", "wire")
        two.run("ip", "addr", "add", "192.0.2.2/24", "dev", "br-wire")
        two.run("ip", "link", "set", "br-wire", "up")
        options = ["options:remote_ip=192.0.2.1", "options:key=42"]
        configure("add-port", "br0", "far", "--", "set", "interface", "far", f"type={request.param}", *options)
        two.run("ip", "addr", "add", "10.9.0.9/24", "dev", "br0")
        two.run("ip", "link", "set", "br0", "mtu", "1450", "up")
        yield request.param, two
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def test_open_vswitch(hosts: tuple[Machine, Machine], switch: tuple[str, Machine]) -> None:
    kind, two = switch
    hosts[0].up(lab(f"{{{kind}: {{vni: 42, remote: 192.0.2.2}}}}", mtu=1450))
    assert reaches(two, "10.9.0.5") and reaches(two, "10.9.0.6")


def test_the_machine_itself_is_no_other_end(hosts: tuple[Machine, Machine]) -> None:
    one, _ = hosts
    for own in ("192.0.2.1", "2001:db8::1"):
        with pytest.raises(AssertionError, match="this machine's own address"):
            one.up(lab(f'{{vxlan: {{vni: 42, remote: "{own}"}}}}'))
