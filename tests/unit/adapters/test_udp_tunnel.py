"""Tunnels in UDP: sockets that several share, and other ends that are none."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.unit.adapters.bench import Bench
from vnet.adapters import udp_tunnel
from vnet.adapters.udp_tunnel import UdpTunnel
from vnet.errors import HostError
from vnet.ports import Port
from vnet.topology.adapter_kinds.tunnels import TunnelSpec, UdpSpec

PORT = 47_890


def vxlan(remote: str, local: str | None = None, vni: int = 42) -> TunnelSpec:
    where = None if local is None else ip_address(local)
    return TunnelSpec(word="vxlan", vni=vni, remotes=(ip_address(remote),), local=where, port=PORT, mtu=1500)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(str(tmp_path))


@pytest.mark.parametrize("spec", [
    vxlan("127.0.0.1"), vxlan("127.0.0.9"), vxlan("::1"), vxlan("127.0.0.1", "127.0.0.1"),
    UdpSpec(local=(ip_address("127.0.0.1"), PORT), remote=(ip_address("127.0.0.1"), PORT)),
])  # fmt: skip
def test_the_machine_itself_is_no_other_end(bench: Bench, spec: TunnelSpec | UdpSpec) -> None:
    """The lab would hear itself: nothing answers, and nothing says why."""
    with pytest.raises(HostError, match="this machine's own address, so the lab would talk to itself"):
        UdpTunnel(spec, bench.context)


@pytest.mark.parametrize("spec", [
    vxlan("192.0.2.200"), vxlan("127.0.0.2", "127.0.0.1"),
    UdpSpec(local=(ip_address("127.0.0.1"), PORT), remote=(ip_address("127.0.0.1"), PORT + 1)),
])  # fmt: skip
def test_another_address_or_port_of_it_is_one(bench: Bench, spec: TunnelSpec | UdpSpec) -> None:
    tunnel = UdpTunnel(spec, bench.context)
    tunnel.start()
    tunnel.stop()


def test_networks_that_share_a_socket_are_opened_at_the_same_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a thread of its own, as concurrent rebinds do: one of them binds, the other waits for that and joins."""
    opened: list[UdpTunnel] = []
    meet = threading.Barrier(2)
    real = udp_tunnel._Socket

    def slow(*arguments: object) -> object:
        with contextlib.suppress(threading.BrokenBarrierError):
            meet.wait(0.1)
        return real(*arguments)  # type: ignore[arg-type]

    def open_one(vni: int) -> None:
        context = replace(bench.context, port=Port(f"net{vni}", lambda frame, offload: None))
        opened.append(UdpTunnel(vxlan("127.0.0.2", "127.0.0.1", vni), context))

    monkeypatch.setattr(udp_tunnel, "_Socket", slow)
    threads = [threading.Thread(target=open_one, args=(vni,)) for vni in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 2 and opened[0]._socket is opened[1]._socket
    for tunnel in opened:
        tunnel.stop()
