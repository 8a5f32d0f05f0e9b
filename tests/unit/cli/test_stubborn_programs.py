"""``vnet up --simulate`` ends, whatever the programs of the file do, and says which one it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vnet.runtime import clock

if TYPE_CHECKING:
    from .conftest import Run

LAB = """
name: quiet
networks: {lan: {subnet: 10.0.0.0/24, dhcp: {lease: 12h}}}
guests: {a: {nics: [lan]}, b: {nics: [lan], run: ['stubborn:PROGRAM']}}
"""
PROGRAMS = """
import trio

async def hold_out(guest):
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()  # here

async def spin(guest):
    while True:
        await trio.lowlevel.checkpoint()  # here

async def spin_all_the_same(guest):
    while True:
        try:
            await trio.sleep(0)  # here
        except BaseException:
            pass
"""


@pytest.mark.parametrize("program", ["hold_out", "spin", "spin_all_the_same"])
def test_vnet_up_names_the_program_and_its_guest(
    program: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "MOST_STEPS", 5_000)  # a million take seconds
    monkeypatch.setattr(clock, "LAST_STEPS", 500)
    (tmp_path / "stubborn.py").write_text(PROGRAMS)
    (tmp_path / "lab.yaml").write_text(LAB.replace("PROGRAM", program))
    status, out, err = run("up", tmp_path / "lab.yaml", "--simulate", "1h")
    start = PROGRAMS.index(f"async def {program}")
    line = PROGRAMS.count("\n", 0, PROGRAMS.index("# here", start)) + 1
    assert status != 0 and out == ""
    assert f"program stubborn:{program} of b at {tmp_path / 'stubborn.py'}:{line}" in err
