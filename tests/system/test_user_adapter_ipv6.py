"""IPv6 by the user adapter: a Linux guest that configures itself by what the adapter advertises, and real programs in it."""

from __future__ import annotations

import json
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
    MACHINE6,
    NARROW6,
    NARROW_MTU,
    NO_ROUTE6,
    NOBODY6,
    PROHIBITED6,
    SERVER6,
    SILENT6,
    attempts,
    outside,
    running,
)  # fmt: skip
from machine import Machine
from rig import needs
from waiting import wait_until

pytestmark = [pytest.mark.real, needs("curl", "dnsmasq", "dig", "traceroute", "ping", "nsenter", "setpriv")]

SIZE = 50 << 20
GATEWAY, ALIAS, PC = "fd00:2::1", "fd00:2::99", "fd00:2::5054:ff:fe00:5"
TOPOLOGY = f"""
name: NAME
networks:
  out:
    subnet: 10.0.2.0/24
    adapter:
      user:
        ipv6: "{GATEWAY}/64"
        forwards: [{{listen: "[{MACHINE6}]:8080", to: "[{PC}]:80"}}]
guests:
  pc: {{kind: namespace, nics: [{{network: out, ipv6: auto, mac: "52:54:00:00:00:05"}}], dns: ["{GATEWAY}"]}}
  phone: {{nics: [{{network: out, ipv6: auto}}]}}
"""
PATH_MTU = """
import socket, sys
IPV6_MTU = 24
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], 9))
sock.setsockopt(socket.IPPROTO_IPV6, 25, 1)  # IPV6_RECVERR
sock.send(bytes(1400))
sock.settimeout(5)
try:
    sock.recv(1)
except OSError as error:
    print(error.strerror, sock.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU))
"""
ASK_BY_TCP = """
import socket, sys
question = bytes(2) + b"\\1\\0\\0\\1" + bytes(6) + b"\\4long\\4test\\0\\0\\x10\\0\\1"
sock = socket.create_connection((sys.argv[1], 53), 5)
sock.sendall(len(question).to_bytes(2, "big") + question)
answer = b""
while len(answer) < 2000:
    answer += sock.recv(9999)
print(answer.count(b"a" * 200), answer.count(b"j" * 200))
"""


@pytest.fixture(autouse=True)
def there(host: Machine, tmp_path: Path) -> Iterator[list[str]]:
    """What a command line begins with that runs out there."""
    with outside(host, tmp_path) as prefix:
        yield prefix


def configured(host: Machine, lab: subprocess.Popen[str]) -> bool:
    addresses = json.loads(host.inside(lab, "pc", "ip", "-6", "-json", "address", "show", "dev", "eth0"))
    made = [each for each in addresses[0]["addr_info"] if each.get("local") == PC and not each.get("tentative")]
    return bool(made) and "default" in host.inside(lab, "pc", "ip", "-6", "route")


def up(host: Machine) -> subprocess.Popen[str]:
    lab = host.up(TOPOLOGY)
    wait_until(lambda: configured(host, lab), "address of the guest by an advertisement")
    return lab


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(SIZE))
    return path


def test_a_linux_guest_configures_itself_and_downloads(host: Machine, tmp_path: Path, large: Path) -> None:
    lab = up(host)
    routes = json.loads(host.inside(lab, "pc", "ip", "-6", "-json", "route"))
    (default,) = [each for each in routes if each["dst"] == "default"]
    assert default["gateway"].startswith("fe80::") and default["protocol"] == "ra"
    got = tmp_path / "got"
    host.inside(lab, "pc", "curl", "-sSf", "--max-time", "60", "-o", str(got), f"http://[{SERVER6}]/large", timeout=90)
    assert digest_of(got) == digest_of(large)
    (network,) = host.show(host.name, "networks")
    assert network["details"]["ipv6"] == f"{GATEWAY}/64"
    sent = host.inside(lab, "pc", "curl", "-sS", "--max-time", "9", "-X", "PUT", "-T", str(got), f"http://[{SERVER6}]/x")
    assert "501" in sent, "and answered where it cannot be put"


