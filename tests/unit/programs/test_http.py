"""The web server, by its answers over the loopback of this machine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from vnet.programs.http import serve
from vnet.programs.http_files import Found, find, parse_range

HOST = "127.0.0.1"
SECRET = "outside"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a secret beside it, and ways to it."""
    base = tmp_path_factory.mktemp("web")
    (base / "secret.txt").write_text(SECRET)
    (base / "www-private").mkdir()
    (base / "www-private" / "secret.txt").write_text(SECRET)
    www = base / "www"
    (www / "sub" / "deep").mkdir(parents=True)
    (www / "with index").mkdir()
    (www / "index.html").write_text("<p>home")
    (www / "with index" / "index.html").write_text("<p>inner")
    (www / "ten.txt").write_text("0123456789")
    (www / "a&b.txt").write_text("odd")
    (www / "sub" / "a:b<c>.bin").write_bytes(bytes(range(256)))
    (www / "large.bin").write_bytes(b"x" * 300_000)
    (www / "empty").write_bytes(b"")
    (www / "within").symlink_to("ten.txt")
    (www / "out.txt").symlink_to("../secret.txt")
    (www / "out").symlink_to("..")
    (www / "absolute").symlink_to("/etc")
    (www / "circle").symlink_to("circle")
    (www / "sub" / "deep" / "index.html").symlink_to("../../../secret.txt")
    os.mkfifo(www / "pipe")
    return www


class Answer:
    """A response."""

    def __init__(self, response: h11.Response, body: bytes) -> None:
        self.status = response.status_code
        self.headers = {name.decode(): value.decode() for name, value in response.headers}
        self.body = body


