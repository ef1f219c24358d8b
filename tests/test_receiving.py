"""Slow, silent and greedy clients take no thread, no place in the line, and little memory; over real sockets."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from label_studio_fakes import CountingMedia, DiscPool, key_point, payload, send, settings
from waiting import until
from waitress import wasyncore

from m2n2_backend.server import app as app_module
from m2n2_backend.server.access import wants_body
from m2n2_backend.server.app import create_app
from m2n2_backend.server.receiving import Limits, Listener
from m2n2_backend.server.web_worker import WebWorker
from m2n2_backend.worker.pool import Answer

BODY = 2_000_000
AUTHORIZATION = "Basic " + base64.b64encode(b"anna:secret").decode()
CLICK = json.dumps(payload(key_point())).encode()
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


class HeldPool(DiscPool):
    """Answers once a gate is open."""

    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self.gate = gate

    def segment(self, *arguments: Any, **named: Any) -> Answer:
        assert self.gate.wait(60)
        return super().segment(*arguments, **named)


class Web:
    """A listener whose loop runs in a thread, with a model that can be held back."""

    def __init__(self, password: str | None = None, **limits: Any) -> None:
        access: dict[str, Any] = {}
        if password is not None:
            access = {"basic_auth_user": "anna", "basic_auth_password": password}
            limits["wants_body"] = partial(wants_body, expected=("anna", password))
        self.gate = threading.Event()
        self.gate.set()
        pool = HeldPool(self.gate)
        app = create_app(settings(max_body_bytes=BODY, **access), pool, CountingMedia())
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self._sockets: dict[int, Any] = {}
        self._stop = threading.Event()
        self.began = time.monotonic() + 1
        self.listener = Listener(app, sock, Limits(BODY, **limits), threads=2, sockets=self._sockets)
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def _loop(self) -> None:
        worker = WebWorker.__new__(WebWorker)  # its loop alone, without gunicorn's process around it
        worker.notify = lambda: None
        while not self._stop.is_set():
            worker._turn(self._sockets, [self.listener])

    @property
    def channels(self) -> list[Any]:
        return list(self.listener.active_channels.values())

    def close(self) -> None:
        self._stop.set()
        self.listener.pull_trigger()
        self._thread.join()
        self.listener.task_dispatcher.shutdown()
        wasyncore.close_all(self._sockets)

    def opened(self, *sent: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        for part in sent:
            connection.sendall(part)
        return connection

    def predict(self, body: bytes, **headers: str) -> tuple[int, str]:
        return send(self.port, "POST", "/predict", body, Content_Type="application/json", **headers)[:2]

    def is_healthy(self) -> bool:
        return send(self.port, "GET", "/health")[0] == 200


@contextmanager
def web(password: str | None = None, **limits: Any) -> Iterator[Web]:
    served = Web(password, **limits)
    try:
        yield served
    finally:
        served.close()


@pytest.fixture
def served() -> Iterator[Web]:
    with web() as served:
        yield served


def is_closed(connection: socket.socket) -> bool:
    """Waits until something happens."""
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /hea", POST + b"Content-Length: 9\r\n\r\n{", POST + b"Transfer-Encoding: chunked\r\n\r\n9\r\n{"],
)
def test_clients_that_never_finish_their_request_keep_nobody_waiting(sent: bytes) -> None:
    with web() as served, contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(served.opened(sent))
        assert served.is_healthy()
        assert served.predict(CLICK)[0] == 200


def passed(served: Web, begin: int, end: int) -> None:
    """Seconds go by."""
    for second in range(begin, end):
        served.listener.maintenance(served.began + second)
    served.listener.pull_trigger()


def test_a_request_has_one_time_limit_however_steadily_it_drips_in() -> None:
    with web() as served, served.opened(POST) as slow, served.opened() as silent:
        until(lambda: len(served.channels) == 2 and any(channel.request for channel in served.channels))
        passed(served, 0, 14)
        assert not any(channel.will_close for channel in served.channels)
        # What arrives just now does not count, but that the request began long ago.
        for channel in served.channels:
            channel.active += 30 if channel.request else 0
        passed(served, 14, 30)
        assert is_closed(slow)
        assert is_closed(silent)
        assert served.is_healthy()


def test_time_in_which_the_server_itself_stood_still_is_not_the_clients(served: Web) -> None:
    with served.opened(POST) as slow:
        until(lambda: any(channel.request for channel in served.channels))
        passed(served, 0, 10)
        passed(served, 60, 64)
        assert not any(channel.will_close for channel in served.channels)
        passed(served, 64, 80)
        assert is_closed(slow)


def test_of_too_many_connections_those_that_wait_longest_are_closed() -> None:
    with web(connections=5) as served, contextlib.ExitStack() as stack:
        first, *_ = [stack.enter_context(served.opened()) for _ in range(5)]
        for _ in range(30):
            stack.enter_context(served.opened())
            assert served.is_healthy()
        assert is_closed(first)
        assert len(served.listener.active_channels) <= 6


@pytest.mark.parametrize("framing", [b"Content-Length: %d\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n%x\r\n"])
def test_a_body_over_the_limit_is_told_so_once_it_was_sent_and_is_not_kept(framing: bytes) -> None:
    with web() as served, served.opened(POST, framing % (4 * BODY)) as client:
        for _ in range(4):
            client.sendall(bytes(BODY))
        (channel,) = served.channels
        until(lambda: channel.request is None or channel.request.refused)
        assert channel.request is None or len(channel.request.body_rcv) == 0
        client.sendall(b"\r\n0\r\n\r\n" if b"chunked" in framing else b"")
        assert client.recv(200).startswith(b"HTTP/1.1 413 the request is larger than 2000000 bytes")


def test_only_so_many_large_bodies_come_in_at_a_time_and_clicks_go_on() -> None:
    large = CLICK + b" " * 200_000
    with web(large=100_000, large_at_once=1) as served:
        with served.opened(POST, b"Content-Length: 200000\r\n\r\n", bytes(10)):
            until(lambda: any(channel.request for channel in served.channels))
            assert served.predict(large) == (503, "busy with other large requests: try again in a moment")
            assert served.predict(CLICK)[0] == 200
        # The place of a client that hung up is free again, soon, and that of an answered request.
        for _ in range(3):
            until(lambda: served.predict(large)[0] == 200)


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def received(connection: socket.socket, answers: int | None = None) -> bytes:
    """All that comes until the connection is closed, or so many answers are there."""
    data = b""
    while answers is None or data.count(b"HTTP/1.1 ") < answers:
        try:
            part = connection.recv(10_000)
        except ConnectionResetError:
            break
        if not part:
            break
        data += part
    return data


def test_three_requests_of_one_connection_are_answered_in_their_order(served: Web) -> None:
    with served.opened(get("/versions") + get("/no") + get("/health", "Connection: close")) as client:
        answers = received(client)
    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]
    assert answers.index(b'"versions"') < answers.index(b"404") < answers.index(b'"UP"')


def test_a_connection_on_which_more_requests_wait_is_closed_and_they_are_not_answered(served: Web) -> None:
    with served.opened(get("/openapi.json") * 100) as client:
        assert received(client).count(b"HTTP/1.1 ") <= 3
    assert served.is_healthy()


def test_the_document_of_the_routes_is_made_once(served: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(app_module, "openapi", lambda version: made.append(version) or {})
    for _ in range(3):
        assert send(served.port, "GET", "/openapi.json")[2] == b"{}"
    assert len(made) == 1


def test_health_is_answered_while_every_thread_waits_for_the_model() -> None:
    with web(is_quick=("/health",).__contains__) as served, ThreadPoolExecutor(4) as others:
        served.gate.clear()
        waiting = [others.submit(served.predict, CLICK) for _ in range(4)]
        until(lambda: sum(bool(channel.requests) for channel in served.channels) == 4)
        assert served.is_healthy()
        served.gate.set()
        assert {one.result()[0] for one in waiting} == {200}


HALF_SENT = [
    POST + b"Content-Length: 200000\r\n\r\n{",
    POST + b"Transfer-Encoding: chunked\r\n\r\n30000\r\n" + bytes(0x30000),
    POST.replace(b"/predict", b"/webhook") + b"Content-Length: 200000\r\n\r\n{",
    POST.replace(b"/predict", b"/no") + b"Content-Length: 200000\r\n\r\n{",
    POST + b"Authorization: Basic YW5uYTp3cm9uZw==\r\nContent-Length: 200000\r\n\r\n{",
]


@pytest.mark.parametrize("sent", HALF_SENT)
def test_bodies_of_strangers_take_no_place_from_those_who_may_send_some(sent: bytes) -> None:
    with web("secret", large=100_000, large_at_once=1) as served, contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(served.opened(sent))
        until(lambda: sum(channel.request is not None for channel in served.channels) == 3)
        large = CLICK + b" " * 200_000
        assert served.predict(large, Authorization=AUTHORIZATION)[0] == 200
        assert all(channel.request.body_rcv.buf.__len__() == 0 for channel in served.channels if channel.request)
        status, phrase = served.predict(large)
        assert (status, phrase[:33]) == (401, "wrong or missing user name and pa")


def test_a_stranger_who_asks_before_sending_a_body_is_refused_at_once() -> None:
    with (
        web("secret") as served,
        served.opened(POST + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n") as client,
    ):
        answer = received(client)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"100 Continue" not in answer


def test_a_large_body_that_comes_in_slowly_gives_its_place_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    large = CLICK + b" " * 200_000
    with (
        web(large=100_000, large_at_once=1) as served,
        served.opened(POST, b"Content-Length: 200000\r\n\r\n{") as slow,
    ):
        until(lambda: any(channel.request for channel in served.channels))
        assert served.predict(large)[0] == 503
        for channel in served.channels:
            if channel.request:
                channel.request._began -= 3.0
        assert served.predict(large)[0] == 200
        slow.sendall(bytes(199_999))
        assert received(slow, 1).startswith(b"HTTP/1.1 503 the request came in slowly")


@pytest.mark.parametrize(
    "headers",
    [
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 3\r\nContent-Length: 30\r\n",
        b"Content-Length: 3\r\nContent-Length: 3\r\n",
        b"Transfer-Encoding: identity, chunked\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: 3\r\n Transfer-Encoding: chunked\r\n",
    ],
)
def test_a_request_whose_end_can_be_read_in_two_ways_is_refused_and_the_connection_closed(
    served: Web, headers: bytes
) -> None:
    inner = get("/openapi.json")
    with served.opened(POST + headers + b"\r\n0\r\n\r\n" + inner) as client:
        answer = received(client)
    assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 501")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_request_of_http_1_0_has_no_chunks(served: Web) -> None:
    with served.opened(POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n") as client:
        assert b" 400 " in received(client)[:20]


@pytest.mark.parametrize(
    "path", ["/webhook", "//webhook", "/%77ebhook", "http://elsewhere/webhook", "/webhook?a=/predict"]
)
def test_every_spelling_of_the_webhook_needs_no_password(path: str) -> None:
    with web("secret") as served, served.opened(get(path, "Connection: close").replace(b"GET", b"POST")) as client:
        assert received(client).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "path",
    [
        "/webhook/",
        "/WEBHOOK",
        "/x/../webhook",
        "/webhook%2f",
        "/%2fwebhook/..",
        "/webhook/../health",
        "/setup;/webhook",
    ],
)
def test_nothing_else_is_as_open_as_the_webhook(path: str) -> None:
    with web("secret") as served, served.opened(get(path, "Connection: close").replace(b"GET", b"POST")) as client:
        assert received(client).startswith(b"HTTP/1.1 401 ")


def test_slow_requests_are_closed_although_the_clock_of_the_machine_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with web(seconds=0.5) as served, served.opened(POST) as slow:
        until(lambda: any(channel.request for channel in served.channels))
        at = time.time()
        monkeypatch.setattr(time, "time", lambda: at - 3600.0)
        assert is_closed(slow)
