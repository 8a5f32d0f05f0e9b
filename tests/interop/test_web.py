"""A large file from a web server to curl: through a trunk, two routers and NAT, and back in through a port forward."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from live_labs import EXTERNAL, PC, SITE, WEB, WWW, guest, live, needs, run, web_server

from vnet.guests.namespace import NamespaceGuest

pytestmark = needs("curl", "sha256sum")

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """100 MB that no compression and no repetition makes easier."""
    file = tmp_path_factory.mktemp("www") / "large"
    noise = random.Random(7)
    with file.open("wb") as out:
        for _ in range(100):
            out.write(noise.randbytes(MEGABYTE))
    yield file
    file.unlink()


def digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def digests_in(directory: Path) -> dict[str, str]:
    return {file.name: digest_of(file) for file in directory.iterdir()}


async def fetch(where: NamespaceGuest, url: str, report: Callable[[str, object], None]) -> str:
    """Fetch with curl and return the digest of what came; note how fast it was, for people."""
    speed = "%{stderr}%{http_code} %{size_download} %{speed_download}"
    said = await run(where, "sh", "-c", f"curl -sS --max-time 50 -w '{speed}' {url} | sha256sum")
    digest, _, code, size, rate = said.split()
    assert (code, size) == ("200", str(100 * MEGABYTE)), said
    report("MB/s", round(float(rate) / MEGABYTE))
    return digest


@pytest.mark.trio
async def test_100_mb_through_trunk_and_nat(large: Path, record_property: Callable[[str, object], None]) -> None:
    expected = digest_of(large)
    async with live(SITE) as lab:
        pc, www = guest(lab, "pc"), guest(lab, "www")
        async with web_server(www, large.parent) as server:
            assert await fetch(pc, f"http://{WWW}/large", record_property) == expected
        asked = [line.split()[0] for line in server.lines if "GET" in line]
        assert asked == [EXTERNAL], "the server sees the address of the NAT and no other"
        trunk = next(port for port in lab.switches["edge"].ports.values() if port.name == "core")
        lab.switches["edge"].fold()
        assert trunk.rx_octets > 100 * MEGABYTE, "it all came over the trunk"
        assert not lab.routers["perimeter"].drops and not lab.routers["inner"].drops
        (mapping,) = [each for each in lab.routers["perimeter"].nat_table() if each.protocol == "tcp"]
        assert mapping.inside.startswith(f"{PC}:") and mapping.outside.startswith(f"{EXTERNAL}:")


@pytest.mark.trio
async def test_100_mb_in_through_a_port_forward(large: Path, record_property: Callable[[str, object], None]) -> None:
    expected = digest_of(large)
    async with live(SITE) as lab:
        async with web_server(guest(lab, "pc"), large.parent) as server:
            assert await fetch(guest(lab, "www"), f"http://{EXTERNAL}:8080/large", record_property) == expected
            # from inside by the outside address: hairpinning, which the server must see as coming from the NAT
            said = await run(guest(lab, "web"), "curl", "-sS", "-I", "--max-time", "10", f"http://{EXTERNAL}:8080/large")
            assert "200 OK" in said
        assert [line.split()[0] for line in server.lines if "GET" in line] == [WWW]
        assert [line.split()[0] for line in server.lines if "HEAD" in line] == [EXTERNAL]
        assert not lab.routers["perimeter"].drops


@pytest.mark.trio
async def test_100_mb_through_a_plain_router_keep_their_source(
    large: Path, record_property: Callable[[str, object], None]
) -> None:
    expected = digest_of(large)
    async with live(SITE) as lab:
        async with web_server(guest(lab, "web"), large.parent) as server:
            assert await fetch(guest(lab, "pc"), f"http://{WEB}/large", record_property) == expected
        assert [line.split()[0] for line in server.lines if "GET" in line] == [PC]
        assert not lab.routers["inner"].drops


@pytest.mark.trio
async def test_many_at_once(tmp_path: Path) -> None:
    """16 connections at a time to two servers, one behind NAT: each gets its own octets."""
    for number in range(8):
        (tmp_path / f"part{number}").write_bytes(random.Random(number).randbytes(MEGABYTE))
    async with (
        live(SITE) as lab,
        web_server(guest(lab, "www"), tmp_path),
        web_server(guest(lab, "web"), tmp_path),
        trio.open_nursery() as nursery,
    ):
        for address in (WWW, WEB):
            urls = [f"http://{address}/part[0-7]", "-o", f"{tmp_path}/{address}-part#1"]
            nursery.start_soon(run, guest(lab, "pc"), "curl", "-sS", "-Z", "--max-time", "50", *urls)
    got = digests_in(tmp_path)
    assert {name: digest for name, digest in got.items() if "-" in name} == {
        f"{address}-part{n}": got[f"part{n}"] for address in (WWW, WEB) for n in range(8)
    }
