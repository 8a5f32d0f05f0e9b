"""curl of Linux, in a namespace, against the web server of an emulated guest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import trio
from live_labs import guest, live, needs

pytestmark = needs("curl")

LAB = """
name: NAME
networks: {lan: {subnet: 10.1.0.0/24}}
guests:
  web: {nics: [{network: lan, address: 10.1.0.1/24}], run: [{http: {folder: "FOLDER"}}]}
  linux: {kind: namespace, nics: [{network: lan, address: 10.1.0.2/24}]}
"""


@pytest.mark.trio
async def test_curl_is_content(tmp_path: Path) -> None:
    data = b"".join(hashlib.sha256(bytes((index % 256, index // 256))).digest() for index in range(60_000))
    (tmp_path / "large.bin").write_bytes(data)
    (tmp_path / "index.html").write_text("<p>hello")
    with trio.fail_after(60):
        async with live(LAB.replace("FOLDER", str(tmp_path))) as lab:
            linux = guest(lab, "linux")

            async def curl(*words: str) -> bytes:
                done = await linux.exec("curl", "-sS", "--path-as-is", *words)
                assert done.status == 0, done.errors
                return done.output

            assert await curl("http://10.1.0.1/large.bin") == data
            assert await curl("-r", "1000000-1000099", "http://10.1.0.1/large.bin") == data[1_000_000:1_000_100]
            assert await curl("http://10.1.0.1/", "http://10.1.0.1/", "-w", "%{num_connects},") == b"<p>hello1,<p>hello0,"
            assert b"Content-Length: 1920000" in (await curl("-I", "http://10.1.0.1/large.bin")).replace(
                b"content-l", b"Content-L"
            )
            code = ("-o", "/dev/null", "-w", "%{http_code}")
            assert await curl(*code, "http://10.1.0.1/../etc/passwd") == b"404"
            assert await curl(*code, "-d", "x=1", "http://10.1.0.1/") == b"405"
