"""Whatever takes octets or text from outside, beside the ports: capture files, filters, topologies, changes, commands."""

from __future__ import annotations

import contextlib
import os
import random

import pytest
from draws import Place
from frames import FrameSource
from hypothesis import given, settings
from hypothesis import strategies as st

import vnet
from vnet.cli.main import run
from vnet.errors import UsageError, WireError
from vnet.runtime.change import change
from vnet.runtime.filter import compile_filter
from vnet.topology import check_text, parse_topology
from vnet.wire import pcap, pcapng
from vnet.wire.describe import describe
from vnet.wire.segmentation import complete, frame_count, largest_frame, wire_octets

PLACE = Place([(bytes((2, 0, 0, 0, 0, n)), bytes((10, 0, 0, n))) for n in range(4)], [bytes((10, 0, 0, 255))], [1, 16])
WORDS = (
    "tcp", "udp", "icmp", "arp", "ip", "ip6", "vlan", "host", "port", "net", "ether", "src", "dst", "and", "or", "not", "(",
    ")", "!", "&&", "||", "80", "10.0.0.1", "10.0.0.0/8", "2001:db8::1", "ff:ff:ff:ff:ff:ff", "4096", "-1", "broadcast",
    "less", "greater", "999999999999", "\0", "é", "1.2.3.4.5", "/", "::/129",
)  # fmt: skip


def mutated(draw: random.Random, octets: bytes) -> bytes:
    work = bytearray(octets)
    for _ in range(draw.randrange(1, 6)):
        kind = draw.randrange(4)
        at = draw.randrange(len(work) + 1)
        if kind == 0 and at < len(work):
            work[at] = draw.randrange(256)
        elif kind == 1 and at + 4 <= len(work):
            work[at : at + 4] = draw.choice((b"\xff" * 4, bytes(4), b"\0\0\0\x80", draw.randbytes(4)))
        elif kind == 2:
            del work[at:]
        else:
            work[at:at] = draw.randbytes(draw.randrange(20))
    return bytes(work)


def test_mutated_capture_files():
    source = FrameSource(1, PLACE)
    draw = source.random
    frames = [(number * 1000, source.draw()[0]) for number in range(20)]
    direction = pcapng.Direction(0)
    files = [
        pcapng.write(["a", "b"], [(n % 2, instant, frame, direction) for n, (instant, frame) in enumerate(frames)]),
        pcap.write(frames),
    ]
    read = 0
    for _ in range(4_000):
        octets = mutated(draw, draw.choice(files))
        for reader in (pcapng.read, pcap.read):
            with contextlib.suppress(WireError):
                reader(octets)
                read += 1
        reader_in_pieces = pcapng.Reader()
        with contextlib.suppress(WireError):
            for at in range(0, len(octets), 500):
                reader_in_pieces.feed(octets[at : at + 500])
            reader_in_pieces.close()
    assert read > 100, "some mutations are harmless"


def test_every_frame_can_be_described_filtered_and_completed():
    source = FrameSource(2, PLACE)
    filters = [
        compile_filter(text) for text in ("tcp port 80", "not arp", "vlan 16 and udp", "host 10.0.0.1", "ip6", "icmp")
    ]
    for _ in range(20_000):
        frame, offload = source.draw()
        text = describe(frame)
        assert text and "\n" not in text
        for matches in filters:
            assert matches(frame) in (True, False)
        assert 0 <= largest_frame(frame, offload) <= max(len(frame), 1)
        assert frame_count(frame, offload) >= 1 and wire_octets(frame, offload) >= len(frame)
        with contextlib.suppress(WireError):
            assert complete(frame, offload)


@settings(deadline=None, max_examples=400)
@given(st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join) | st.text(max_size=200), st.binary(max_size=100))
def test_filters(text, frame):
    try:
        matches = compile_filter(text)
    except UsageError as error:
        assert "\n" not in str(error)
        return
    assert matches(frame) in (True, False)


