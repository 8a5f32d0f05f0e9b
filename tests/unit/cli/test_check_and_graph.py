"""``vnet check``, ``graph`` and ``schema``: expected output, word for word."""

from __future__ import annotations

import json
import re
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import vnet
from vnet.cli.show import print_view
from vnet.runtime.views import Row, guests

if TYPE_CHECKING:
    from .conftest import Run

CHECKED = """\
tiny: networks
NETWORK  VLAN  SUBNET       ADAPTER  DHCP                              NOTES
lan      10    10.0.0.0/24
far      20    10.0.1.0/24
pool     30    10.0.2.0/24           10.0.2.16-10.0.2.254 by 10.0.2.1

INTERFACE  KIND      NETWORK  ADDRESS     MAC                PORT    CABLE
a:eth0     emulated  lan      10.0.0.1    52:54:00:00:00:0a  core:4
b:eth0     emulated  lan      10.0.0.2    52:54:00:00:00:0b  edge:2
c:eth0     emulated  far      10.0.1.3    52:54:00:3b:6d:37  core:5
r:lan      router    lan      10.0.0.254  52:54:00:62:cc:04  core:2
r:far      router    far      10.0.1.254  52:54:00:72:89:d4  core:3

LINK       FROM    TO      VLANS             CABLE
core-edge  core:1  edge:1  trunk: all VLANs
"""


def test_a_good_topology_is_printed_as_tables(run: Run, topology: Path) -> None:
    status, out, err = run("check", topology)
    assert (status, err) == (0, "")
    assert out == f"{CHECKED}\n{topology}: ok\n"


NICS = """\
name: nics
networks: {lan: {vlan: 10, subnet: 10.0.0.0/24}, voice: {vlan: 20, subnet: 10.0.1.0/24}}
switches: {core: {}, edge: {}}
links: [{between: [core, edge]}]
guests:
  a:
    nics:
      - {trunk: [20, 30], native: lan, address: 10.0.0.1, mac: 52:54:00:00:00:0a, vlans: {voice: 10.0.1.1, 30: {}},
         bond: {members: [core, {switch: edge, rate: 100mbit}]}}
"""


def test_bonds_and_sub_interfaces_have_a_line_each(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "nics.yaml"
    path.write_text(NICS)
    status, out, _ = run("check", path)
    assert status == 0
    rows = [re.split(r"  +", line) for line in out.splitlines() if line.startswith("a:")]
    mac = "52:54:00:00:00:0a"
    assert rows == [
        ["a:bond0", "emulated", "trunk: lan, voice, 30, native lan", "10.0.0.1", mac, "core:2, edge:2", "100 Mbit/s"],
        ["a:bond0.20", "emulated", "voice", "10.0.1.1", mac, "core:2, edge:2"],
        ["a:bond0.30", "emulated", "VLAN 30", "no address", mac, "core:2, edge:2"],
    ]  # fmt: skip
    bond, sub, _ = json.loads(run("check", path, "--json").out)["interfaces"]
    assert bond["members"] == [{"name": "eth0", "port": "core:2"}, {"name": "eth1", "port": "edge:2"}]
    assert (sub["parent"], sub["vlan"], sub["network"], sub["members"]) == ("bond0", 20, "voice", None)


def test_guests_are_shown_with_the_nic_that_a_bond_uses(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> list[Row]:
        async with vnet.open_lab(vnet.parse_topology(NICS)) as lab:
            return guests(lab)

    print_view("guests", vnet.simulate(main))
    lines = [re.split(r"  +", line.rstrip()) for line in capsys.readouterr().out.splitlines()]
    assert [(line[2], line[-1]) for line in lines[1:]] == [
        ("bond0", "up by eth0"), ("bond0.20", "up"), ("bond0.30", "up"),
    ]  # fmt: skip


def test_all_mistakes_are_listed_with_their_places(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\nnetwroks: {}\nguests:\n  a: {nics: [nowhere]}\n")
    status, out, err = run("check", path)
    assert (status, err) == (1, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{path}:2:1: ") and "'networks'" in lines[0]
    assert lines[1].startswith(f"{path}:4:14: ") and "nowhere" in lines[1]
    assert lines[2:] == [f"{path}: 2 errors"]


def test_a_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "no.yaml"
    assert run("check", path) == (1, f"{path}: cannot be read: No such file or directory\n{path}: 1 error\n", "")
    assert run("graph", path) == (1, "", f"{path}: cannot be read: No such file or directory\n")
    assert run("check", tmp_path).status == 1


def test_check_reads_standard_input(run: Run, topology: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pipe(text: bytes) -> None:
        monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(text)))

    pipe(topology.read_bytes())
    assert run("check", "-") == (0, f"{CHECKED}\n<stdin>: ok\n", "")
    pipe(b"name: lab\r\nguests: {a: {nic: []}}\r\n")
    status, out, err = run("check", "-")
    assert (status, err) == (1, "")
    assert out.splitlines() == ["<stdin>:2:14: 'nic' is not a key of a guest; did you mean 'nics'?", "<stdin>: 1 error"]
    pipe(b"\xff")
    assert json.loads(run("check", "-", "--json").out)["file"] == "<stdin>"
    monkeypatch.setattr("sys.stdin", None)
    assert run("check", "-") == (2, "", "vnet: standard input is closed; pipe a topology in, or name a file\n")


def test_check_as_json(run: Run, topology: Path) -> None:
    data = json.loads(run("check", topology, "--json").out)
    assert (data["ok"], data["problems"], data["name"]) == (True, [], "tiny")
    assert [network["vlan"] for network in data["networks"]] == [10, 20, 30]
    assert data["interfaces"][0] == {
        "node": "a", "name": "eth0", "network": "lan", "mac": "52:54:00:00:00:0a", "addresses": ["10.0.0.1/24"],
        "gateway": "10.0.0.254", "dhcp": None, "port": "core:4", "parent": None, "vlan": None, "members": None,
    }  # fmt: skip
    assert data["guests"][0] == {"name": "a", "kind": "emulated", "dns": [], "search": []}
    topology.write_text("name: [")
    data = json.loads(run("check", topology, "--json").out)
    assert data["ok"] is False
    assert data["problems"][0]["severity"] == "error"
    assert isinstance(data["problems"][0]["line"], int)


@pytest.mark.parametrize(
    ("kind", "start"), [("text", "tiny\n\nlan  VLAN 10"), ("dot", "graph "), ("mermaid", "flowchart "), ("svg", "<svg ")]
)
def test_drawings(run: Run, topology: Path, tmp_path: Path, kind: str, start: str) -> None:
    status, out, err = run("graph", topology, "--format", kind)
    assert (status, err) == (0, "")
    assert out.removeprefix('<?xml version="1.0" encoding="UTF-8"?>\n').startswith(start)
    suffix = {"text": "txt", "mermaid": "mmd"}.get(kind, kind)
    assert run("graph", topology, "-o", tmp_path / f"x.{suffix}") == (0, "", "")
    assert (tmp_path / f"x.{suffix}").read_text() == out


def test_a_drawing_that_cannot_be_written(run: Run, topology: Path, tmp_path: Path) -> None:
    path = tmp_path / "no" / "x.svg"
    assert run("graph", topology, "-o", path) == (2, "", f"vnet: cannot write {path}: No such file or directory\n")


def test_schema(run: Run) -> None:
    schema = json.loads(run("schema").out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "networks" in schema["$defs"]["Topology"]["properties"]
