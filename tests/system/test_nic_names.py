"""A namespace's interfaces are called as the topology says."""

from __future__ import annotations

import secrets

import pytest
import trio
from rig import needs

import vnet
from vnet.guests.namespace import NamespaceGuest

TOPOLOGY = """
name: vt{token}
networks:
  lan: {{subnet: 10.77.1.0/24, dhcp: {{}}}}
guests:
  a:
    kind: namespace
    nics: [{{network: lan, name: lan0, dhcp: vnet}}, {{network: lan, address: 10.77.1.5/24}}]
"""


@pytest.mark.real
@needs("ip")
def test_names_are_those_of_the_topology_and_else_eth(monkeypatch, tmp_path):
    monkeypatch.setenv("VNET_RUN_DIR", str(tmp_path))
    topology = vnet.parse_topology(TOPOLOGY.format(token=secrets.token_hex(3)))

    async def main() -> None:
        async with vnet.open_lab(topology) as lab:
            guest = lab.guests["a"]
            assert isinstance(guest, NamespaceGuest)
            await lab.wait_up()
            assert [state.name for state in guest.interfaces()] == ["lan0", "eth1"]
            assert {"a:lan0", "a:eth1"} < set(lab.links)
            shown = (await guest.exec("ip", "-brief", "address", check=True)).output.decode()
            lines = {words[0]: words[2:] for words in map(str.split, shown.splitlines())}
            assert lines["lan0"] == [f"{guest.address}/24"] and lines["eth1"] == ["10.77.1.5/24"]

    trio.run(main)
