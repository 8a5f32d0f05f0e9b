"""trio's own checks of streams, over the sockets of emulated guests in virtual time."""

from __future__ import annotations

import pytest
import trio
from socket_bed import IPV4, IPV6, Guests
from trio.testing import check_half_closeable_stream

from vnet.runtime.clock import simulate

PLACES = ["fake", "guests"]


@pytest.mark.parametrize("family", [IPV4, IPV6])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("seed", [1, 2])
def test_streams_are_what_trio_wants_of_them(place, seed, family):
    async def main():
        guests = Guests(fake=place == "fake", family=family)
        await guests.settle()

        async def make():
            async with guests.b.activate():
                (listener,) = await trio.open_tcp_listeners(0, host=guests.server_address)
            async with listener:
                port = listener.socket.getsockname()[1]
                client = await guests.a.open_tcp_stream("b", port)
                return client, await listener.accept()

        async def make_clogged():
            client, server = await make()
            for stream in (client, server):
                progressed = True
                while progressed:  # a writer is not woken for a little room, which a new one takes
                    progressed = False
                    with trio.move_on_after(120):
                        while await stream.socket.send(bytes(65536)):
                            progressed = True
            return client, server

        await check_half_closeable_stream(make, make_clogged)

    simulate(main, seed=seed)
