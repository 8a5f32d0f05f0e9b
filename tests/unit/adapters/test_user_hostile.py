"""What a hostile guest tries at the user adapter, beside what the fuzzer throws at its port."""

from __future__ import annotations

from ipaddress import IPv6Address
from pathlib import Path

import pytest

from tests.unit.adapters.test_user_ipv6 import PAYLOADS6
from tests.unit.adapters.user_rig import Rig, rig
from vnet.adapters.user.outside import Outside
from vnet.ports import NO_OFFLOAD
from vnet.wire import ipv6
from vnet.wire.ethernet import ETHERTYPE_IPV6

FAR = IPv6Address("2001:db8::9").packed


def throw(lab: Rig, packet: bytes, mac: bytes | None = None) -> None:
    """Put an IPv6 packet on the cable as the guest's machine can, to the adapter's MAC address or another one."""
    lab.nic.port.send((mac or lab.spec.mac) + lab.nic.mac + ETHERTYPE_IPV6 + packet, NO_OFFLOAD)
    for _ in range(3):
        lab.loop.turn()


@pytest.mark.parametrize("protocol", PAYLOADS6)
@pytest.mark.parametrize(("destination", "hop_limit"), [(FAR, 1), (IPv6Address("fd00:2::77").packed, 64), (FAR, 64)])
@pytest.mark.parametrize("mac", [b"\x33\x33\0\0\0\1", b"\xff" * 6])
def test_frames_to_a_group_are_neither_passed_on_nor_answered(
    tmp_path: Path, protocol: int, destination: bytes, hop_limit: int, mac: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 1812, 5.3.4; RFC 4443, 2.4 (e.4): all on the link have such a packet, and would all answer."""
    with rig(tmp_path, version=6) as lab:
        monkeypatch.setattr(Outside, "open", lambda *_, **__: pytest.fail("a socket was opened"))
        heard: list[bytes] = []
        lab.nic.listen(lambda frame, offload: heard.append(frame))
        payload = PAYLOADS6[protocol](lab.own, destination)
        throw(lab, ipv6.build(lab.own, destination, protocol, len(payload), hop_limit=hop_limit) + payload, mac)
        assert not heard and lab.adapter.drops["ipv6-not-ours"] == 1
