"""The user adapter on a machine with an internet of its own: real programs in a real guest, and a user without any right."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from download import digest_of, download_without_any_right
from internet import (
    ASK,
    CLOSED,
    ECHO,
    HTTP_SERVER,
    MACHINE,
    NO_ROUTE,
    NOBODY,
    PROHIBITED,
    SERVER,
    SILENT,
    attempts,
    outside,
    running,
)  # fmt: skip
from machine import Machine
from rig import needs
from waiting import wait_until

pytestmark = [pytest.mark.real, needs("curl", "dnsmasq", "traceroute", "ping", "nsenter", "setpriv")]

SIZE = int(os.environ.get("VNET_DOWNLOAD_MB", "300")) << 20
TOPOLOGY = """
name: NAME
networks:
  out:
    subnet: 10.0.2.0/24
    dhcp: {}
    adapter:
      user: {forwards: [{listen: "203.0.113.2:8080", to: "10.0.2.5:80"}, {listen: "5300", to: "pc:53", protocol: udp}]}
guests:
  pc: {kind: namespace, nics: [{network: out, address: 10.0.2.5/24, gateway: 10.0.2.1}], dns: [10.0.2.1]}
  phone: {nics: [{network: out, address: 10.0.2.6/24, gateway: 10.0.2.1}]}
"""
ASK_BY_TCP = """
import socket
question = bytes(2) + b"\\1\\0\\0\\1" + bytes(6) + b"\\4long\\4test\\0\\0\\x10\\0\\1"
sock = socket.create_connection(("10.0.2.1", 53), 5)
sock.sendall(len(question).to_bytes(2, "big") + question)
answer = b""
while len(answer) < 2000:
    answer += sock.recv(9999)
print(answer.count(b"a" * 200), answer.count(b"j" * 200))
"""
EXIT_CODE = """
import subprocess, sys
print(subprocess.run(["curl", "-sS", "--max-time", "3", sys.argv[1]], capture_output=True).returncode)
"""
CROWD = """
import resource, selectors, socket, sys
count = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
socks = []
for number in range(count):
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex((sys.argv[1], 7))
    socks.append(sock)
for turn in range(2):
    for number, sock in enumerate(socks):
        sock.setblocking(True)
        sock.settimeout(20)
        sock.sendall(b"%d %d" % (turn, number))
    for number, sock in enumerate(socks):
        wanted = b"%d %d" % (turn, number)
        got = b""
        while len(got) < len(wanted):
            got += sock.recv(100)
        assert got == wanted
print("all answered", flush=True)
input()
"""


@pytest.fixture(autouse=True)
def there(host: Machine, tmp_path: Path) -> Iterator[list[str]]:
    """What a command line begins with that runs out there."""
    with outside(host, tmp_path) as prefix:
        yield prefix


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A file whose blocks differ, which does not outlive the test."""
    path = tmp_path / "large"
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(SIZE >> 20):
            file.write(number.to_bytes(8, "big") + block[8:])
    yield path
    path.unlink()


def test_a_large_download_by_curl_in_a_linux_guest(host: Machine, tmp_path: Path, large: Path) -> None:
    lab = host.up(TOPOLOGY)
    got = tmp_path / "got"
    host.inside(lab, "pc", "curl", "-sSf", "--max-time", "60", "-o", str(got), f"http://{SERVER}/large", timeout=90)
    assert digest_of(got) == digest_of(large)
    got.unlink()


def test_a_large_download_by_a_user_without_any_right(host: Machine, large: Path) -> None:
    lab = "networks: {out: {subnet: 10.0.2.0/24, dhcp: {}, adapter: user}}\nguests: {phone: {nics: [out]}}\n"
    assert download_without_any_right(host, lab, f"http://{SERVER}/{large.name}") == digest_of(large)


