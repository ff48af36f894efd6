"""Clients that take their time, or all places, stop nobody else."""

import asyncio
import resource
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from plumbline.web import connections
from plumbline.web.connections import PatientProtocol, limit_connections

HEAD, BODY, STRANGERS_BODY, READ = 0.4, 2.4, 0.8, 0.5
PATIENCE = 5.0
LIMIT = 5
MUCH = 30_000_000


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the size of the body: late, with very much, or before it is there, where it is asked to."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        return
    request = Request(scope, receive)
    size = 0 if request.url.path == "/refused" else len(await request.body())
    if request.url.path == "/late":
        await asyncio.sleep(2 * HEAD)
    await PlainTextResponse("x" * MUCH if request.url.path == "/much" else str(size))(scope, receive, send)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    for name, value in (("HEAD_SECONDS", HEAD), ("BODY_SECONDS", BODY), ("READ_SECONDS", READ),
                        ("STRANGERS_BODY_SECONDS", STRANGERS_BODY)):
        monkeypatch.setattr(connections, name, value)
    monkeypatch.setattr(PatientProtocol, "limit", LIMIT)
    server = uvicorn.Server(uvicorn.Config(app, http=PatientProtocol, log_level="critical", lifespan="off"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join()


def closed_after(peer: socket.socket, drip: bytes = b"") -> float:
    """Seconds until the server hangs up, while we send a byte now and then."""
    started = time.monotonic()
    peer.settimeout(0.1)
    while time.monotonic() - started < PATIENCE:
        try:
            if drip:
                peer.sendall(drip)
            if peer.recv(1000) == b"":
                break
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            break
    return time.monotonic() - started


def ended(peer: socket.socket) -> bool:
    """Whether the server has hung up already, after an answer or without one."""
    peer.setblocking(False)
    try:
        while peer.recv(1000):
            continue
        return True
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def half_sent(place: tuple[str, int], path: str) -> socket.socket:
    """A connection that has sent a head and one byte of a thousand."""
    peer = socket.create_connection(place)
    peer.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\ny".encode())
    return peer


@pytest.mark.parametrize(("head", "drip", "seconds"), [
    (b"", b"", HEAD), (b"GET / HTTP/1.1\r\n", b"", HEAD), (b"GET / HTTP/1.1\r\nx: ", b"y", HEAD),
    (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n", b"", BODY),
    (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n", b"y", BODY),
    (b"POST /sign-in HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n", b"y", STRANGERS_BODY),
    (b"POST /sign-in%3Fx HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n", b"", STRANGERS_BODY),
    (b"POST /hooks/argilla HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n", b"y", STRANGERS_BODY),
    (b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HTTP/1.1\r\nx: ", b"y", HEAD)],
    ids=["nothing", "half a head", "head, drop by drop", "no body", "body, drop by drop", "sign-in",
         "sign-in by another spelling", "webhook", "the second request"])
def test_a_request_has_its_time(place: tuple[str, int], head: bytes, drip: bytes, seconds: float) -> None:
    with socket.create_connection(place) as peer:
        peer.sendall(head)
        assert seconds * 0.7 < closed_after(peer, drip) < seconds + 1.4


def test_an_answer_that_nobody_reads_has_its_time(place: tuple[str, int]) -> None:
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(place)
        peer.sendall(b"GET /much HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(2 * READ + 0.5)
        got = 0
        try:
            while piece := peer.recv(1_000_000):
                got += len(piece)
        except ConnectionResetError:
            pass
    assert got < MUCH


def test_an_answer_may_take_its_time(place: tuple[str, int]) -> None:
    assert httpx.get(f"http://127.0.0.1:{place[1]}/late").text == "0"
    assert len(httpx.get(f"http://127.0.0.1:{place[1]}/much").content) == MUCH
    with httpx.Client(base_url=f"http://127.0.0.1:{place[1]}") as client:
        assert [client.post("/", content=b"x" * size).text for size in (1, 0, 100_000)] == ["1", "0", "100000"]


def test_a_websocket_has_no_end(place: tuple[str, int]) -> None:
    with socket.create_connection(place) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                     b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        assert peer.recv(1000).startswith(b"HTTP/1.1 101")
        time.sleep(BODY + 0.5)
        assert not ended(peer)


def test_idle_connections_make_room(place: tuple[str, int]) -> None:
    idle = [socket.create_connection(place) for _ in range(20 * LIMIT)]
    try:
        assert httpx.get(f"http://127.0.0.1:{place[1]}/", timeout=HEAD / 2).status_code == 200
        still_open = [peer for peer in idle if not ended(peer)]
        assert len(still_open) < LIMIT, "those that came at the same moment too"
    finally:
        for peer in idle:
            peer.close()


@pytest.mark.parametrize("path", ["/sign-in", "/hooks/argilla", "/refused", "/"])
def test_half_sent_bodies_make_room(place: tuple[str, int], path: str) -> None:
    slow = [half_sent(place, path) for _ in range(LIMIT)]
    try:
        time.sleep(HEAD / 4)
        for _ in range(LIMIT):
            assert httpx.get(f"http://127.0.0.1:{place[1]}/", timeout=HEAD).status_code == 200
        assert ended(slow[0]), "the one that has waited longest"
    finally:
        for peer in slow:
            peer.close()


def test_newcomers_do_not_end_each_other_where_strangers_hold_the_other_places(place: tuple[str, int]) -> None:
    slow = [half_sent(place, "/sign-in") for _ in range(LIMIT)]
    time.sleep(HEAD / 4)
    newcomers = [socket.create_connection(place) for _ in range(LIMIT)]
    try:
        time.sleep(HEAD / 4)
        assert [ended(peer) for peer in slow + newcomers] == [True] * LIMIT + [False] * LIMIT
    finally:
        for peer in slow + newcomers:
            peer.close()


@pytest.mark.parametrize("path", ["", "/sign-in", "/refused"], ids=["idle", "sign-in", "refused"])
def test_those_who_have_proven_nothing_make_room_first(place: tuple[str, int], path: str) -> None:
    with half_sent(place, "/") as first:
        time.sleep(HEAD / 4)
        strangers = [half_sent(place, path) if path else socket.create_connection(place) for _ in range(3 * LIMIT)]
        time.sleep(HEAD / 4)
        assert not ended(first)
        first.setblocking(True)
        first.sendall(b"y" * 999)
        assert first.recv(1000).startswith(b"HTTP/1.1 200")
        for peer in strangers:
            peer.close()


def test_who_has_asked_stays(place: tuple[str, int]) -> None:
    answers: list[str] = []
    late = threading.Thread(target=lambda: answers.append(httpx.get(f"http://127.0.0.1:{place[1]}/late").text))
    late.start()
    time.sleep(HEAD / 2)
    idle = [socket.create_connection(place) for _ in range(3 * LIMIT)]
    late.join()
    for peer in idle:
        peer.close()
    assert answers == ["0"]


def test_there_are_descriptors_enough() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        limit_connections()
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert allowed == min(before[1], connections.ENOUGH_FILES)
        assert PatientProtocol.limit <= allowed - connections.OTHER_FILES
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
