"""Frames of every sort at the port of a user adapter: nothing is raised, all is bounded, and no socket is left.

Whatever they are for, its sockets lead to an echo server of ours: no octet of this leaves the test.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from draws import Place
from frames import FrameSource
from packets import BROADCAST
from packets import IPV4 as TYPE_IPV4
from sixth import FAR6, over_ipv6

from tests.unit.adapters.user_rig import GATEWAY, GUEST, MACHINE, Loop, rig, server
from vnet.adapters.user import tcp as tcp_module
from vnet.adapters.user import udp as udp_module
from vnet.adapters.user.outside import Outside
from vnet.ports import NO_OFFLOAD
from vnet.units import SECOND

FRAMES = int(os.environ.get("VNET_FUZZ_FRAMES", "100000")) // 4
SEED = int(os.environ.get("VNET_FUZZ_SEED", "20261123"))
FLOWS, OPENING = 64, 32


Destinations = dict[tuple[int, int], tuple[str, int]]
"""Where sockets lead to, by family and kind."""


class Diverted(socket.socket):
    """A socket that knows one destination for each kind."""

    destinations: Destinations

    def connect(self, address: object) -> None:
        super().connect(self.destinations[self.family, self.type])

    def connect_ex(self, address: object) -> int:
        return super().connect_ex(self.destinations[self.family, self.type])


class Echo:
    """Answers what the adapter's sockets send."""

    def __init__(self, loop: Loop, address: str, destinations: Destinations) -> None:
        self.loop = loop
        self.listener, self.datagrams = server(backlog=1024, address=address), server(socket.SOCK_DGRAM, address=address)
        for sock in (self.listener, self.datagrams):
            destinations[sock.family, sock.type] = sock.getsockname()
        self.taken: set[socket.socket] = set()
        loop.register(self.listener.fileno(), self._accept)
        loop.register(self.datagrams.fileno(), self._answer)

    def _accept(self) -> None:
        taken = self.listener.accept()[0]
        taken.setblocking(False)
        self.taken.add(taken)
        self.loop.register(taken.fileno(), lambda: self._echo(taken))

    def _echo(self, taken: socket.socket) -> None:
        try:
            data = taken.recv(65536)
            if data:
                with contextlib.suppress(BlockingIOError):
                    taken.send(data)
                return
        except OSError:
            pass
        self._close(taken)

    def _answer(self) -> None:
        data, peer = self.datagrams.recvfrom(65536)
        with contextlib.suppress(OSError):
            self.datagrams.sendto(data, peer)

    def _close(self, sock: socket.socket) -> None:
        self.loop.unregister(sock.fileno())
        self.taken.discard(sock)
        sock.close()

    def close(self) -> None:
        for sock in (*self.taken, self.listener, self.datagrams):
            self._close(sock)


@pytest.fixture(autouse=True)
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_module, "MAX_FLOWS", FLOWS)
    monkeypatch.setattr("vnet.adapters.user.echo.MAX_FLOWS", FLOWS)
    monkeypatch.setattr(tcp_module, "MAX_OPENING", OPENING)


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Destinations]:
    destinations: Destinations = {}

    def opened(self: Outside, kind: int, protocol: int = 0, family: int = socket.AF_INET) -> socket.socket:
        sock = Diverted(family, kind | socket.SOCK_NONBLOCK)
        sock.destinations = destinations
        return sock

    monkeypatch.setattr(Outside, "open", opened)
    yield destinations


@pytest.mark.parametrize("version", [4, 6])
def test_frames_of_every_sort(tmp_path: Path, kinds: Destinations, version: int) -> None:
    """With version 6 most packets are over IPv6, and the rest as they are."""
    with rig(tmp_path, version=version) as lab:
        echoes = [Echo(lab.loop, address, kinds) for address in ("127.0.0.1", "::1")]
        me, gate = (lab.nic.mac, GUEST.ip.packed), (lab.spec.mac, GATEWAY.ip.packed)
        far = [socket.inet_aton(text) for text in ("192.0.2.1", "198.51.100.7", "10.0.2.255", "10.0.2.77")]
        talks = [(gate[0], me[0], me[1], address) for address in (*far, MACHINE.packed, gate[1])]
        source = FrameSource(SEED, Place([me, gate], [*far, MACHINE.packed], [1], talks))
        adapter, details = lab.adapter, {}
        seen = dict.fromkeys(("tcp", "udp", "echo"), 0)
        for number in range(FRAMES):
            frame, offload = source.draw()
            if number % 2 and frame[:6] != BROADCAST:
                frame = gate[0] + me[0] + frame[12:]
            if version == 6 and number % 8 and frame[12:14] == TYPE_IPV4:
                frame, offload = over_ipv6(frame, lab.own, (lab.machine, lab.gateway), source), NO_OFFLOAD
            lab.nic.port.send(frame, offload)
            if not number % 32:
                lab.loop.turn()
                details = adapter.details()
                for name in seen:
                    seen[name] = max(seen[name], int(str(details[name])))
                assert int(str(details["udp"])) <= FLOWS and int(str(details["echo"])) <= FLOWS
                assert int(str(details["tcp_opening"])) <= OPENING
        assert min(seen.values()) > 0, f"each relay had something to do: {seen}"
        assert adapter.drops["forbidden"] > 0 and adapter.drops["ttl"] > 0
        assert version == 4 or (adapter.drops["scope"] > 0 and adapter.drops["ipv6-not-ours"] > 0)
        connection = lab.guest.tcp.connect(far[0] if version == 4 else FAR6, 80)
        lab.loop.until(lambda: connection.is_established)
        connection.send(b"still here")
        lab.loop.until(lambda: connection.available)
        assert connection.receive(100) == b"still here"
        adapter.retire()
        for _ in range(20):
            lab.loop.turn()
        lab.loop.skip(400 * SECOND)
        for echo in echoes:
            echo.close()
        assert not lab.loop.readers and not lab.loop.writers


@pytest.mark.parametrize("octets", [b"", b"\0", bytes(13), bytes(14), b"\x08\x00" * 7, b"\x86\xdd" * 30, bytes(65535)])
@pytest.mark.parametrize("version", [4, 6])
def test_what_is_no_frame(tmp_path: Path, octets: bytes, version: int) -> None:
    with rig(tmp_path, version=version) as lab:
        lab.nic.port.send(octets, NO_OFFLOAD)
        lab.nic.port.send(octets, b"\1\1" + bytes(8))
        lab.loop.turn()
        assert not lab.loop.readers
