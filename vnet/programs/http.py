"""A web server for the files of a folder: HTTP/1.1 (RFC 9110, RFC 9112) on h11, GET and HEAD, keep-alive, one range.

It sends no Date and no Last-Modified: a guest has no calendar (RFC 9110, 6.6.1), and the same lab gives the same octets.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias, final

import h11
import trio

from vnet.programs.connections import bounded
from vnet.programs.http_files import Found, Moved, find, parse_range

DEFAULT_PORT: Final = 80
IDLE_TIMEOUT: Final = 60.0
"""Seconds in which something has to come from the client, or be taken by it."""
LINGER: Final = 5.0
"""Seconds in which the client may end after us."""
MAX_CONNECTIONS: Final = 1024
"""Connections at a time; further ones are closed at once."""
MAX_BODY: Final = 64 * 1024
"""Octets of a request's content that are read past, to keep the connection; with more of it the connection ends."""
_BLOCK: Final = 64 * 1024

Headers: TypeAlias = list[tuple[str, str]]


async def serve(
    folder: Path,
    port: int = DEFAULT_PORT,
    *,
    host: str | None = None,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a folder's files until cancelled; raise OSError if the port is taken."""

    async def handle(stream: trio.SocketStream) -> None:
        with suppress(h11.LocalProtocolError):  # a fault of ours, which must end no other connection
            await _Connection(stream, folder).run()

    await trio.serve_tcp(bounded(handle, MAX_CONNECTIONS), port, host=host, task_status=task_status)


@final
class _Connection:
    def __init__(self, stream: trio.SocketStream, folder: Path) -> None:
        self._stream = stream
        self._folder = folder
        self._http = h11.Connection(h11.SERVER)
        self._is_head = False

    async def run(self) -> None:
        """Answer one request after the other until one side wants to end."""
        http = self._http
        try:
            while True:
                event = await self._next_event()
                if not isinstance(event, h11.Request):
                    return
                await self._answer(event)
                await self._skip_content()
                if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                    break
                http.start_next_cycle()
                self._is_head = False
        except h11.RemoteProtocolError as error:
            if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await self._say(error.error_status_hint, [("Connection", "close")])
        await self._end()

    async def _end(self) -> None:
        """Close our half first: closing both with octets unread resets what the client has yet to read (RFC 9112, 9.6)."""
        await self._stream.send_eof()
        octets = 0
        with trio.move_on_after(LINGER):
            while octets < MAX_BODY and (data := await self._stream.receive_some(_BLOCK)):
                octets += len(data)

    async def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            with trio.fail_after(IDLE_TIMEOUT):
                self._http.receive_data(await self._stream.receive_some(_BLOCK))

    async def _skip_content(self) -> None:
        """Read past what the request has for content, if it is not much and the client does not wait to be asked for it."""
        octets = 0
        while self._http.their_state is h11.SEND_BODY and not self._http.they_are_waiting_for_100_continue:
            event = await self._next_event()
            if isinstance(event, h11.Data):
                octets += len(event.data)
                if octets > MAX_BODY:
                    return

    async def _answer(self, request: h11.Request) -> None:
        self._is_head = request.method == b"HEAD"
        if request.method not in (b"GET", b"HEAD"):
            await self._say(405, [("Allow", "GET, HEAD")])
            return
        found = find(self._folder, request.target)
        if found is None:
            await self._say(404, [])
        elif isinstance(found, Moved):
            await self._say(301, [("Location", found.location)])
        else:
            try:
                await self._send_file(request, found)
            finally:
                found.close()

    async def _send_file(self, request: h11.Request, found: Found) -> None:
        fields = dict(request.headers)
        # we give no validators, so that no If-Range can be right (RFC 9110, 13.1.5), and Range is for GET only (14.2)
        wanted = None
        if b"range" in fields and b"if-range" not in fields and not self._is_head:
            wanted = parse_range(fields[b"range"], found.length)
        headers = [("Content-Type", found.media_type), ("Accept-Ranges", "bytes")]
        if wanted is None:
            status, (start, stop) = 200, (0, found.length)
        elif wanted[0] >= wanted[1]:
            await self._say(416, [("Content-Range", f"bytes */{found.length}")])
            return
        else:
            status, (start, stop) = 206, wanted
            headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{found.length}"))
        headers.append(("Content-Length", str(stop - start)))
        await self._send(h11.Response(status_code=status, headers=headers))
        while not self._is_head and start < stop:
            block = found.read(start, min(_BLOCK, stop - start))
            if not block:  # somebody cut the file off meanwhile: the length that was promised cannot be kept
                raise trio.BrokenResourceError
            await self._send(h11.Data(data=block))
            start += len(block)
        await self._send(h11.EndOfMessage())

    async def _say(self, status: int, headers: Headers) -> None:
        """Answer in a few words."""
        text = f"{status} {_REASONS.get(status, 'Error')}\n".encode()
        headers = [*headers, ("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))]
        await self._send(h11.Response(status_code=status, headers=headers))
        if not self._is_head:
            await self._send(h11.Data(data=text))
        await self._send(h11.EndOfMessage())

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            with trio.fail_after(IDLE_TIMEOUT):
                await self._stream.send_all(data)


_REASONS: Final = {301: "Moved Permanently", 404: "Not Found", 405: "Method Not Allowed", 416: "Range Not Satisfiable"}