def test_a_guest_sees_what_the_machine_sees(host: Machine) -> None:
    """Refused, unreachable in three ways, and silent."""
    lab = host.up(TOPOLOGY)
    expected = {
        (SERVER, ECHO): "connected", (SERVER, CLOSED): "ECONNREFUSED", (NOBODY, 80): "EHOSTUNREACH",
        (NO_ROUTE, 80): "ENETUNREACH", (PROHIBITED, 80): "EHOSTUNREACH", (SILENT, 80): "silence",
    }  # fmt: skip
    assert attempts(host, lab, expected) == list(expected.values())


def test_two_thousand_connections_at_once(host: Machine) -> None:
    lab = host.up(TOPOLOGY)
    enter = ["nsenter", "--target", str(lab.pid), "--mount", "--net", "ip", "netns", "exec", f"{host.name}-pc"]
    crowd = subprocess.Popen(
        [*enter, sys.executable, "-c", CROWD, SERVER, "2000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == "all answered\n"
        (network,) = host.show(host.name, "networks")
        assert network["details"]["tcp"] == 2000
        assert crowd.communicate("\n", timeout=30) == ("", None) and crowd.returncode == 0
    finally:
        crowd.kill()
        crowd.wait()
    wait_until(lambda: len(os.listdir(f"/proc/{lab.pid}/fd")) < 100, "descriptors given back", 10)


def test_datagrams_echo_and_the_way_there(host: Machine) -> None:
    lab = host.up(TOPOLOGY)
    assert host.inside(lab, "pc", sys.executable, "-c", ASK, SERVER, str(ECHO)) == "4000\n"
    assert host.inside(lab, "pc", sys.executable, "-c", ASK, SERVER, str(CLOSED)) == "ConnectionRefusedError\n"
    assert "3 received" in host.inside(lab, "pc", "ping", "-c", "3", "-i", "0.2", "-s", "3000", SERVER)
    way = host.inside(lab, "pc", "traceroute", "-n", "-w", "2", "-q", "1", "-m", "5", SERVER).splitlines()[1:]
    assert [line.split()[1] for line in way] == ["10.0.2.1", SERVER]
    assert host.vnet("ping", host.name, "phone", SERVER).returncode == 0
    told = host.vnet("ping", host.name, "phone", NOBODY, check=False).stdout
    assert "0 received" in told


def test_a_quick_cut_and_the_machine_shares_its_way_out(host: Machine) -> None:
    """S9 with VS-36: cut off by none, the machine alone by loopback, and the internet through the machine by user."""
    host.up(TOPOLOGY)

    def reached(target: str) -> bool:
        return host.vnet("ping", host.name, "phone", target, check=False).returncode == 0

    machine_alone = "{loopback: {address: 10.0.2.1/24}}"
    for adapter, there, here in (("none", False, False), (machine_alone, False, True), ("user", True, False)):
        host.vnet("set", host.name, "network.out", f"adapter={adapter}")
        assert reached(SERVER) == there, adapter
        if adapter != "user":  # whose gateway has that address
            assert reached("10.0.2.1") == here, adapter
        assert reached("pc"), "guests reach each other all the time"


def test_names_by_the_resolver_of_the_machine(host: Machine, tmp_path: Path) -> None:
    """dnsmasq is the machine's resolver, which resolv.conf names; TCP too, for an answer that fits no datagram."""
    host.resolv_conf = tmp_path / "resolv.conf"
    host.resolv_conf.write_text("nameserver 127.0.0.1\n")
    texts = [f"--txt-record=long.test,{letter * 200}" for letter in "abcdefghij"]
    dnsmasq = host.argv(
        "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root",
        "--pid-file",
        "--listen-address=127.0.0.1", "--bind-interfaces", f"--address=/www.test/{SERVER}", *texts,
    )  # fmt: skip
    (tmp_path / "hello").write_text("hello from outside")
    with running(*dnsmasq, ready=False):
        lab = host.up(TOPOLOGY)
        fetch = ("curl", "-sSf", "--max-time", "10", "--retry", "3", "--retry-all-errors", "http://www.test/hello")
        assert host.inside(lab, "pc", *fetch) == "hello from outside"
        assert host.inside(lab, "pc", sys.executable, "-c", ASK_BY_TCP) == "1 1\n"


def test_the_way_in_and_no_other(host: Machine, there: list[str], tmp_path: Path) -> None:
    lab = host.up(TOPOLOGY)
    listening = host.run("ss", "-Hltun").stdout.split("\n")
    assert sorted(line.split()[4] for line in listening if line) == ["127.0.0.1:5300", "203.0.113.2:8080"]
    page = tmp_path / "page"
    page.mkdir()
    (page / "hello").write_text("hello from inside")
    enter = ["nsenter", "--target", str(lab.pid), "--mount", "--net", "ip", "netns", "exec", f"{host.name}-pc"]
    http = [*enter, sys.executable, "-m", "http.server", "80", "--directory", str(page)]
    curl = [*there, "curl", "-sS", "--max-time", "5"]
    with subprocess.Popen(http, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as serving:
        try:
            fetch = [*curl, "--retry", "20", "--retry-delay", "1", "--retry-all-errors", f"http://{MACHINE}:8080/hello"]
            assert subprocess.run(fetch, capture_output=True, text=True, check=True).stdout == "hello from inside"
            assert subprocess.run([*curl, f"http://{MACHINE}:80/hello"], capture_output=True, check=False).returncode == 7
            changed = "adapter={user: {forwards: [{listen: '203.0.113.2:8081', to: '10.0.2.5:80'}]}}"
            host.vnet("set", host.name, "network.out", changed)
            assert subprocess.run([*curl, f"http://{MACHINE}:8080/hello"], capture_output=True, check=False).returncode == 7
            again = subprocess.run([*curl, f"http://{MACHINE}:8081/hello"], capture_output=True, text=True, check=True)
            assert again.stdout == "hello from inside"
        finally:
            serving.kill()


def test_the_machine_itself_is_out_of_reach(host: Machine, tmp_path: Path) -> None:
    """A server on all addresses of the machine: none leads guests there, unless an alias is stated."""
    (tmp_path / "secret").write_text("secret")
    with running(*host.argv(sys.executable, "-c", HTTP_SERVER, "0.0.0.0", str(tmp_path), "8000")):
        lab = host.up(TOPOLOGY)
        enter = ["nsenter", "--target", str(lab.pid), "--mount", "--net", "ip", "netns", "exec", f"{host.name}-pc"]
        subprocess.run([*enter, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"], check=True)
        subprocess.run([*enter, "ip", "address", "del", "127.0.0.1/8", "dev", "lo"], check=True)
        subprocess.run([*enter, "ip", "route", "flush", "table", "local", "127.0.0.0/8"], check=False)
        for address in (MACHINE, "127.0.0.1", "10.0.2.1"):
            assert host.inside(lab, "pc", sys.executable, "-c", EXIT_CODE, f"http://{address}:8000/secret").strip() != "0"
        host.vnet("set", host.name, "network.out", "adapter={user: {host: 10.0.2.99}}")
        assert host.inside(lab, "pc", "curl", "-sSf", "--max-time", "5", "http://10.0.2.99:8000/secret") == "secret"


def test_a_killed_lab_leaves_nothing(host: Machine, tmp_path: Path) -> None:
    """The kernel takes the sockets; the file of a unix socket is swept by whoever comes next."""
    lab = host.up(TOPOLOGY)
    path = tmp_path / "web.sock"
    host.vnet("set", host.name, "network.out", f"forward={path} pc:80")
    assert path.exists()
    lab.kill()
    lab.wait()
    assert host.interfaces() == {"lo", "eth0"} and host.run("ss", "-Hltun").stdout == ""
    host.vnet("down", host.name)
    assert not path.exists()
