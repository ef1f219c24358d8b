"""Slow, silent and greedy clients take no thread, no place in the line, and little memory; over real sockets."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from listening import BODY, CLICK, POST, Web, is_closed, web
from waiting import until


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


def test_a_request_has_one_time_limit_however_steadily_it_drips_in() -> None:
    with web() as served, served.opened(POST) as slow, served.opened() as silent:
        until(lambda: len(served.channels) == 2 and any(channel.request for channel in served.channels))
        served.go_by(0, 14)
        assert not any(channel.will_close for channel in served.channels)
        # What arrives just now does not count, but that the request began long ago.
        for channel in served.channels:
            channel.active += 30 if channel.request else 0
        served.go_by(14, 30)
        assert is_closed(slow)
        assert is_closed(silent)
        assert served.is_healthy()


def test_time_in_which_the_server_itself_stood_still_is_not_the_clients(served: Web) -> None:
    with served.opened(POST) as slow:
        until(lambda: any(channel.request for channel in served.channels))
        served.go_by(0, 10)
        served.go_by(60, 64)
        assert not any(channel.will_close for channel in served.channels)
        served.go_by(64, 80)
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
        with served.opened(POST, b"Content-Length: 200000\r\n\r\n", bytes(150_000)):
            until(
                lambda: any(
                    channel.request and channel.request.body_bytes_received == 150_000 for channel in served.channels
                )
            )
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


def test_health_is_answered_while_every_thread_waits_for_the_model(served: Web) -> None:
    served.pool.gate.clear()
    with ThreadPoolExecutor(4) as others:
        waiting = [others.submit(served.predict, CLICK) for _ in range(4)]
        until(lambda: sum(bool(channel.requests) for channel in served.channels) == 4)
        assert served.is_healthy()
        served.pool.gate.set()
        assert {one.result()[0] for one in waiting} == {200}


def test_what_waits_for_nothing_has_few_threads_and_keeps_no_click_waiting() -> None:
    with web() as served, contextlib.ExitStack() as stack:
        served.go_on.clear()
        clients = [
            stack.enter_context(served.opened(b"GET /versions HTTP/1.1\r\nHost: x\r\n\r\n")) for _ in range(20)
        ]
        until(lambda: sum(bool(channel.requests) for channel in served.channels) == 20)
        assert served.predict(CLICK)[0] == 200
        assert served.is_healthy()
        assert served.asked <= 4 + 2
        served.go_on.set()
        assert all(client.recv(100).startswith(b"HTTP/1.1 200") for client in clients)
