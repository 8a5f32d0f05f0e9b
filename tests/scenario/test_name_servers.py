"""Programs that look names up: where their servers come from, and what happens when these are slow, dead or gone."""

import contextlib

import pytest
import trio

import vnet
from vnet import NoAnswer, UnknownName, UsageError
from vnet.runtime.sinks import MemorySink
from vnet.runtime.views import guests as show_guests

OFFICE = """
name: office
networks:
  lan: {subnet: 10.0.0.0/24, dhcp: {dns: [10.0.0.9, 10.0.0.3], domain: office.example, lease: 1h}}
  out: {subnet: 192.0.2.0/24}
routers: {gate: {interfaces: {lan: 10.0.0.1/24, out: 192.0.2.1/24}}}
guests:
  one: {nics: [{network: lan, address: 10.0.0.9/24}], run: [{dns: {names: {www.example: 192.0.2.80, pc: 192.0.2.66}}}]}
  two:
    nics: [{network: lan, address: 10.0.0.3/24}]
    run: [{dns: {names: {www.example: 192.0.2.81, mail.office.example: [10.0.0.25, "2001:db8::25"]}}}]
  pc: {nics: [lan]}
  fixed: {nics: [{network: lan, address: 10.0.0.10/24}], dns: [10.0.0.3], search: [office.example]}
  web: {nics: [{network: out, address: 192.0.2.80/24}], run: [{http: {folder: .}}]}
  plain: {nics: [{network: out, address: 192.0.2.90/24}]}
"""


async def look_up(name):
    return [entry[4][0] for entry in await trio.socket.getaddrinfo(name, 80, type=trio.socket.SOCK_STREAM)]


async def seconds(guest, name):
    before = trio.current_time()
    found = await guest.run(look_up, name)
    return found, trio.current_time() - before


@pytest.mark.vnet(OFFICE)
async def test_the_lease_says_who_is_asked_and_in_which_domain(lab):
    pc = lab.guests["pc"]
    assert await pc.run(look_up, "www.example") == ["192.0.2.80"]
    assert await pc.run(look_up, "pc") == [str(pc.address)]  # the lab's names first
    with pytest.raises(UnknownName, match="10.0.0.9: NXDOMAIN for mail.office.example, 10.0.0.9: NXDOMAIN for mail"):
        await pc.resolve("mail")
    assert [str(each) for each in await lab.guests["fixed"].resolve("mail")] == ["10.0.0.25", "2001:db8::25"]
    with pytest.raises(UsageError):
        await lab.guests["plain"].resolve("www.example")
    rows = {row["name"]: row["dns"] for row in show_guests(lab)}
    assert rows["pc"] == ["10.0.0.9", "10.0.0.3"] and rows["fixed"] == ["10.0.0.3"] and rows["plain"] == []
    assert (await lab.ping("pc", "www.example")).ok
    with pytest.raises(UnknownName, match="NXDOMAIN for ww.example"):
        await lab.ping("pc", "ww.example")  # or a misspelt name would pass for a guest that is not reached
    with pytest.raises(UsageError):
        await lab.ping("plain", "www.example")
    async with pc.activate():
        assert await trio.socket.getnameinfo(("192.0.2.80", 80), 0) == ("web", "http")
        assert await trio.socket.getnameinfo(("192.0.2.1", 80), 0) == ("gate", "http")
        assert await trio.socket.getnameinfo(("192.0.2.66", 80), 0) == ("pc", "http")  # by its PTR record


@pytest.mark.vnet(OFFICE)
async def test_a_program_goes_through_a_router_to_a_name(lab):
    async with await lab.guests["pc"].open_tcp_stream("www.example", 80) as stream:
        await stream.send_all(b"HEAD / HTTP/1.0\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.")


@pytest.mark.vnet(OFFICE)
async def test_a_server_that_falls_silent_costs_five_seconds(lab):
    pc = lab.guests["pc"]
    assert (await seconds(pc, "www.example"))[1] < 0.01
    with lab.faults.isolate("one"):
        found, took = await seconds(pc, "www.example")
        assert found == ["192.0.2.81"] and took == pytest.approx(5, abs=0.01)
    assert (await seconds(pc, "www.example"))[0] == ["192.0.2.80"]


@pytest.mark.vnet(OFFICE)
async def test_a_server_that_is_not_there_costs_three_and_two_such_are_the_end(lab):
    pc = lab.guests["pc"]
    lab.faults.crash("one")
    found, took = await seconds(pc, "www.example")
    assert found == ["192.0.2.81"] and took == pytest.approx(3, abs=0.01)  # nobody answers for its address
    lab.faults.crash("two")
    before = lab.now
    with pytest.raises(NoAnswer, match=r"10.0.0.9: host unreachable for www.example, 2 times, 10.0.0.3: (no|host)"):
        await pc.resolve("www.example")
    assert 12 < lab.now - before <= 32.1  # twice each, and once more for www.example.office.example
    lab.faults.restart("one")
    assert (await seconds(pc, "www.example"))[0] == ["192.0.2.80"]


@pytest.mark.vnet(OFFICE)
async def test_a_slow_cable_is_felt_in_each_lookup(lab):
    assert (await seconds(lab.guests["pc"], "www.example"))[1] < 0.01
    lab.links["one:eth0"].latency = 2_000_000_000
    for _ in range(2):  # nothing is kept
        found, took = await seconds(lab.guests["pc"], "www.example")
        assert found == ["192.0.2.80"] and took == pytest.approx(4, abs=0.01)
    lab.links["one:eth0"].latency = 3_000_000_000
    found, took = await seconds(lab.guests["pc"], "www.example")
    assert found == ["192.0.2.81"] and took == pytest.approx(5, abs=0.01)


@pytest.mark.vnet(OFFICE)
async def test_without_a_lease_there_are_no_servers(lab):
    pc = lab.guests["pc"]
    lab.faults.isolate("lan:dhcp")
    await trio.sleep(3700)
    assert pc.address is None
    with pytest.raises(UsageError):
        await pc.resolve("www.example")


def test_one_seed_gives_one_and_the_same_capture():
    async def main():
        sink = MemorySink()
        async with vnet.open_lab(vnet.parse_topology(OFFICE)) as lab:
            await lab.wait_up()
            lab.captures.start(sink)
            lab.links["one:eth0"].loss = 0.5
            for name in ("www.example", "none.example", "mail", "pc"):
                with contextlib.suppress(trio.socket.gaierror):
                    await lab.guests["pc"].run(look_up, name)
        return sink.octets()

    first, again, other = (vnet.simulate(main, seed=seed) for seed in (1, 1, 2))
    assert first == again != other and len(first) > 1000
