"""One broken file for each rule: all that is wrong is reported, in one run, with its place, and nothing else is.

Each file in ``broken/`` ends with what is expected of it: ``# expect LINE:COLUMN SEVERITY CODE: TEXT``.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vnet.topology
from vnet.errors import TopologyError
from vnet.topology import check_topology, load_topology

FOLDER = Path(__file__).parent / "broken"
FILES = sorted(FOLDER.glob("*.yaml"))
EXPECT = re.compile(r"# expect (\d+):(\d+) (error|warning) ([a-z0-9-]+): (.*)")
TESTED_ELSEWHERE = {"file-too-big", "not-text", "unreadable-file", "too-many-problems"}


def expectations(path: Path) -> list[tuple[str, ...]]:
    return [match.groups() for line in path.read_text().splitlines() if (match := EXPECT.fullmatch(line))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_mistake_is_reported_with_its_place(path: Path) -> None:
    resolved, problems = check_topology(path)
    expected = expectations(path)
    assert expected, "the file says what is expected of it"
    assert [(str(p.line), str(p.column), p.severity, p.code, p.text) for p in problems] == expected
    assert (resolved is None) == any(severity == "error" for _, _, severity, _, _ in expected)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_error_a_user_sees_names_file_line_and_column(path: Path) -> None:
    errors = [entry for entry in expectations(path) if entry[2] == "error"]
    if not errors:
        resolved = load_topology(path)
        assert resolved.warnings == tuple(
            f"{path}:{line}:{column}: warning: {text}" for line, column, _, _, text in expectations(path)
        )
        return
    with pytest.raises(TopologyError) as caught:
        load_topology(path)
    assert str(caught.value).splitlines() == [f"{path}:{line}:{column}: {text}" for line, column, _, _, text in errors]


def test_no_rule_without_a_broken_file() -> None:
    source = " ".join(path.read_text() for path in Path(vnet.topology.__path__[0]).glob("*.py"))
    rules = set(re.findall(r'(?:error|warning|at_place|_refuse|_units)\(\s*"([a-z0-9-]+)"', source))
    assert len(rules) > 60
    shown = {entry[3] for path in FILES for entry in expectations(path)}
    assert rules - shown - TESTED_ELSEWHERE == set()


def test_problems_come_in_file_order() -> None:
    for path in FILES:
        places = [(problem.line or 0, problem.column or 0) for problem in check_topology(path)[1]]
        assert places == sorted(places)
