"""A namespace that stands for the internet of a machine, and the plain programs that serve and measure there."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from machine import Machine

SERVER, MACHINE = "203.0.113.80", "203.0.113.2"
HTTP, ECHO, CLOSED = 80, 7, 9
NOBODY = "203.0.113.99"
"""An address that nobody answers for."""
NO_ROUTE, PROHIBITED, SILENT = "198.51.100.1", "198.51.101.1", "198.51.102.1"
SERVER6, MACHINE6, NOBODY6 = "2001:db8:113::80", "2001:db8:113::2", "2001:db8:113::99"
NO_ROUTE6, PROHIBITED6, SILENT6 = "2001:db8:100::1", "2001:db8:101::1", "2001:db8:102::1"
NARROW6, NARROW_MTU = "2001:db8:130::", 1300
"""The prefix of addresses behind a link whose MTU is smaller than the way there has."""

ECHO_SERVER = """
import asyncio, sys
async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data); await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, peer): self.transport.sendto(data, peer)
async def main():
    server = await asyncio.start_server(echo, sys.argv[1], 7, backlog=4096)
    await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, (sys.argv[1], 7))
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
HTTP_SERVER = """
import http.server, socket, sys, os
os.chdir(sys.argv[2])
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer.address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[3])), Quiet)
print("ready", flush=True)
server.serve_forever()
"""

CONNECT = """
import errno, socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
sock.settimeout(5)
try:
    sock.connect((sys.argv[1], int(sys.argv[2])))
    print("connected")
except TimeoutError:
    print("silence")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
ASK = """
import socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(5)
sock.connect((sys.argv[1], int(sys.argv[2])))
sock.send(bytes(4000))
try:
    print(len(sock.recv(5000)))
except OSError as error:
    print(type(error).__name__)
"""


@contextmanager
def running(*command: str, ready: bool = True) -> Iterator[subprocess.Popen[str]]:
    """Run a program for the length of the block; it says "ready" when it is."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert not ready or process.stdout.readline().strip() == "ready"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def outside(host: Machine, directory: Path) -> Iterator[list[str]]:
    """Give *host* an internet with servers; yield how a command line there begins."""
    name = f"{host.name}o"
    there = ["ip", "netns", "exec", name]

    def run(*words: str) -> None:
        subprocess.run([*there, *words], check=True, capture_output=True)

    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "up0", "netns", name)
        host.run("ip", "address", "add", f"{MACHINE}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        run("ip", "link", "set", "lo", "up")
        run("ip", "address", "add", f"{SERVER}/24", "dev", "up0")
        run("ip", "link", "set", "up0", "up")
        host.run("ip", "route", "add", "default", "via", SERVER)
        host.run("ip", "address", "add", f"{MACHINE6}/64", "dev", "eth0", "nodad")
        run("ip", "address", "add", f"{SERVER6}/64", "dev", "up0", "nodad")
        host.run("ip", "route", "add", "default", "via", SERVER6)
        run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0")
        run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1", "net.ipv6.icmp.ratelimit=0")
        run("ip", "route", "add", "prohibit", f"{PROHIBITED6}/128")
        run("ip", "route", "add", "blackhole", f"{SILENT6}/128")
        run("ip", "link", "add", "narrow", "mtu", str(NARROW_MTU), "type", "veth", "peer", "name", "nowhere")
        run("ip", "link", "set", "narrow", "up")
        run("ip", "link", "set", "nowhere", "up")
        run("ip", "route", "add", f"{NARROW6}/64", "dev", "narrow")
        run("ip", "route", "add", "prohibit", f"{PROHIBITED}/32")
        run("ip", "route", "add", "blackhole", f"{SILENT}/32")
        host.run("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
        with contextlib.ExitStack() as stack:
            python = [*there, sys.executable, "-c"]
            stack.enter_context(running(*python, ECHO_SERVER, SERVER))
            stack.enter_context(running(*python, HTTP_SERVER, SERVER, str(directory), str(HTTP)))
            stack.enter_context(running(*python, ECHO_SERVER, SERVER6))
            stack.enter_context(running(*python, HTTP_SERVER, SERVER6, str(directory), str(HTTP)))
            yield there
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def attempts(host: Machine, lab: subprocess.Popen[str], places: Iterable[tuple[str, int]]) -> list[str]:
    """Connect to all places at once from the machine and from its guest pc; return what came of it, the same for both."""
    commands = [(sys.executable, "-c", CONNECT, address, str(port)) for address, port in places]
    with ThreadPoolExecutor(2 * len(commands)) as all_at_once:
        there = [all_at_once.submit(host.run, *command) for command in commands]
        inside = [all_at_once.submit(host.inside, lab, "pc", *command) for command in commands]
    seen = [attempt.result().stdout.strip() for attempt in there]
    assert seen == [attempt.result().strip() for attempt in inside]
    return seen
