"""Files to be downloaded, and somebody without any right who does that by a lab of their own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import Machine
from somebody import as_somebody

_PROGRAM = """
import hashlib, os, sys
import httpx, trio, vnet
async def main():
    async with vnet.open_lab(sys.argv[1]) as lab:
        await lab.wait_up()
        digest = hashlib.sha256()
        with trio.fail_after(15):
            while lab.guests["phone"].address is None:  # it asks for a router when its own address is known to be free
                await trio.sleep(0.05)
        async with lab.guests["phone"].activate():
            async with httpx.AsyncClient(timeout=60) as client, client.stream("GET", sys.argv[2]) as answer:
                async for piece in answer.aiter_raw(1 << 18):
                    digest.update(piece)
        status = [line for line in open("/proc/self/status") if line.startswith(("CapEff", "Uid"))]
        print(digest.hexdigest(), os.getuid(), *status)
trio.run(main)
"""


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download_without_any_right(host: Machine, lab: str, url: str) -> str:
    """Have nobody run a lab whose guest ``phone`` downloads; check that it was nobody, and return the digest."""
    with tempfile.TemporaryDirectory() as name:
        open_to_all = Path(name)
        open_to_all.chmod(0o777)
        file = open_to_all / "online.yaml"
        file.write_text(f"name: {host.name}\n{lab}")
        environment = ["env", f"VNET_RUN_DIR={open_to_all / 'run'}", f"HOME={name}"]
        command = host.argv(*as_somebody(open_to_all, *environment, sys.executable, "-c", _PROGRAM, str(file), url))
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    digest, owner, *words = done.stdout.split()
    assert owner == "65534" and set(words[words.index("CapEff:") + 1]) == {"0"}
    return digest