class Client:
    """A connection of an h11 client."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def ask(self, target: str, method: str = "GET", body: bytes = b"", **fields: str) -> Answer:
        if self.http.our_state is h11.DONE:
            self.http.start_next_cycle()
        headers = [("Host", "web"), *((name.replace("_", "-"), value) for name, value in fields.items())]
        if body:
            headers.append(("Content-Length", str(len(body))))
        await self.stream.send_all(self.http.send(h11.Request(method=method, target=target, headers=headers)))
        if body:
            await self.stream.send_all(self.http.send(h11.Data(data=body)))
        await self.stream.send_all(self.http.send(h11.EndOfMessage()))
        response, data = None, b""
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(await self.stream.receive_some(65536))
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                data += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert response is not None
                return Answer(response, data)
            else:
                assert isinstance(event, h11.InformationalResponse), event


@asynccontextmanager
async def client(folder: Path) -> AsyncIterator[Client]:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(serve, folder, 0, host=HOST))
            async with await trio.open_tcp_stream(HOST, listener.socket.getsockname()[1]) as stream:
                yield Client(stream)
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_files_folders_and_listings_on_one_connection(folder: Path) -> None:
    async with client(folder) as web:
        home = await web.ask("/")
        assert (home.status, home.body, home.headers["content-type"]) == (200, b"<p>home", "text/html; charset=utf-8")
        assert (await web.ask("/with%20index/?q=1")).body == b"<p>inner"
        large = await web.ask("/large.bin")
        assert len(large.body) == 300_000 and large.headers["content-length"] == "300000"
        assert (await web.ask("/empty")).body == b""
        assert (await web.ask("/a%26b.txt")).body == b"odd"
        assert (await web.ask("/within")).body == b"0123456789"
        assert (await web.ask("http://web/ten.txt")).body == b"0123456789"
        listing = await web.ask("/sub/")
        assert b'<a href="./a%3Ab%3Cc%3E.bin">a:b&lt;c&gt;.bin</a>' in listing.body and b"./deep/" in listing.body
        assert (await web.ask("/sub/a%3Ab%3Cc%3E.bin")).body == bytes(range(256))
        moved = await web.ask("/sub")
        assert (moved.status, moved.headers["location"]) == (301, "/sub/")
        assert (await web.ask("//sub")).headers["location"] == "/sub/"


@pytest.mark.trio
async def test_head_tells_the_length_and_sends_nothing(folder: Path) -> None:
    async with client(folder) as web:
        for target, status, length in (("/ten.txt", 200, "10"), ("/none", 404, "14"), ("/", 200, "7")):
            answer = await web.ask(target, "HEAD")
            assert (answer.status, answer.headers["content-length"], answer.body) == (status, length, b"")


@pytest.mark.trio
async def test_ranges(folder: Path) -> None:
    async with client(folder) as web:
        for field, status, body, described in (
            ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
            ("bytes=7-", 206, b"789", "bytes 7-9/10"),
            ("bytes=-2", 206, b"89", "bytes 8-9/10"),
            ("bytes=8-100", 206, b"89", "bytes 8-9/10"),
            ("bytes=10-", 416, None, "bytes */10"),
            ("bytes=-0", 416, None, "bytes */10"),
            ("bytes=4-2", 200, b"0123456789", None),
            ("bytes=0-1,4-5", 200, b"0123456789", None),
            ("lines=0-1", 200, b"0123456789", None),
        ):
            answer = await web.ask("/ten.txt", Range=field)
            assert (answer.status, answer.headers.get("content-range")) == (status, described), field
            assert body is None or answer.body == body
        assert (await web.ask("/ten.txt", Range="bytes=2-4", If_Range='"tag"')).status == 200


@pytest.mark.trio
async def test_other_methods_and_their_content(folder: Path) -> None:
    async with client(folder) as web:
        answer = await web.ask("/ten.txt", "POST", body=b"x" * 1000)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        assert (await web.ask("/ten.txt")).status == 200, "the connection is kept"
        assert (await web.ask("/ten.txt", "PUT", body=b"x" * 100_000)).status == 405
        assert await web.stream.receive_some() == b"", "but not after so much content"


ESCAPES = [
    "/../secret.txt", "/%2e%2e/secret.txt", "/sub/../../secret.txt", "/..%2fsecret.txt", "/%2e%2e%2fsecret.txt",
    "/sub/..%2f..%2fsecret.txt", "/out.txt", "/out/secret.txt", "/out/", "/absolute/passwd", "/circle", "/pipe",
    "/ten.txt/", "/ten.txt/x", "/%00", "/ten.txt%00", "/../www-private/secret.txt", "/" + "x" * 5000, "/%ff", "/./ten.txt",
    "/sub%2fdeep/", "/%2fetc/passwd", "//etc/passwd", "*", "http://web", "/%252e%252e/secret.txt",
]  # fmt: skip


@pytest.mark.trio
async def test_nothing_outside_the_folder_is_served(folder: Path) -> None:
    async with client(folder) as web:
        for target in ESCAPES:
            answer = await web.ask(target)
            assert SECRET.encode() not in answer.body and b"root:" not in answer.body, target
            assert answer.status == 404 or target == "http://web", target
        assert SECRET.encode() not in (await web.ask("/sub/deep/")).body


@given(
    st.lists(
        st.sampled_from(
            [
                "..",
                ".",
                "/",
                "%2e",
                "%2f",
                "%5c",
                "\\",
                "sub",
                "out",
                "www",
                "secret.txt",
                "%00",
                "deep",
                "?",
                "http://",
                "www-private",
            ]
        )
    )
)
def test_no_combination_gets_out(folder: Path, parts: list[str]) -> None:
    found = find(folder, ("/" + "".join(parts)).encode())
    if isinstance(found, Found):
        assert SECRET.encode() not in found.read(0, 1000)
        found.close()


@given(st.binary(), st.integers(0, 10**6))
def test_a_range_lies_within_the_file(field: bytes, length: int) -> None:
    for whole in (field, b"bytes=" + field):
        wanted = parse_range(whole, length)
        assert wanted is None or 0 <= wanted[0] <= wanted[1] <= length


@given(st.integers(0, 200), st.one_of(st.none(), st.integers(0, 200)), st.integers(0, 100))
def test_a_range_is_what_was_asked_for(first: int, last: int | None, length: int) -> None:
    wanted = parse_range(f"bytes={first}-{'' if last is None else last}".encode(), length)
    expected = range(length)[first : None if last is None else last + 1]
    if last is not None and last < first:
        assert wanted is None
    else:
        assert wanted is not None and list(range(*wanted)) == list(expected)


@pytest.mark.trio
@pytest.mark.parametrize(
    "request_", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /" + b"x" * 200_000, b"\0\xff" * 50]
)
async def test_nonsense_is_a_bad_request(folder: Path, request_: bytes) -> None:
    async with client(folder) as web:
        await web.stream.send_all(request_)
        await web.stream.send_eof()
        answer = b""
        while more := await web.stream.receive_some():
            answer += more
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))


@pytest.mark.trio
async def test_pipelined_requests_are_answered_in_order(folder: Path) -> None:
    async with client(folder) as web:
        one = b"GET /%s HTTP/1.1\r\nHost: web\r\n%s\r\n"
        await web.stream.send_all(one % (b"ten.txt", b"") + one % (b"", b"Connection: close\r\n"))
        answer = b""
        while more := await web.stream.receive_some():
            answer += more
        assert answer.count(b"HTTP/1.1 200") == 2 and answer.index(b"0123456789") < answer.index(b"<p>home")


@pytest.mark.trio
async def test_garbage_after_head_is_told_so_and_harms_nobody_else(folder: Path) -> None:
    async with client(folder) as web:
        assert (await web.ask("/ten.txt", "HEAD")).status == 200
        await web.stream.send_all(b"\0\1garbage\r\n\r\n")
        answer = b""
        while more := await web.stream.receive_some(65536):
            answer += more
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.endswith(b"\r\n\r\n400 Error\n")
        async with await trio.open_tcp_stream(*web.stream.socket.getpeername()) as another:
            assert (await Client(another).ask("/ten.txt")).body == b"0123456789"
