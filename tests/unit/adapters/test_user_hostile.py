"""What a hostile guest tries at the user adapter, beside what the fuzzer throws at its port."""

from __future__ import annotations

from ipaddress import IPv6Address
from pathlib import Path

import pytest

from tests.unit.adapters.test_user_ipv6 import PAYLOADS6
from tests.unit.adapters.user_rig import GATEWAY6, GUEST6, MACHINE6, Rig, rig
from vnet.adapters.user.outside import Outside
from vnet.addresses import multicast_mac
from vnet.ports import NO_OFFLOAD
from vnet.units import SECOND
from vnet.wire import ipv6, ndp
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


@pytest.mark.parametrize("asks", [True, False])
def test_a_guest_cannot_take_the_addresses_of_the_adapter(tmp_path: Path, asks: bool) -> None:
    """Neither by asking for them as they are taken into use, nor by saying that it has them (RFC 4862, 5.4.3 and 5.4.4)."""
    lab = Rig(tmp_path, version=4, address6=GATEWAY6, host6=MACHINE6)
    side = lab.adapter._outside.interface.ipv6
    assert side is not None
    addresses = [own.address for own in side.addresses]
    for _ in range(4):
        for address in addresses:
            if asks:
                group, source = ipv6.solicited_node(address), ipv6.ANY
                message: ndp.Message = ndp.NeighborSolicitation(address)
            else:
                group, source = ipv6.ALL_NODES, GUEST6.packed
                message = ndp.NeighborAdvertisement(address, False, False, True, ndp.Options(target_mac=lab.nic.mac))
            octets = ndp.encode(message).encode(source, group)
            head = ipv6.build(source, group, ipv6.PROTOCOL_ICMPV6, len(octets), hop_limit=ndp.HOP_LIMIT)
            throw(lab, head + octets, multicast_mac(group))
        lab.loop.skip(SECOND)
    assert len(addresses) == 3 and all(own.usable for own in side.addresses)
    assert set(addresses) <= set(side.node.local)
    lab.close()
