"""gvproxy's protocols to a program that speaks one: QEMU's datagrams are those of a vfkit that says no hello."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine import Machine
from rig import needs, skip_for
from stranger import Vm
from tiny_guest import why_not

pytestmark = pytest.mark.real

LAB = """
name: NAME
networks:
  lan: {subnet: 10.0.2.0/24, adapter: {gvproxy: {protocol: PROTOCOL, socket: SOCKET}}}
guests:
  a: {nics: [{network: lan, address: 10.0.2.50/24, gateway: 10.0.2.2}]}
"""


def is_up(host: Machine) -> bool:
    return host.show(host.name, "networks")[0]["state"] == "up"


@needs("qemu-system-x86_64")
@skip_for(why_not())
def test_qemus_datagrams_are_those_of_vfkit(host: Machine, initrd: Path, tmp_path: Path) -> None:
    """A new vfkit says no hello; nor does QEMU."""
    host.up(LAB.replace("PROTOCOL", "vfkit").replace("SOCKET", f"{tmp_path}/vfkit"))
    ends = f"local.type=unix,local.path={tmp_path}/vm,remote.type=unix,remote.path={tmp_path}/vfkit"
    vm = Vm(host, initrd, "-netdev", f"dgram,id=n,{ends}").booted("10.0.2.3", "10.0.2.2")
    try:
        assert vm.reaches("10.0.2.50")
        assert "rc=0" in vm.run("ping -c 20 -s 1400 -W 5 -A 10.0.2.50 >/dev/null; echo rc=$?")
        assert is_up(host)
    finally:
        vm.close()