def test_a_guest_sees_what_the_machine_sees(host: Machine) -> None:
    """Refused, unreachable in three ways, and silent."""
    lab = up(host)
    expected = {
        (SERVER6, ECHO): "connected", (SERVER6, CLOSED): "ECONNREFUSED", (NOBODY6, 80): "EHOSTUNREACH",
        (NO_ROUTE6, 80): "ENETUNREACH", (PROHIBITED6, 80): "EACCES", (SILENT6, 80): "silence",
    }  # fmt: skip
    assert attempts(host, lab, expected) == list(expected.values())


def test_datagrams_echo_and_the_way_there(host: Machine) -> None:
    lab = up(host)
    assert host.inside(lab, "pc", sys.executable, "-c", ASK, SERVER6, str(ECHO)) == "4000\n"
    assert host.inside(lab, "pc", sys.executable, "-c", ASK, SERVER6, str(CLOSED)) == "ConnectionRefusedError\n"
    assert "3 received" in host.inside(lab, "pc", "ping", "-6", "-c", "3", "-i", "0.2", "-s", "3000", SERVER6)
    assert "2 received" in host.inside(lab, "pc", "ping", "-6", "-c", "2", "-i", "0.2", GATEWAY)
    way = host.inside(lab, "pc", "traceroute", "-6", "-n", "-w", "2", "-q", "1", "-m", "5", SERVER6).splitlines()[1:]
    assert [line.split()[1] for line in way] == [GATEWAY, SERVER6]
    assert host.vnet("ping", host.name, "phone", SERVER6).returncode == 0
    unreachable = host.inside(lab, "pc", "sh", "-c", f"ping -6 -c 1 -W 5 {NOBODY6} || true")
    assert "Address unreachable" in unreachable
    prohibited = host.inside(lab, "pc", "sh", "-c", f"ping -6 -c 1 -W 5 {PROHIBITED6} || true")
    assert f"From {SERVER6} icmp_seq=1 Destination unreachable: Administratively prohibited" in prohibited


def test_a_packet_too_big_for_the_way_is_told_to_the_guest(host: Machine) -> None:
    """Over IPv6 the sender alone makes packets smaller, so it must hear of it (RFC 8201)."""
    lab = up(host)
    assert host.inside(lab, "pc", sys.executable, "-c", PATH_MTU, f"{NARROW6}1") == f"Message too long {NARROW_MTU}\n"
    told = host.inside(lab, "pc", "sh", "-c", f"ping -6 -c 1 -W 5 -M do -s 1352 {NARROW6}2 || true")
    assert f"mtu={NARROW_MTU}" in told.replace(" ", "")


def test_names_by_the_resolver_of_the_machine(host: Machine, tmp_path: Path) -> None:
    """By dig, by the C library, and over TCP, all to the adapter's address; dnsmasq is the machine's resolver."""
    host.resolv_conf = tmp_path / "resolv.conf"
    host.resolv_conf.write_text("nameserver ::1\n")
    texts = [f"--txt-record=long.test,{letter * 200}" for letter in "abcdefghij"]
    dnsmasq = host.argv(
        "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root", "--pid-file",
        "--listen-address=::1", "--bind-interfaces", f"--address=/www.test/{SERVER6}", *texts,
    )  # fmt: skip
    (tmp_path / "hello").write_text("hello from outside")
    with running(*dnsmasq, ready=False):
        lab = up(host)
        dig = ("dig", "+short", "+tries=5", f"@{GATEWAY}", "www.test", "AAAA")
        assert host.inside(lab, "pc", *dig) == f"{SERVER6}\n"
        fetch = ("curl", "-sSf", "--max-time", "10", "--retry", "3", "--retry-all-errors", "http://www.test/hello")
        assert host.inside(lab, "pc", *fetch) == "hello from outside"
        assert host.inside(lab, "pc", sys.executable, "-c", ASK_BY_TCP, GATEWAY) == "1 1\n"
        link_local = json.loads(host.inside(lab, "pc", "ip", "-6", "-json", "route"))
        (router,) = [each["gateway"] for each in link_local if each["dst"] == "default"]
        assert host.inside(lab, "pc", "dig", "+short", f"@{router}%eth0", "www.test", "AAAA") == f"{SERVER6}\n"


