"""User-mode Linux: a kernel that is a program of an ordinary user, by the line of a plug; its NIC speaks as BESS does."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from ordinary import User, ordinary
from rig import needs, skip_for
from stranger import Console
from tiny_guest import UML, make_initrd, why_no_uml

pytestmark = [pytest.mark.real, needs("iperf3"), skip_for(why_no_uml())]

SERVER = "  web: {{nics: [{{network: lan, address: 10.0.0.10/24}}], run: [iperf3, {{http: {{folder: FOLDER}}}}]}}"
CONSOLE = ("con=null", "con0=null,fd:2", "ssl0=fd:0,fd:1", "console=ttyS0", "quiet")
KEPT = ("TMPDIR", "uml_dir")
"""Where it has its memory and the socket of its own console, by the variable and the option that say so."""


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    with ordinary(make_initrd(tmp_path / "initrd", "iperf3", drivers=())) as made:
        for name in KEPT:
            (made.directory / name).mkdir()
            (made.directory / name).chmod(0o777)
        yield made


def boot(user: User, line: list[str]) -> Console:
    """Start the machine with the words of a plug's line."""
    assert line[0] == UML.name
    memory, own = (f"{name}={user.directory}/{name}" for name in KEPT)
    words = (str(UML), *line[1:], "mem=96M", f"initrd={user.initrd}", own, "umid=u", *CONSOLE)
    machine = Console(user.argv("env", memory, *words), user.environment)
    machine.expect("guest-is-up")
    return machine


def test_the_printed_line_is_for_a_user_mode_linux(user: User) -> None:
    """A lease, a file by its checksum, and TCP in both directions; it ends, the next one gets the same port."""
    data = os.urandom(3 << 20)
    folder = user.directory / "www"
    folder.mkdir()
    (folder / "data").write_bytes(data)
    user.up(SERVER.replace("FOLDER", str(folder)))
    line = shlex.split(user.vnet("plug", "plugged", "lan", "--as", "uml", "--name", "um"))
    for _ in range(2):
        machine = boot(user, line)
        try:
            assert "leased vec0 10.0.0." in machine.run("ip link set vec0 up; udhcpc -q -n -f -t 20 -i vec0 -s /lease")
            assert [row["owner"] for row in user.show("leases")] == ["um:eth0"]
            assert machine.reaches("10.0.0.9")
            fetched = machine.run("wget -q -O - http://10.0.0.10/data | sha256sum")
            assert hashlib.sha256(data).hexdigest() in fetched
            for way in ("", "-R"):
                assert "rc=0" in machine.run(f"iperf3 -c 10.0.0.10 -n 4M {way} >/dev/null; echo rc=$?")
            (row,) = [row for row in user.show("ports") if row["plug"]]
            assert row["plug"]["problem"] == "" and row["rx_frames"] > 1000
            machine.type("poweroff -f")
            assert machine.process.wait(30) == 0
        finally:
            machine.close()
        (drops,) = [row["plug"]["details"]["drops"] for row in user.show("ports") if row["plug"]]
        assert not drops.keys() - {"not-connected", "queue-full"}, "every packet was a frame"
    assert [os.listdir(user.directory / name) for name in KEPT] == [[], []]
