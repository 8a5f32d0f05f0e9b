"""Tunnels of one lab share their sockets, also those that are opened at once, in threads of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from threading import Barrier, Thread

import pytest

from vnet.adapters import udp_tunnel
from vnet.adapters.base import AdapterContext
from vnet.adapters.resources import NoLedger
from vnet.adapters.udp_tunnel import UdpTunnel
from vnet.fabric.rng import RandomStreams
from vnet.fabric.timeline import Timeline
from vnet.ports import Port, no_report
from vnet.topology.adapter_kinds.tunnels import TunnelSpec


class Poller:
    def register(self, fd: int, on_readable: Callable[[], None]) -> None: ...

    def unregister(self, fd: int) -> None: ...

    def wants_read(self, fd: int, callback: Callable[[], None] | None) -> None: ...

    def wants_write(self, fd: int, callback: Callable[[], None] | None) -> None: ...


def tunnel(poller: Poller, vni: int) -> UdpTunnel:
    context = AdapterContext(
        port=Port("lan:adapter", lambda frame, offload: None), poller=poller, scheduler=Timeline(),
        streams=partial(RandomStreams(1).stream, "lan"), report=no_report, ledger=NoLedger(), directory="",
    )  # fmt: skip
    here = ip_address("127.0.0.1")
    return UdpTunnel(
        TunnelSpec(word="vxlan", vni=vni, remotes=(here,), port=14788, local=here, mtu=1500), context
    )  # fmt: skip


def test_tunnels_that_are_opened_at_once_share_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Barrier(2)
    made: list[object] = []

    class Slow:
        """A socket that takes so long that whoever comes meanwhile would make another."""

        def __init__(self, *_: object) -> None:
            made.append(self)
            self.tunnels: dict[int, UdpTunnel] = {}
            other.start()
            other.join(0.05)

    def second() -> None:
        tunnels.append(tunnel(poller, 2))
        both.wait(5)

    monkeypatch.setattr(udp_tunnel, "_Socket", Slow)
    poller, tunnels, other = Poller(), [], Thread(target=second)
    tunnels.append(tunnel(poller, 1))
    both.wait(5)
    assert len(made) == 1 and sorted(made[0].tunnels) == [1, 2]  # type: ignore[attr-defined]
