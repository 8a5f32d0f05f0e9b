"""What all tests share: which of them need a real machine, and that CI leaves none of those out."""

from __future__ import annotations

import gc
import os

import pytest

IN_CI = os.environ.get("CI") == "true"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need root, with the reason, where we are somebody else; let those of long files come first."""
    # Files are handed out whole: one of two minutes that came last would keep one process busy, and the others waiting.
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(pytest.mark.skip(reason="needs root: real namespaces, TAP devices and programs"))


def pytest_collection_finish() -> None:
    """Let the garbage collector leave out what all tests share: it looks only at what a test made, a tenth of the whole."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """In CI a skipped test with real peers is a failed one: it would claim what nobody saw."""
    report = yield
    optional = item.get_closest_marker("kernel_module") or item.get_closest_marker("interpreter")
    required = item.get_closest_marker("real") and not optional
    if IN_CI and required and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} needs a real machine and was skipped in CI: {report.longrepr}"
    return report
