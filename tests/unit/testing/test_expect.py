"""Expectations over traffic: when they hold, when they fail, what they say, and what a canary proves."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import pytest
import trio

import vnet
from vnet.errors import UsageError
from vnet.runtime.lab import Lab
from vnet.testing import expect, never
from vnet.units import MILLISECOND

LAN = vnet.parse_topology("""
name: lan
networks: {lan: {vlan: 10, subnet: 10.0.0.0/24}, other: {vlan: 20, subnet: 10.0.1.0/24}}
switches: {left: {}, right: {}}
links: [{between: [left, right], trunk: all, latency: 5ms}]
guests:
  a: {switch: left, nics: [{network: lan, address: 10.0.0.1/24}]}
  b: {switch: right, nics: [{network: lan, address: 10.0.0.2/24}]}
  c: {switch: right, nics: [{network: other, address: 10.0.1.3/24}]}
""")


def run(body: Callable[[Lab], Awaitable[None]], seed: int = 0) -> Lab:
    async def main() -> Lab:
        async with vnet.open_lab(LAN) as lab:
            await body(lab)
            assert not lab.captures.running, "nothing watches on"
            return lab

    return vnet.simulate(main, seed=seed)


def fails(text: str):
    return pytest.raises(AssertionError, match=text)


def test_a_frame_that_passes_is_enough() -> None:
    async def body(lab: Lab) -> None:
        async with expect(lab, "icmp and host 10.0.0.2", "b").within("1s"):
            await lab.ping("a", "b")
        async with expect(lab, "icmp"):
            await lab.ping("a", "b")

    run(body)


def test_it_is_waited_for_and_no_longer_than_needed() -> None:
    async def body(lab: Lab) -> None:
        def ping() -> None:
            lab.guests["a"].host.ping(lab.resolve("b").packed, on_result=lambda result: None)

        async with expect(lab, "arp", "b:eth0").within("1h"):
            lab.at("30s", ping)
        assert 30 < lab.now < 31

    run(body)


def test_frames_that_differ_in_counters_only_are_counted_where_the_first_is_shown() -> None:
    async def body(lab: Lab) -> None:
        with pytest.raises(AssertionError) as caught:
            async with expect(lab, "port 99", "b"):
                await lab.ping("a", "b", count=213)
                async with trio.open_nursery() as nursery:
                    await nursery.start(lab.guests["b"].serve_tcp, discard, 7)
                    async with await lab.guests["a"].open_tcp_stream("b", 7) as stream:
                        for _ in range(30):
                            await stream.send_all(bytes(2000))
                            await trio.sleep(1)
                    nursery.cancel_scope.cancel()
        first, *lines = str(caught.value).splitlines()
        assert first.endswith("what passed there instead:") and len(lines) < 20, "none is hidden"
        requests = [line for line in lines if "ICMP echo request" in line]
        (data,) = [line for line in lines if "TCP [P.]" in line]
        assert len(requests) == 1 and "seq 1, " in requests[0]
        until = re.search(r" \(x 213, until ([0-9.]+)\)$", requests[0])
        assert until is not None and float(until[1]) > float(requests[0].split()[0])
        assert " length 552 (x 30, until " in data
        assert sum("TCP [S" in line for line in lines) == 2, "no two of these are alike"

    run(body)


async def discard(stream: trio.abc.Stream) -> None:
    while await stream.receive_some():
        pass


def test_a_frame_too_late_is_none() -> None:
    async def body(lab: Lab) -> None:
        with fails(r"expected 'icmp' at b within 1s; it came after 5\.0"):
            async with expect(lab, "icmp", "b").within(1):
                await trio.sleep(5)
                await lab.ping("a", "b")
        before = lab.now
        with fails("within 1s"):
            async with expect(lab, "udp", "b").within(1):
                pass
        assert lab.now == pytest.approx(before + 1)

    run(body)


def test_the_failure_shows_what_was_seen_instead() -> None:
    async def body(lab: Lab) -> None:
        with pytest.raises(AssertionError) as caught:
            async with expect(lab, "udp", "b"):
                await lab.ping("a", "b")
        first, *lines = str(caught.value).splitlines()
        assert first == "expected 'udp' at b in the block, saw none; what passed there instead:"
        assert len(lines) == 4 and all(re.match(r"  \d+\.\d{9} b:eth0 (in |out) ", line) for line in lines)
        assert "ARP" in lines[0] and "ICMP echo request" in lines[2] and " out " in lines[3]
        with fails("nothing else passed there"):
            async with expect(lab, "udp", "c"):
                await lab.ping("a", "b")

    run(body)


def test_never_holds_and_fails() -> None:
    async def body(lab: Lab) -> None:
        async with never(lab, "net 10.0.0.0/24", "c"):
            await lab.ping("a", "b")
        with fails(r"never 'icmp' at b, but there passed 2:\n.*echo request.*\n.*echo reply"):
            async with never(lab, "icmp", "b"):
                await lab.ping("a", "b")

    run(body)


def test_a_partition_is_one_that_a_canary_passes() -> None:
    async def body(lab: Lab) -> None:
        with lab.faults.partition("a", "b"):
            async with never(lab, "src host 10.0.0.1", "b"):
                assert not (await lab.ping("a", "b")).ok

    run(body)


def test_never_watches_on_after_the_block() -> None:
    async def body(lab: Lab) -> None:
        lab.links["left", "right"].latency = 800 * MILLISECOND
        socket = await lab.guests["a"].open_udp_socket()
        async with never(lab, "udp", "b").within("100ms"):
            await socket.send_to(b"slow", ("10.0.0.2", 9))
        await trio.sleep(10)
        with fails("but there passed 1"):
            async with never(lab, "udp", "b").within("5s"):
                await socket.send_to(b"slow", ("10.0.0.2", 9))

    run(body)


@pytest.mark.parametrize(("spoil", "text"), [
    (lambda lab: setattr(lab.links["b:eth0"], "up", False), "no canary came into b:eth0: the link b:eth0 is down"),
    (lambda lab: lab.faults.isolate("b"), "no canary came into b:eth0"),
])  # fmt: skip
def test_never_needs_a_way_for_a_canary_at_both_ends_of_the_block(spoil: Callable[[Lab], object], text: str) -> None:
    async def body(lab: Lab) -> None:
        with fails("at the end " + text):
            async with never(lab, "icmp", "b"):
                spoil(lab)
        with fails("at the start " + text):
            async with never(lab, "icmp", "b"):
                raise AssertionError("the block does not run")
        async with never(lab, "icmp", "b", canaries=False):
            pass

    run(body)


def test_a_canary_comes_through_loss_and_latency() -> None:
    async def body(lab: Lab) -> None:
        lab.links["b:eth0"].loss = 0.8
        lab.links["b:eth0"].latency = 3 * MILLISECOND
        async with never(lab, "icmp", "b", "left:right"):
            pass

    run(body)


def test_a_canary_comes_through_delay_variation_and_corruption() -> None:
    async def body(lab: Lab) -> None:
        link = lab.links["b:eth0"]
        link.corruption, link.delay_variation, link.duplication = 0.95, 5000 * MILLISECOND, 0.5
        async with never(lab, "icmp", "b"):
            pass
        assert link.forward.altered["corrupted"] + link.backward.altered["corrupted"] > 5

    run(body)


def test_a_canary_waits_in_a_queue_like_any_frame() -> None:
    async def body(lab: Lab) -> None:
        lab.links["a:eth0"].rate = 8_000
        socket = await lab.guests["a"].open_udp_socket()
        await lab.ping("a", "b")
        for _ in range(12):
            await socket.send_to(bytes(1000), ("10.0.0.2", 9))
        before = lab.now
        async with never(lab, "tcp", "a"):
            pass
        assert lab.now > before + 10

    run(body)


def test_canaries_disturb_nobody() -> None:
    async def body(lab: Lab) -> None:
        async with never(lab, "tcp"), never(lab, "stp or multicast"):
            pass
        assert not [entry for switch in lab.switches.values() for entry in switch.fdb]
        async with expect(lab, "icmp", "b"), never(lab, "udp"):
            await lab.ping("a", "b")

    assert run(body).events.to_lines() == run(body).events.to_lines()


def test_errors_of_the_block_come_out_as_they_are() -> None:
    async def body(lab: Lab) -> None:
        for watch in (expect(lab, "icmp").within(1), never(lab, "icmp")):
            with pytest.raises(ZeroDivisionError):
                async with watch:
                    raise ZeroDivisionError

    run(body)


def test_wrong_filters_and_ports_are_told() -> None:
    async def body(lab: Lab) -> None:
        with pytest.raises(UsageError):
            expect(lab, "icpm")
        for watch in (expect, never):
            with pytest.raises(UsageError, match="no port"):
                async with watch(lab, "icmp", "d"):
                    pass

    run(body)


def test_what_an_earlier_block_saw_does_not_count() -> None:
    async def body(lab: Lab) -> None:
        wanted = expect(lab, "icmp", "a").within(3)
        unwanted = never(lab, "icmp", "a").within(3)
        async with wanted:
            await lab.ping("a", "b")
        with fails("saw none; nothing else passed there"):
            async with wanted:
                pass
        with fails("but there passed"):
            async with unwanted:
                await lab.ping("a", "b")
        async with unwanted:
            pass
        async with wanted:
            with pytest.raises(UsageError, match="has a block already"):
                await wanted.__aenter__()
            await lab.ping("a", "b")

    run(body)