def test_the_way_in_and_no_other(host: Machine, there: list[str], tmp_path: Path) -> None:
    lab = up(host)
    listening = host.run("ss", "-Hltun").stdout.split("\n")
    assert [line.split()[4] for line in listening if line] == [f"[{MACHINE6}]:8080"]
    (tmp_path / "hello").write_text("hello from inside")
    enter = ["nsenter", "--target", str(lab.pid), "--mount", "--net", "ip", "netns", "exec", f"{host.name}-pc"]
    curl = [*there, "curl", "-sS", "--max-time", "5"]
    with running(*enter, sys.executable, "-c", HTTP_SERVER, "::", str(tmp_path), "80"):
        fetch = [*curl, f"http://[{MACHINE6}]:8080/hello"]
        assert subprocess.run(fetch, capture_output=True, text=True, check=True).stdout == "hello from inside"
        host.vnet("set", host.name, "network.out", "forward=127.0.0.1:8081 pc:80")
        assert host.run("curl", "-sSf", "--max-time", "5", "http://127.0.0.1:8081/hello").stdout == "hello from inside"
        host.vnet("set", host.name, "network.out", f"unforward=[{MACHINE6}]:8080")
        assert subprocess.run(fetch, capture_output=True, check=False).returncode == 7


def test_the_machine_itself_is_out_of_reach(host: Machine, tmp_path: Path) -> None:
    """A server on all addresses of the machine: none leads guests there, unless an alias is stated."""
    (tmp_path / "secret").write_text("secret")
    with running(*host.argv(sys.executable, "-c", HTTP_SERVER, "::", str(tmp_path), "8000")):
        assert host.run("curl", "-sSf", f"http://[{MACHINE6}]:8000/secret").stdout == "secret", "it is there"
        lab = up(host)
        gateway = "fe80::" + json.loads(host.inside(lab, "pc", "ip", "-6", "-json", "route"))[-1]["gateway"][6:]
        host.inside(lab, "pc", "ip", "-6", "route", "add", "::/0", "via", gateway, "dev", "eth0", "metric", "1")
        for address in (MACHINE6, GATEWAY, "64:ff9b::7f00:1", "2002:7f00:1::1", "::ffff:0:7f00:1", f"{gateway}%25eth0"):
            attempt = f"curl -sS --max-time 3 'http://[{address}]:8000/secret' || echo no way"
            assert host.inside(lab, "pc", "sh", "-c", attempt) == "no way\n", address
        host.vnet("set", host.name, "network.out", f"adapter={{user: {{ipv6: '{GATEWAY}/64', host: '{ALIAS}'}}}}")
        fetch = ("curl", "-sSf", "--retry", "9", "--retry-delay", "1", "--retry-all-errors", f"http://[{ALIAS}]:8000/secret")
        assert host.inside(lab, "pc", *fetch) == "secret"


def test_a_download_by_a_user_without_any_right(host: Machine, large: Path) -> None:
    lab = (
        "networks: {out: {subnet: 10.0.2.0/24, adapter: {user: {ipv6: auto}}}}\n"
        "guests: {phone: {nics: [{network: out, ipv6: auto}]}}\n"
    )
    assert download_without_any_right(host, lab, f"http://[{SERVER6}]/{large.name}") == digest_of(large)


def test_a_guest_loses_its_router_with_the_adapter_and_takes_the_next(host: Machine, tmp_path: Path) -> None:
    lab = up(host)
    host.vnet("set", host.name, "network.out", "adapter=user")
    wait_until(lambda: "default" not in host.inside(lab, "pc", "ip", "-6", "route"), "end of the route", 5)
    assert f"{PC}/64 scope global deprecated" in host.inside(lab, "pc", "ip", "-6", "address")
    host.vnet("set", host.name, "network.out", "adapter={user: {ipv6: 'fd00:9::1/64'}}")
    fetch = ("curl", "-sSf", "--retry", "9", "--retry-delay", "1", "--retry-all-errors", f"http://[{SERVER6}]/there")
    (tmp_path / "there").write_text("by another prefix")
    assert host.inside(lab, "pc", *fetch) == "by another prefix"
