from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from vnet.guests.process import ENTER
from vnet.guests.space import HOLDER


def enter(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-IS", ENTER, *options, "--", "true"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize("options", [
    ("--net", "/proc/self/ns/net", "--or", "/proc/self/ns/net"), ("--pid", str(os.getpid())), ("--net", "/", "--or", "/etc"),
])  # fmt: skip
def test_another_namespace_than_the_one_that_is_meant_is_not_entered(options: tuple[str, ...]) -> None:
    """The process of an attached guest may have ended, and its number be somebody else's."""
    refused = enter(*options, "--identity", "1:2")
    assert refused.returncode == 125 and refused.stdout == ""
    assert refused.stderr.startswith("vnet: cannot enter ") and "the lab's namespace is not there" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_holder_whose_lab_is_gone_says_nothing() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    with theirs:
        done = subprocess.run(
            [sys.executable, "-IS", HOLDER, str(theirs.fileno())],
            pass_fds=[theirs.fileno()], capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    assert done.stdout + done.stderr == ""
