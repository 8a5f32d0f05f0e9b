"""Whatever is wrong with a command line: one or two lines that say what to do, the right status, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from vnet.cli import main as main_module
from vnet.cli.main import cli

if TYPE_CHECKING:
    from .conftest import Run


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("chek x", "there is no command 'chek'; did you mean 'check'?"),
        ("check", "Missing argument 'FILE'"),
        ("check a b", "Got unexpected extra argument (b)"),
        ("check x --jsn", "No such option '--jsn'. Did you mean '--json'?"),
        ("graph x --format pdf", "'pdf' is not one of 'svg', 'dot', 'mermaid', 'text'"),
        ("graph x -o x.pdf", "which format has x.pdf?"),
        ("up", "which topology file is to run?"),
        ("up x --simulate 5parsecs", "--simulate: '5parsecs' is not a duration"),
        ("up x --simulate 99999999d", "--simulate: 99999999d is too long; the lab clock goes up to 3650 days"),
        ("up x --timeout nan", "--timeout is at most 86400 seconds"),
        ("up x --timeout 1e308", "--timeout is at most 86400 seconds"),
        ("up x --detach --simulate", "--detach and --simulate exclude each other"),
        ("up x --seed many", "'many' is not a valid integer"),
        ("down", "which lab is to end? name it, or write --all"),
        ("down office", "no lab 'office' is running; none is running; vnet up FILE starts one"),
        ("show office", "no lab 'office' is running"),
        ("show office nothing", "'nothing' is not one of"),
        ("exec office pc1", "Missing argument '-- COMMAND...'"),
        ("set office core-edge", "Missing argument 'KEY=VALUE...'"),
        ("flush office arp", "'arp' is not one of 'fdb', 'leases', 'nat'"),
        ("ping office web", "Missing argument 'TARGET'"),
        ("ping office web mail -c 0", "0 is not in the range"),
        ("pingall office --protocol tcp", "tcp needs a port: --port N"),
        ("pingall office --port 80", "icmp has no ports"),
        ("capture office --filter tcp(", "filter, column 4: '(' is not expected here"),
        ("capture office --text -w x", "--text and --write exclude each other"),
        ("completion tcsh", "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    ],
)
def test_wrong_use_is_status_2_and_two_lines_at_most(run: Run, line: str, text: str) -> None:
    status, out, err = run(*line.split())
    assert (status, out) == (2, "")
    assert text in err
    assert err.startswith("vnet: ")
    assert len(err.splitlines()) <= 2


def test_without_arguments_there_is_help(run: Run) -> None:
    status, out, _ = run()
    assert status == 2
    assert "vnet up lab.yaml" in out
    for command in main_module._COMMANDS:
        assert f"  {command} " in out


@pytest.mark.parametrize("command", sorted(main_module._COMMANDS))
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: cli {command}")


def test_labs_of_the_same_kind_are_suggested(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vnet.runtime.client.running_labs", lambda root=None: ["office", "branch"])
    assert "did you mean 'office'?" in run("show", "ofice").err
    assert "running are: office, branch" in run("show", "zzz").err


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (KeyboardInterrupt(), 130, ""),
        (PermissionError(13, "Permission denied", "/x"), 1, "vnet: /x: Permission denied\n"),
        (ExceptionGroup("", [ValueError("oops")]), 1, "vnet: internal error, ValueError: oops\n"),
        (RecursionError("deep"), 1, "vnet: internal error, RecursionError: deep\n"),
    ],
)
def test_nothing_ends_in_a_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, text: str
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("vnet.cli.check.check_topology", fail)
    result = run("check", "x.yaml")
    assert result.status == status
    assert result.err.startswith(text)
    assert "Traceback" not in result.err


def test_debugging_shows_where(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ValueError("oops")

    monkeypatch.setattr("vnet.cli.check.check_topology", fail)
    monkeypatch.setenv("VNET_DEBUG", "1")
    assert "Traceback" in run("check", "x.yaml").err


def test_a_reader_that_goes_away_is_no_error(topology: Path) -> None:
    command = f"{sys.executable} -m vnet schema | head -c 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
    assert (result.stdout, result.stderr) == ("{", "")
    assert result.returncode in (0, 141)


@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1:strict"])
def test_a_name_that_the_terminal_cannot_show(encoding: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "vnet", "check", b"/nowhere/\xff\xe2\x98\x83"],
        env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, timeout=30,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (1, b"")
    assert result.stdout.startswith(b"/nowhere/\\udcff") and b"No such file" in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run: Run, shell: str) -> None:
    assert "_VNET_COMPLETE" in run("completion", shell).out


def test_completion_offers_commands_and_labs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from click.shell_completion import ShellComplete

    (tmp_path / "office").mkdir()
    monkeypatch.setenv("VNET_RUN_DIR", str(tmp_path))
    complete = ShellComplete(cli, {}, "vnet", "_VNET_COMPLETE")
    assert [item.value for item in complete.get_completions([], "pi")] == ["ping", "pingall"]
    assert [item.value for item in complete.get_completions(["show"], "of")] == ["office"]
