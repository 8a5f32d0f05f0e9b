"""The DNS server of a user adapter, by its address of each IP version."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.unit.adapters.user_rig import Asker, Rig, port_of, receive, rig, server
from vnet.adapters.user import dns as dns_module
from vnet.adapters.user.dns import read_servers
from vnet.units import SECOND

QUESTION = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x00\x00\x01\x00\x01"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two servers on a port of their own, at 127.0.0.1 and 127.0.0.2."""
    with server(socket.SOCK_DGRAM) as one, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two:
        two.bind(("127.0.0.2", port_of(one)))
        two.setblocking(False)
        monkeypatch.setattr(dns_module, "DNS_PORT", port_of(one))
        yield one, two


RESOLVERS = (IPv4Address("127.0.0.1"), IPv4Address("127.0.0.2"))


def ask(lab: Rig, asker: Asker, port: int, question: bytes = QUESTION) -> None:
    asker.send(question, port, lab.gateway)


def test_questions_go_to_the_resolver_and_answers_come_back(
    tmp_path: Path, version: int, servers: tuple[socket.socket, socket.socket]
) -> None:
    with rig(tmp_path, version=version, dns=RESOLVERS) as lab:
        asker = Asker(lab)
        ask(lab, asker, port_of(servers[0]))
        asked, peer = receive(lab, servers[0])
        assert asked[2:] == QUESTION[2:]
        servers[0].sendto(bytes(2) + b"\x81\x80" + asked[4:], peer)  # whoever guesses wrong is not believed
        servers[0].sendto(asked[:2] + b"\x81\x80" + asked[4:], peer)
        lab.loop.until(lambda: asker.got)
        assert asker.got == [QUESTION[:2] + b"\x81\x80" + QUESTION[4:]]
        assert lab.adapter.details()["dns_answered"] == 1 and (asked[:2] == bytes(2) or lab.adapter.drops["dns-stray"] == 1)


def test_the_next_server_is_asked_when_one_is_silent_or_does_not_know(
    tmp_path: Path, version: int, servers: tuple[socket.socket, socket.socket]
) -> None:
    with rig(tmp_path, version=version, dns=RESOLVERS) as lab:
        asker = Asker(lab)
        ask(lab, asker, port_of(servers[0]))
        receive(lab, servers[0])
        lab.loop.skip(4 * SECOND)
        asked, peer = receive(lab, servers[1])
        servers[1].sendto(asked[:2] + b"\x81\x80" + asked[4:], peer)
        lab.loop.until(lambda: asker.got)
        ask(lab, asker, port_of(servers[0]), b"\x99\x99" + QUESTION[2:])
        asked, peer = receive(lab, servers[0])
        servers[0].sendto(asked[:2] + b"\x81\x82" + asked[4:], peer)  # SERVFAIL
        asked, peer = receive(lab, servers[1])
        servers[1].sendto(asked[:2] + b"\x81\x83" + asked[4:], peer)  # NXDOMAIN is an answer
        lab.loop.until(lambda: len(asker.got) == 2)
        assert asker.got[1][:4] == b"\x99\x99\x81\x83"


def test_when_nobody_answers_the_guest_is_told(
    tmp_path: Path, version: int, servers: tuple[socket.socket, socket.socket]
) -> None:
    with rig(tmp_path, version=version, dns=RESOLVERS) as lab:
        asker = Asker(lab)
        ask(lab, asker, port_of(servers[0]))
        for turn in range(4):
            receive(lab, servers[turn % 2])
            lab.loop.skip(4 * SECOND)
        lab.loop.until(lambda: asker.got)
        assert asker.got[0][:4] == b"\x12\x34\x81\x82" and asker.got[0][4:] == QUESTION[4:]
        assert not lab.loop.readers


def test_a_server_that_is_not_there_is_passed_over_at_once(
    tmp_path: Path, version: int, servers: tuple[socket.socket, socket.socket]
) -> None:
    nobody = IPv4Address("127.0.0.3")
    with rig(tmp_path, version=version, dns=(nobody, RESOLVERS[1])) as lab:
        asker = Asker(lab)
        began = lab.loop.timeline.now
        ask(lab, asker, port_of(servers[0]))
        receive(lab, servers[1])
        assert lab.loop.timeline.now - began < 2 * SECOND


@pytest.mark.parametrize("payload", [b"", b"short", QUESTION[:2] + b"\x80" + QUESTION[3:]])
def test_what_is_no_question_is_dropped(
    tmp_path: Path, version: int, servers: tuple[socket.socket, socket.socket], payload: bytes
) -> None:
    with rig(tmp_path, version=version, dns=RESOLVERS) as lab:
        ask(lab, Asker(lab), port_of(servers[0]), payload)
        lab.loop.until(lambda: lab.adapter.drops["dns-malformed"] == 1)
        assert not lab.loop.readers


def test_the_oldest_of_too_many_questions_gives_way(
    tmp_path: Path, version: int, servers: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_module, "MAX_QUESTIONS", 4)
    with rig(tmp_path, version=version, dns=RESOLVERS) as lab:
        asker = Asker(lab)
        for number in range(6):
            ask(lab, asker, port_of(servers[0]), bytes((0, number)) + QUESTION[2:])
        lab.loop.until(lambda: lab.adapter.drops["dns-full"] == 2)
        assert len(lab.loop.readers) == 4
        ask(lab, asker, port_of(servers[0]), bytes((0, 5)) + QUESTION[2:])
        lab.loop.turn()
        assert len(lab.loop.readers) == 4, "one that was asked is not asked twice"


def test_tcp_goes_to_the_first_server(tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with server() as listener:
        monkeypatch.setattr(dns_module, "DNS_PORT", port_of(listener))
        monkeypatch.setattr("vnet.adapters.user.tcp.DNS_PORT", port_of(listener))
        with rig(tmp_path, version=version, dns=RESOLVERS) as lab:
            connection = lab.guest.tcp.connect(lab.gateway, port_of(listener))
            lab.loop.until(lambda: connection.is_established)
            other = lab.guest.tcp.connect(lab.gateway, 81)
            lab.loop.until(lambda: other.error is not None)
            assert other.error == "refused"


def test_resolv_conf_is_read_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# no server\n")
    with rig(tmp_path) as lab:
        resolvers = lab.adapter._resolvers
        resolvers._path = str(file)
        lab.loop.skip(2 * SECOND)
        assert resolvers.servers == ("127.0.0.1",)
        file.unlink()
        file.with_name("new").write_text("nameserver 192.0.2.1\n")
        file.with_name("new").rename(file)
        assert resolvers.servers == ("127.0.0.1",), "not within a second"
        lab.loop.skip(2 * SECOND)
        assert resolvers.servers == ("192.0.2.1",)
        file.unlink()
        lab.loop.skip(2 * SECOND)
        assert resolvers.servers == ("127.0.0.1",)


def test_servers_of_a_file() -> None:
    text = "search a.b\nnameserver 192.0.2.1\n nameserver fe80::1%eth0 # x\nnameserver here\n"
    text += "nameserver 2001:db8::1\nnameserver 1.1.1.1\n"
    assert read_servers(text) == ("192.0.2.1", "fe80::1%eth0", "2001:db8::1")
