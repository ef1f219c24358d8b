"""Slow, silent and greedy clients take no thread, no place in the line, and little memory; over real sockets."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from label_studio_fakes import CountingMedia, DiscPool, key_point, payload, send, settings
from waiting import until
from waitress import wasyncore

from m2n2_backend.server.app import create_app
from m2n2_backend.server.receiving import Limits, Listener

BODY = 2_000_000
CLICK = json.dumps(payload(key_point())).encode()
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


class Web:
    """A listener whose loop runs in a thread."""

    def __init__(self, **limits: Any) -> None:
        app = create_app(settings(max_body_bytes=BODY), DiscPool(), CountingMedia())
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self._sockets: dict[int, Any] = {}
        self._stop = threading.Event()
        self.began = time.time() + 1
        self.listener = Listener(app, sock, Limits(BODY, **limits), threads=2, sockets=self._sockets)
        self.listener.next_channel_cleanup = math.inf  # time goes by as the tests say
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def _loop(self) -> None:
        while not self._stop.is_set():
            wasyncore.loop(timeout=0.5, use_poll=True, map=self._sockets, count=1)

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

    def predict(self, body: bytes) -> tuple[int, str]:
        return send(self.port, "POST", "/predict", body, Content_Type="application/json")[:2]

    def is_healthy(self) -> bool:
        return send(self.port, "GET", "/health")[0] == 200


@contextmanager
def web(**limits: Any) -> Iterator[Web]:
    served = Web(**limits)
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
            channel.last_activity += 30 if channel.request else 0
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


def test_several_requests_of_one_connection_are_answered_in_their_order() -> None:
    with (
        web() as served,
        served.opened(b"GET /versions HTTP/1.1\r\nHost: x\r\n\r\nGET /no HTTP/1.1\r\nHost: x\r\n\r\n") as client,
    ):
        received = b""
        while received.count(b"HTTP/1.1 ") < 2:
            part = client.recv(10_000)
            assert part
            received += part
        assert received.index(b"HTTP/1.1 200") < received.index(b"HTTP/1.1 404")
