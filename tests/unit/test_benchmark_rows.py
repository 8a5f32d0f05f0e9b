"""The arithmetic behind the table of benchmarks: who is measured when, what is divided by what, what passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.rows import Row, against_best, interleave, medians
from benchmarks.run import MARKERS, table, write


def test_every_round_measures_everybody_once_and_every_other_round_runs_backwards() -> None:
    order: list[str] = []

    def contender(name: str, value: float) -> float:
        order.append(name)
        return value

    measured = interleave({"a": lambda: contender("a", 1), "b": lambda: contender("b", 2)}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert measured == {"a": [1, 1, 1], "b": [2, 2, 2]}


def test_a_round_is_divided_by_the_best_peer_of_that_round() -> None:
    measured = {"vnet": [6.0, 8.0], "x": [2.0, 1.0], "y": [1.0, 4.0]}
    assert against_best(measured, "vnet", ("x", "y")) == (3.0, 2.0)
    assert against_best(measured, "vnet", ("x", "y"), "less") == (6.0, 8.0)


@pytest.mark.parametrize(
    ("ratios", "better", "verdict"),
    [
        ((5.9, 0.1, 9.9), "more", "FAIL"),
        ((6.0,), "more", "pass"),
        ((9.0, 9.5, 1.0), "more", "ambition"),
        ((10.0,), "less", "FAIL"),
        ((9.0,), "less", "ambition"),
        ((), "more", "not measured"),
    ],
)
def test_the_median_decides(ratios: tuple[float, ...], better: str, verdict: str) -> None:
    row = Row(what="w", gate=6, ambition=9, ratios=ratios, better="less" if better == "less" else "more")
    assert row.verdict == verdict


def test_a_gate_where_less_is_better() -> None:
    row = Row(what="w", gate=1.3, ambition=1.0, ratios=(1.2,), better="less")
    assert row.verdict == "pass" and not row.reaches(1.0)


def test_the_table_says_why_a_row_is_missing() -> None:
    rows = [Row(what="fast", gate=1, ambition=2, ratios=(3.0,), figures=medians({"vnet": [3e9]}, "Gbit/s", 1e9)),
            Row(what="gone", gate=1, ambition=2, note="needs root")]  # fmt: skip
    text = table(rows)
    assert "vnet 3.00 Gbit/s" in text and "ambition" in text
    assert "not measured\n    needs root" in text


def test_a_document_keeps_all_but_what_stands_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before {MARKERS[0]} old {MARKERS[1]} after")
    write(page, "new")
    assert page.read_text() == f"before {MARKERS[0]}\nnew\n{MARKERS[1]} after"
    page.write_text("no markers")
    with pytest.raises(SystemExit):
        write(page, "new")
