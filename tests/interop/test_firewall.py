"""The firewall and the memory of NAT, with real programs on both sides."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
import trio
from live_labs import EXTERNAL, SITE, WWW, guest, live, needs, opened, program, run, until, web_server

import vnet
from vnet.guests.namespace import NamespaceGuest

pytestmark = needs("curl", "ping")

LAB = """
name: NAME
networks: {lan: {subnet: 10.1.0.0/24}, dmz: {subnet: 10.2.0.0/24}}
routers:
  fw:
    interfaces: {lan: 10.1.0.1/24, dmz: 10.2.0.1/24}
    firewall:
      policy: POLICY
      allow:
        - {from: lan, to: dmz, protocol: tcp, port: [80, 8000-8010]}
        - {from: lan, to: dmz, protocol: udp, port: 53}
        - {from: lan, to: dmz, protocol: icmp}
guests:
  pc: {kind: namespace, nics: [{network: lan, address: 10.1.0.2/24}]}
  server: {kind: namespace, nics: [{network: dmz, address: 10.2.0.2/24}]}
"""
PC, SERVER = "10.1.0.2", "10.2.0.2"
TIMED_OUT, REFUSED, FINE = 28, 7, 0
"""Exit statuses of curl."""

ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", int(sys.argv[1])))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(2048)
    s.sendto(data, peer)
"""
ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.5)
s.connect((sys.argv[1], int(sys.argv[2])))
s.send(b"hello")
try:
    print(s.recv(100).decode())
except OSError as error:
    print(type(error).__name__, error.errno)
"""


def echo(where: NamespaceGuest, port: int):
    return program(where, sys.executable, "-c", ECHO, str(port), ready="ready")


async def ask(where: NamespaceGuest, address: str, port: int) -> str:
    return (await run(where, sys.executable, "-c", ASK, address, str(port))).strip()


async def curl(where: NamespaceGuest, url: str, status: int) -> None:
    await run(where, "curl", "-sS", "-o", "/dev/null", "--connect-timeout", "1", url, status=status)


@pytest.mark.trio
@pytest.mark.parametrize("policy", ["drop", "reject", "accept"])
async def test_what_the_rules_say_is_what_programs_see(policy: str, tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(bytes(200_000))
    otherwise = {"drop": TIMED_OUT, "reject": REFUSED, "accept": FINE}[policy]
    async with live(LAB.replace("POLICY", policy)) as lab:
        pc, server, fw = guest(lab, "pc"), guest(lab, "server"), lab.routers["fw"]
        async with (
            web_server(server, tmp_path), web_server(server, tmp_path, 81), web_server(server, tmp_path, 8005),
            web_server(pc, tmp_path), echo(server, 53), echo(server, 54),
        ):  # fmt: skip
            for port, status in ((80, FINE), (8005, FINE), (81, otherwise)):
                await curl(pc, f"http://{SERVER}:{port}/page", status)
            await curl(server, f"http://{PC}/page", otherwise)
            assert await ask(pc, SERVER, 53) == "hello"
            # ICMP "administratively prohibited" reaches the program as "no route to host" (113)
            assert await ask(pc, SERVER, 54) == {"drop": "TimeoutError None", "reject": "OSError 113"}.get(policy, "hello")
        await run(pc, "ping", "-c", "2", "-i", "0.01", "-w", "10", SERVER)
        said = await run(server, "ping", "-c", "1", "-W", "0.5", PC, status=0 if policy == "accept" else 1)
        assert ("From 10.2.0.1 icmp_seq=1 Packet filtered" in said) == (policy == "reject"), said
        # the router itself is nobody's guest: it answers to both
        await run(server, "ping", "-c", "1", "-W", "5", "10.2.0.1")

        counters = fw.rule_counters()
        assert {name: counters[name] for name in ("rule 1", "rule 2", "rule 3")} == {"rule 1": 2, "rule 2": 1, "rule 3": 1}
        assert counters["policy"] >= 4
        assert set(fw.drops) == (set() if policy == "accept" else {"policy"})
        refused = {
            (event.fields["protocol"], event.fields["destination"]) for event in lab.events if event.kind == "refused"
        }
        expected = {("tcp", f"{SERVER}:81"), ("tcp", f"{PC}:80"), ("udp", f"{SERVER}:54"), ("icmp", PC)}
        assert refused == (set() if policy == "accept" else expected)
        for port in (80, 81):  # nobody serves there any more, so whoever is asked refuses
            matrix = await lab.reachability("tcp", port, timeout=1)
            assert matrix.pairs == {
                pair for pair in matrix.reached if policy == "accept" or (pair[0] == "pc" and port == 80)
            }
            assert matrix.unexpected == ()


SHORT = SITE.replace(
    "      outside: internet\n", "      outside: internet\n      timeouts: {udp: 1s, tcp_established: 1s, icmp: 1s}\n"
)


def udp_socket(where: NamespaceGuest, address: tuple[str, int]) -> trio.socket.SocketType:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(address)
        return made

    return trio.socket.from_stdlib_socket(opened(where, make))


def forgotten(lab: vnet.Lab, protocol: str) -> bool:
    router = lab.routers["perimeter"]
    assert router.nat_table() or not router.flows()
    return not [each for each in router.nat_table() if each.protocol == protocol]


@pytest.mark.trio
async def test_an_idle_udp_mapping_is_forgotten() -> None:
    async with live(SHORT) as lab:
        with udp_socket(guest(lab, "pc"), ("", 4000)) as client, udp_socket(guest(lab, "www"), ("", 5000)) as server:
            await client.sendto(b"first", (WWW, 5000))
            data, mapped = await server.recvfrom(100)
            assert (data, mapped[0]) == (b"first", EXTERNAL)
            await server.sendto(b"reply", mapped)
            assert await client.recv(100) == b"reply"

            await until(lambda: forgotten(lab, "udp"), "the mapping ends after a second of silence")
            await server.sendto(b"too late", mapped)
            await until(lambda: lab.routers["perimeter"].drops == {"unsolicited": 1}, "what comes late is dropped")

            await client.sendto(b"second", (WWW, 5000))
            data, mapped = await server.recvfrom(100)
            await server.sendto(b"reply again", mapped)
            assert await client.recv(100) == b"reply again", "and nothing before it"


@pytest.mark.trio
async def test_an_idle_tcp_connection_is_forgotten() -> None:
    async with live(SHORT) as lab:
        listener = trio.socket.from_stdlib_socket(opened(guest(lab, "www"), lambda: socket.create_server(("", 5000))))
        client = trio.socket.from_stdlib_socket(opened(guest(lab, "pc"), socket.socket))
        drops = lab.routers["perimeter"].drops
        with listener, client:
            await client.connect((WWW, 5000))
            server, _ = await listener.accept()
            with server:
                await client.send(b"hello")
                assert await server.recv(100) == b"hello"
                assert [flow.state for flow in lab.routers["perimeter"].flows()] == ["established"]
                await until(lambda: forgotten(lab, "tcp"), "the mapping ends after a second of silence")
                await client.send(b"is anybody there")
                await until(lambda: drops.get("no-connection", 0) > 0, "a segment of no connection is dropped")
                await server.send(b"too late")
                await until(lambda: drops.get("unsolicited", 0) > 0, "from outside too")
