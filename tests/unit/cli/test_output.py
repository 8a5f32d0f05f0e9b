"""Tables and values as they are printed."""

from __future__ import annotations

import pytest

from vnet.cli import output


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), (True, "yes"), (False, "no"), (0, "0"), (1.5, "1.5"), (["a", None, 2], "a, , 2"),
        ({"loss": 3, "x": [1, 2]}, "loss 3, x 1, 2"), ("as it is", "as it is"),
    ],
)  # fmt: skip
def test_values(value: object, text: str) -> None:
    assert output.cell_text(value) == text


def test_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("name", "state"), [("core:10", "up"), ("x", None)], "ports")
    assert capsys.readouterr().out == "ports\nNAME     STATE\ncore:10  up\nx\n"


def test_a_table_without_rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    output.print_table(("name", "state"), [])
    assert capsys.readouterr().out == "NAME  STATE\n"
    output._print_rich(("name", "state"), [], "")
    assert "state" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [30, 60, 200])
def test_a_terminal_gets_everything_however_narrow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    rows = [("52:54:00:12:34:56", "", "a sentence of several words [bold]"), ("203.0.113.254", "", "short")]
    output._print_rich(("mac", "empty", "notes"), rows, "title")
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines()) <= columns
    assert "empty" not in shown
    letters = "".join(shown.split())
    assert letters.count("[bold]") == 1
    if columns == 200:
        assert "52:54:00:12:34:56   a sentence of several words [bold]" in shown
    for character in "52:54:00:12:34:56":
        assert character in letters
    assert sum(map(str.isdigit, shown)) == sum(map(str.isdigit, str(rows)))
