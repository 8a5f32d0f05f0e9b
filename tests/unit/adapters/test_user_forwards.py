"""The ways in of the user adapter: what is stated, nothing else, and changeable."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.unit.adapters.user_rig import GUEST, GUEST6, Rig, port_of, receive, rig, server
from vnet.errors import HostError
from vnet.stack.tcp.tables import TcpListener
from vnet.topology.adapter_kinds.loopback import LoopbackSpec
from vnet.topology.adapter_kinds.user import Forward
from vnet.units import SECOND


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with server(kind) as sock:
        return port_of(sock)


TO = {4: GUEST.ip, 6: GUEST6}


def forward(port: int, **changes: object) -> Forward:
    given = {"protocol": "tcp", "listen": "127.0.0.1", "port": port, "to": GUEST.ip, "to_port": 80}
    return Forward(**{**given, **changes})


def exchange(lab: Rig, near: socket.socket, listener: TcpListener | None = None) -> None:
    """Serve one connection on the guest."""
    listener = listener or lab.guest.tcp.listen(80, both=True)
    lab.loop.until(lambda: listener._ready)
    inside = listener.accept()
    assert inside is not None and inside.remote[0] == lab.gateway
    near.send(b"question")
    lab.loop.until(lambda: inside.available)
    assert inside.receive(100) == b"question"
    inside.send(b"answer")
    inside.close()
    listener.close()
    near.settimeout(0)
    got = bytearray()

    def answered() -> bool:
        try:
            piece = near.recv(100)
        except BlockingIOError:
            return False
        got.extend(piece)
        return not piece

    lab.loop.until(answered)
    assert got == b"answer"


@pytest.mark.parametrize("listen", ["127.0.0.1", "::1"])
def test_a_connection_from_outside_reaches_the_guest(tmp_path: Path, version: int, listen: str) -> None:
    """The two sides of a forward need not be of the same IP version."""
    port = free_port()
    forwards = (forward(port, listen=listen, to=TO[version]),)
    with rig(tmp_path, forwards, version=version) as lab, socket.create_connection((listen, port)) as near:
        exchange(lab, near)


def test_by_a_unix_socket_which_goes_with_the_adapter(tmp_path: Path) -> None:
    path = str(tmp_path / "web.sock")
    with rig(tmp_path, (forward(0, listen=path),)) as lab, socket.socket(socket.AF_UNIX) as near:
        near.connect(path)
        exchange(lab, near)
    assert not os.path.exists(path)


def test_a_guest_that_refuses_resets_the_peer(tmp_path: Path) -> None:
    port = free_port()
    with rig(tmp_path, (forward(port),)) as lab, socket.create_connection(("127.0.0.1", port)) as near:
        near.settimeout(0)

        def reset() -> bool:
            try:
                return near.recv(1) == b""
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True

        lab.loop.until(reset)
        assert lab.adapter.details()["tcp"] == 0


def test_datagrams_go_in_and_answers_come_out(tmp_path: Path, version: int) -> None:
    port = free_port(socket.SOCK_DGRAM)
    listen = "127.0.0.1" if version == 4 else "::1"
    wanted = forward(port, protocol="udp", listen=listen, to=TO[version], to_port=53)
    with rig(tmp_path, (wanted,), version=version) as lab:
        heard = []
        inside = lab.guest.udp_bind(53, on_datagram=lambda payload, source: heard.append((payload, source)), both=True)
        with lab.server(socket.SOCK_DGRAM) as one, lab.server(socket.SOCK_DGRAM) as two:
            for near in (one, two, one):
                near.sendto(b"to you", (listen, port))
                lab.loop.turn()
            lab.loop.until(lambda: len(heard) == 3)
            assert heard[0][1] == heard[2][1] != heard[1][1], "each peer has a port of its own"
            assert heard[0][1][0] == lab.gateway
            inside.send_to(b"back", heard[1][1])
            assert receive(lab, two)[0] == b"back"


def test_nothing_listens_unless_it_is_stated(tmp_path: Path) -> None:
    def listening() -> set[str]:
        found = set()
        for table in ("tcp", "tcp6", "udp", "udp6"):
            for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] in ("0A", "07"):
                    found.add(f"{table} {words[1]} {words[9]}")
        inodes = {
            os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")
        }
        return {each for each in found if f"socket:[{each.split()[2]}]" in inodes}

    port = free_port()
    before = listening()
    with rig(tmp_path):
        assert listening() == before
    with rig(tmp_path, (forward(port),)):
        (new,) = listening() - before
        assert new.startswith(f"tcp 0100007F:{port:04X} ")
    assert listening() == before


def test_forwards_change_while_connections_stay(tmp_path: Path) -> None:
    one, two = free_port(), free_port()
    with rig(tmp_path, (forward(one),)) as lab, socket.create_connection(("127.0.0.1", one)) as near:
        listener = lab.guest.tcp.listen(80)
        lab.loop.until(lambda: lab.adapter.details()["tcp"] == 1)
        changed = replace(lab.spec, forwards=(forward(two), forward(two + 1 if two < 65535 else 1024, listen="127.0.0.2")))
        assert lab.adapter.adapt(changed)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", one)).close()
        exchange(lab, near, listener)
        socket.create_connection(("127.0.0.1", two)).close()
        moved = replace(lab.spec, forwards=(forward(two, to_port=81),))
        assert lab.adapter.adapt(moved) and lab.adapter.details()["forwards"] == [f"tcp 127.0.0.1:{two} to 10.0.2.5:81"]


def test_what_is_taken_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    one = free_port()
    with rig(tmp_path, (forward(one),)) as lab, server() as other:
        wanted = (forward(free_port()), forward(port_of(other)))
        with pytest.raises(HostError, match="cannot listen for forward tcp 127.0.0.1:"):
            lab.adapter.adapt(replace(lab.spec, forwards=wanted))
        assert lab.adapter.details()["forwards"] == [str(forward(one))]
        socket.create_connection(("127.0.0.1", one)).close()
    with server() as other, pytest.raises(HostError), rig(tmp_path, (forward(port_of(other)),)):
        pass


def test_a_forward_is_written_as_it_is_typed() -> None:
    assert str(forward(80, listen="::1", to=GUEST6)) == f"tcp [::1]:80 to [{GUEST6}]:80"
    assert str(forward(0, listen="/run/web.sock")) == f"tcp /run/web.sock to {GUEST.ip}:80"


def test_a_place_that_leads_elsewhere_is_not_given_up_meanwhile(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    listen = str(here / "web.sock")
    with rig(tmp_path, (forward(0, listen=listen),)) as lab:
        here.rename(there)  # nobody could listen on that path again
        assert lab.adapter.adapt(replace(lab.spec, forwards=(forward(0, listen=listen, to_port=81),)))
        listener = lab.guest.tcp.listen(81)
        with socket.socket(socket.AF_UNIX) as near:
            near.connect(str(there / "web.sock"))
            exchange(lab, near, listener)


def test_datagrams_of_known_peers_follow_to_another_port(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    with rig(tmp_path, (forward(port, protocol="udp"),)) as lab, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
        got: list[tuple[int, bytes]] = []
        for target in (80, 81):
            lab.guest.udp_bind(target, on_datagram=lambda payload, _, target=target: got.append((target, payload)))
        near.sendto(b"one", ("127.0.0.1", port))
        lab.loop.until(lambda: len(got) == 1)
        assert lab.adapter.adapt(replace(lab.spec, forwards=(forward(port, protocol="udp", to_port=81),)))
        near.sendto(b"two", ("127.0.0.1", port))
        lab.loop.until(lambda: len(got) == 2)
        assert got == [(80, b"one"), (81, b"two")]


def test_other_changes_need_another_adapter(tmp_path: Path) -> None:
    with rig(tmp_path) as lab:
        assert not lab.adapter.adapt(replace(lab.spec, host=IPv4Address("10.0.2.98")))
        assert not lab.adapter.adapt(LoopbackSpec(name="lo0", mac=bytes(6), addresses=()))


def test_a_listener_that_can_take_nothing_rests_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with rig(tmp_path, (forward(port),)) as lab, socket.create_connection(("127.0.0.1", port)) as near:
        listener = lab.guest.tcp.listen(80)

        def none_left(_: object) -> None:
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr("socket.socket.accept", none_left)
            lab.loop.until(lambda: lab.adapter.drops["forward-accept"] == 1)
            for _ in range(10):
                lab.loop.turn()
            assert lab.adapter.drops["forward-accept"] == 1, "it does not ask again at once"
        lab.loop.skip(SECOND)
        exchange(lab, near, listener)