@pytest.mark.parametrize("text", ["(" * 2000 + "tcp", "not " * 1000 + "tcp", " and ".join(["tcp"] * 500), "(" * 5000])
def test_filters_deep_and_long(text):
    with contextlib.suppress(UsageError):
        compile_filter(text)(bytes(60))


VALUES = st.recursive(
    st.text(max_size=5) | st.integers() | st.none() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300) | st.text(max_size=300) | VALUES.map(repr))
def test_topologies(text):
    resolved, problems = check_text(text)
    assert resolved is not None or problems
    for problem in problems:
        assert str(problem)


def test_mutated_topologies():
    draw = random.Random(3)
    text = b"""name: box
networks: {lan: {subnet: 10.0.0.0/24, vlan: 16, dhcp: {range: 10.0.0.16-10.0.0.99}}, wan: {subnet: 192.0.2.0/24}}
routers: {fw: {interfaces: {lan: 10.0.0.1/24, wan: 192.0.2.1/24}, nat: {outside: wan, inside: [lan]}}}
switches: {a: {}, b: {mtu: 9000}}
links: [{between: [a, b], trunk: all, native: 1, latency: 1ms, rate: 1gbit, loss: 0.1%}]
guests: {pc: {nics: [lan]}, srv: {switch: b, nics: [{network: lan, address: 10.0.0.5/24, mac: 02:00:00:00:00:01}]}}
"""
    good = 0
    for _ in range(1_500):
        resolved, problems = check_text(mutated(draw, text))
        assert resolved is not None or problems
        good += resolved is not None
    assert 10 < good < 1_400


TWO = parse_topology("name: two\nnetworks: {lan: {subnet: 10.0.0.0/24}}\nguests: {a: {nics: [lan]}, b: {nics: [lan]}}\n")
SETTINGS = ("adapter=loopback", "adapter={loopback: {}}", "loss=5%", "rate=1gbit", "latency=1ms", "queue=0", "down", "up")


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(max_size=20) | st.sampled_from(SETTINGS), max_size=4))
def test_live_changes(wanted):
    async def main() -> None:
        async with vnet.open_lab(TWO) as lab:
            for target in ("a", "a:eth0", "switch:1", "a,b", "network.lan", ""):
                with contextlib.suppress(UsageError):
                    await change(lab, target, wanted)

    vnet.simulate(main)


FILES = {
    "random": random.Random(4).randbytes(3000),
    "empty": b"",
    "deep": b"a: " + b"[" * 100_000,
    "nul": b"name: a\0b",
    "utf16": "name: x".encode("utf-16"),
    "bomb": b"b0: &b0 [x,x]\n" + b"".join(b"b%d: &b%d [*b%d,*b%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 99)),
    "recursive": b"name: x\nnetworks: &n\n  a: *n\n",
    "tag": b"name: !!python/object/apply:os.system [id]\n",
    "number": b"1e999",
    "tab": b"\tname: x",
    "two": b"name: x\n---\nname: y\n",
    "keys": b"? [a]\n: 1\n",
    "surrogate": b'name: "\\ud800"',
}


@pytest.mark.parametrize("command", ["check", "graph", "up --simulate", "up --emulate"])
def test_commands_on_what_is_no_topology(tmp_path, monkeypatch, capsys, command):
    """One or two lines that name the file, status 1 and no traceback, whatever the file is; and no waiting."""
    monkeypatch.setenv("VNET_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("VNET_DEBUG", raising=False)
    for name, octets in FILES.items():
        (tmp_path / name).write_bytes(octets)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in [*FILES, "fifo", "loop", "zero", "missing", ".", "x" * 5000]:
        status = run([*command.split()[:1], str(tmp_path / name), *command.split()[1:]])
        out, err = capsys.readouterr()
        text = out + err
        assert status == 1, (name, text)
        assert "internal error" not in text and "Traceback" not in text
        assert 0 < len(text.splitlines()) <= 8, text
