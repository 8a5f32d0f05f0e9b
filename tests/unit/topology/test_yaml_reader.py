"""YAML as 1.2 means it, with places, whatever the file is."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from vnet.errors import TopologyError
from vnet.topology import check_text, check_topology, load_topology
from vnet.topology.problems import Problems
from vnet.topology.yaml_reader import MOST_OCTETS, NodePlaces, read_scalar, read_yaml


@pytest.mark.parametrize(
    "text",
    ["52:54:00:12:34:56", "1:20", "no", "on", "off", "yes", "y", "012", "0o8", "1_000", "0b11", "2024-01-01", "12:30:45",
     "1.2.3", "<<", "=", "+", "-", ".", "1e", "0x", "tRue", "9" * 100, "١٢"],
)  # fmt: skip
def test_what_yaml_1_1_misread_stays_text(text: str) -> None:
    assert read_scalar(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("-12", -12), ("+7", 7), ("0o17", 15), ("0x1F", 31), ("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0),
     ("-0.0", 0.0), ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None), (".inf", float("inf"))],
)  # fmt: skip
def test_core_schema(text: str, value: object) -> None:
    read = read_scalar(text)
    assert read == value
    assert type(read) is type(value)


def test_quoted_scalars_are_text() -> None:
    root = read_yaml("a: '1'\nb: \"true\"\nc: |\n  12\nd: !!str 12\n", Problems())
    assert root is not None
    assert root.data == {"a": "1", "b": "true", "c": "12\n", "d": "12"}


def test_keys_are_text_whatever_they_look_like() -> None:
    root = read_yaml("1: a\ntrue: b\n012: c\n~: d\n52:54:00:00:00:01: e\n", Problems())
    assert root is not None
    assert root.data == {"1": "a", "true": "b", "012": "c", "~": "d", "52:54:00:00:00:01": "e"}


def test_places_of_keys_values_and_of_what_is_missing() -> None:
    root = read_yaml("a: 1\nb:\n  - x\n  - {c: 2}\n", Problems())
    assert root is not None
    places = NodePlaces(root)
    assert places.find(("a",), key=False) == (1, 4)
    assert places.find(("a",), key=True) == (1, 1)
    assert places.find(("b", 1, "c"), key=False) == (4, 9)
    assert places.find(("b", 1, "c"), key=True) == (4, 6)
    assert places.find(("b", 1, "missing"), key=False) == (4, 5)
    assert places.find(("b", 7), key=False) == (3, 3)


def test_an_alias_repeats_the_value_and_its_place() -> None:
    problems = Problems()
    root = read_yaml("a: &it {x: 1}\nb: *it\n", problems)
    assert root is not None
    assert root.data == {"a": {"x": 1}, "b": {"x": 1}}
    assert NodePlaces(root).find(("b", "x"), key=False) == (1, 12)
    assert problems.all() == ()


def test_nested_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    resolved, problems = check_text("\n".join(lines))
    assert resolved is None
    assert [problem.code for problem in problems] == ["too-many-nodes"]


@pytest.mark.parametrize(
    ("raw", "code", "place"),
    [
        (b"name: \xff\xfe", "not-text", (1, 7)),
        (b"\x7fELF\x02\x01\x01\x00", "not-text", (1, 1)),
        (b"name: lab\nnotes: a\x00b", "not-text", (2, 9)),
        (b"\xff\xfen\x00a\x00", "not-text", (1, 1)),
        (b"", "empty-file", (1, 1)),
        (b"[]", "wrong-type", (1, 1)),
        (b"lab", "wrong-type", (1, 1)),
        (b"~", "wrong-type", (1, 1)),
        (b"--- \n...\n", "wrong-type", (2, 1)),
        (b"name: [" + b"[" * 900, "too-deep", (1, 38)),
        (b"name: [" + b"[" * 200_000, "too-deep", None),
        (b"{" * 900, "bad-key", (1, 2)),
        (b"? " * 50_000, "bad-key", None),
        (b"- " * 50_000, "too-deep", None),
        (b"a: &a\n  b: *a", "recursive-alias", (2, 6)),
        (b"%YAML 9.9\n--- a", "yaml-syntax", None),
        (b"a: b: c", "yaml-syntax", (1, 5)),
        (b"'", "yaml-syntax", None),
    ],
    ids=lambda value: repr(value)[:20] if isinstance(value, bytes) else None,
)  # fmt: skip
def test_any_file_is_refused_in_words(raw: bytes, code: str, place: tuple[int, int] | None) -> None:
    resolved, problems = check_text(raw, "file.yaml")
    assert resolved is None
    assert problems[0].code == code
    if place is not None:
        assert (problems[0].line, problems[0].column) == place


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_endless_brackets_are_refused_wherever_the_parser_stops(loader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnet.topology.yaml_reader._LOADER", getattr(yaml, loader))
    for raw in (b"{" * 100_000, b"a: [1]\n" + b"b: " + b"{" * 100_000, b"[{" * 50_000):
        resolved, (problem,) = check_text(raw)
        assert resolved is None
        assert problem.code in ("bad-key", "too-deep")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a:\n  b: {}\n c: {}\n", 3,
         "this line belongs to nothing above it; indent it like its neighbours"),
        ("a:\n  b: {}\n    c: {}\n", 3, "this line belongs to nothing above it"),
        ("  a: b\nc: {}\n", 2, "this line belongs to nothing above it; indent it like its neighbours"),
        ("name: lab\n networks: {}\n", 2, "a second ':' in one value; indent the line like its neighbours"),
        ("a:\n  - b\n  c: d\n", 3, "this line is no item of the list above it"),
        ("a:\n  b: c\n  word\n  d: e\n", 4, "a word without ':' before this line; write key: value"),
        ("a: {b: c\nd: {}\n", 2, "a comma or the closing } is missing before this (it began in line 1)"),
        ("a: [b\n", 2, "a comma or the closing ] is missing before this (it began in line 1)"),
        ("a: 'b\nc: d\n", 3, "the quotes are never closed (it began in line 1)"),
        ("a: @b\n", 1, "this is not YAML: while scanning for the next token found character"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_syntax_errors_are_said_in_plain_words(
    text: str, line: int, words: str, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vnet.topology.yaml_reader._LOADER", getattr(yaml, loader))
    resolved, (problem,) = check_text(text)
    assert resolved is None
    assert (problem.code, problem.line) == ("yaml-syntax", line)
    assert problem.text.startswith(words)


@pytest.mark.parametrize("ends", [b"\r\n", b"\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_from_windows_is_read_like_any_other(tmp_path: Path, ends: bytes, mark: bytes) -> None:
    shipped = Path(__file__).parents[3] / "topologies" / "office-in-a-box.yaml"
    path = tmp_path / "lab.yaml"
    path.write_bytes(mark + shipped.read_bytes().replace(b"\n", ends))
    resolved, problems = check_topology(path)
    assert resolved is not None and problems == ()
    assert replace(resolved, source=str(shipped)) == load_topology(shipped)
    path.write_bytes(mark + ends.join([b"name: lab", b"notes: |", b"  one", b"  two", b"guests: {a: {nic: []}}"]))
    (problem,) = check_topology(path)[1]
    assert (problem.code, problem.line, problem.column) == ("unknown-key", 5, 14)
    path.write_bytes(
        mark + b"# no line has anything on it but this one" + ends + b"name: lab" + ends + b"guests: {a: }" + ends
    )
    assert check_topology(path)[1] == ()


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert check_text(b"\xef\xbb\xbfname: lab\nguests: {a: }\n")[1] == ()


def test_a_huge_file_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.write_bytes(b"#" * (MOST_OCTETS * 3))
    resolved, problems = check_topology(path)
    assert resolved is None
    assert [problem.code for problem in problems] == ["file-too-big"]


@pytest.mark.parametrize("name", ["missing.yaml", ".", "nul\0.yaml"])
def test_an_unreadable_file_is_a_problem_of_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(TopologyError) as caught:
        load_topology(f"{tmp_path}/{name}")
    assert [problem.code for problem in caught.value.problems] == ["unreadable-file"]
    assert str(caught.value).startswith(f"{tmp_path}/{name}: cannot be read: ")


def test_a_fifo_that_nobody_writes_into_is_empty_and_no_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert [problem.code for problem in check_topology(tmp_path / "fifo")[1]] == [
        problem.code for problem in check_text("")[1]
    ]


def test_a_pipe_is_read_to_its_end() -> None:
    """As a shell gives it for ``vnet check <(make-topology)``."""
    read_end, write_end = os.pipe()

    def write() -> None:
        for part in (b"name: lab\n", b"guests: {a: }\n"):
            os.write(write_end, part)
        os.close(write_end)

    writer = threading.Thread(target=write)
    writer.start()
    resolved, problems = check_topology(f"/dev/fd/{read_end}")
    writer.join()
    os.close(read_end)
    assert resolved is not None and not problems


def test_a_flood_of_problems_is_cut() -> None:
    resolved, problems = check_text("name: lab\n" + "".join(f"key{n}: 1\n" for n in range(1000)))
    assert resolved is None
    assert problems[-1].code == "too-many-problems"
    assert len(problems) == 201
    assert "801 more" in problems[-1].text, "1000 unknown keys and the warning that there are no guests"


def test_a_number_is_no_path() -> None:
    """It would be read as a descriptor: of whatever the process has open there."""
    with pytest.raises(TypeError):
        check_topology(0)  # type: ignore[arg-type]
