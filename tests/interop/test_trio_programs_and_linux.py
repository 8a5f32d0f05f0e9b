"""Programs for trio on an emulated guest and real ones in a namespace: httpx and Python's web server, curl and trio."""

from __future__ import annotations

import hashlib

import httpx
import pytest
import trio
from live_labs import guest, live, needs, run, web_server

pytestmark = [*needs("curl"), pytest.mark.trio]

TOPOLOGY = """
name: NAME
networks:
  inside: {vlan: 10, subnet: 10.77.0.0/24}
  outside: {vlan: 20, subnet: 10.78.0.0/24}
routers:
  gate: {interfaces: {inside: 10.77.0.254/24, outside: 10.78.0.254/24}}
switches: {core: {}, edge: {}}
links: [{between: [core, edge], trunk: all}]
guests:
  emulated: {switch: edge, nics: [{network: inside, address: 10.77.0.1/24}]}
  linux: {switch: core, kind: namespace, nics: [{network: outside, address: 10.78.0.2/24}]}
"""


async def test_httpx_on_a_guest_fetches_from_linux(tmp_path):
    content = bytes(range(251)) * 40_000
    (tmp_path / "large").write_bytes(content)

    async def fetch():
        async with httpx.AsyncClient(verify=False, trust_env=False) as client:
            found = await client.get("http://linux/large")
            missing = await client.get("http://linux/none")
            with pytest.raises(httpx.ConnectError):
                await client.get("http://linux:81/")
        return found.content, missing.status_code

    async with live(TOPOLOGY) as lab, web_server(guest(lab, "linux"), tmp_path) as server:
        received, status = await lab.guests["emulated"].run(fetch)
        assert hashlib.sha256(received).digest() == hashlib.sha256(content).digest() and status == 404
        assert {line.split()[0] for line in server.lines if "GET" in line} == {"10.77.0.1"}


async def test_curl_fetches_from_a_program_on_a_guest():
    content = "0123456789" * 300_000
    seen = []

    async def serve(stream):
        request = await stream.receive_some()
        seen.append((request.split()[1], stream.socket.getpeername()[0]))
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        await stream.send_all((head + content).encode())
        await stream.aclose()

    async with live(TOPOLOGY) as lab, trio.open_nursery() as nursery:
        await nursery.start(lab.guests["emulated"].serve_tcp, serve, 80)
        assert await run(guest(lab, "linux"), "curl", "-sS", "--max-time", "30", "http://10.77.0.1/path") == content
        assert seen == [(b"/path", "10.78.0.2")]
        refused = await run(guest(lab, "linux"), "curl", "-sS", "--max-time", "5", "http://10.77.0.1:81/", status=7)
        assert "refused" in refused.lower() or "connect" in refused.lower()
        nursery.cancel_scope.cancel()
