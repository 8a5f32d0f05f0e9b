"""``vnet check``, ``graph`` and ``schema``: expected output, word for word."""

from __future__ import annotations

import json
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

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
        "gateway": "10.0.0.254", "dhcp": None, "port": "core:4",
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
