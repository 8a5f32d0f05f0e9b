"""Tests that need a real machine: in CI none of them is left out, whichever process was to run it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).parents[2] / "conftest.py"
TESTS = """
import pytest
pytestmark = pytest.mark.real

def test_of_a_program():
    pytest.skip("no such program")

@pytest.mark.skipif(True, reason="no such device")
def test_of_a_device():
    pass

@pytest.mark.interpreter
def test_of_another_python():
    pytest.skip("no such Python")

@pytest.mark.xfail(reason="not yet")
def test_of_the_future():
    assert False
"""


@pytest.mark.parametrize("ci", [True, False])
def test_in_ci_a_skip_is_a_failure(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: bool) -> None:
    monkeypatch.setenv("CI", "true" if ci else "")
    pytester.makeconftest(CONFTEST.read_text() + "\nos.geteuid = lambda: 0\n")
    pytester.makeini("[pytest]\nmarkers = real\n interpreter\n")
    pytester.makepyfile(TESTS)
    if ci:  # as the real tests are run: what a worker reports must count as well
        result = pytester.runpytest_subprocess(
            "-n1", *(f"-pno:{name}" for name in ("trio", "anyio", "hypothesispytest", "vnet"))
        )
        result.assert_outcomes(failed=1, errors=1, skipped=1, xfailed=1)
        result.stdout.fnmatch_lines(["*test_of_a_program needs a real machine and was skipped in CI:*no such program*"])
    else:
        pytester.runpytest_subprocess("-pno:vnet").assert_outcomes(skipped=3, xfailed=1)


def test_files_that_take_long_come_first(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gc.freeze", lambda: None)  # this process has a collection behind it
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makeini("[pytest]\nmarkers = real\n long\n")
    pytester.makepyfile(
        test_a="def test_one(): pass\ndef test_two(): pass\n",
        test_b="import pytest\npytestmark = pytest.mark.long\ndef test_three(): pass\ndef test_four(): pass\n",
    )
    result = pytester.runpytest_inprocess("--collect-only", "-q", "-pno:cacheprovider")
    collected = ["test_b.py::test_three", "test_b.py::test_four", "test_a.py::test_one", "test_a.py::test_two"]
    assert [line for line in result.outlines if "::" in line] == collected
