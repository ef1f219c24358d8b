"""Without credentials nobody takes a place, and no request is read in two ways; over real sockets."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from label_studio_fakes import send
from listening import AUTHORIZATION, BODY, CLICK, POST, Web, answer, is_closed, web
from waiting import until

LARGE = CLICK + b" " * 1_500_000
ASK = b"GET /versions HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def guarded() -> Iterator[Web]:
    with web(guarded=True) as served:
        yield served


def test_a_client_that_sends_hundreds_of_requests_ahead_is_closed_and_no_more_than_three_are_answered(
    served: Web,
) -> None:
    with served.opened(ASK * 400) as client:
        assert answer(client).count(b"HTTP/1.1 200") <= 3
    assert served.asked <= 3
    assert served.is_healthy()


def test_a_connection_goes_on_after_two_requests_that_were_sent_ahead(served: Web) -> None:
    with served.opened() as client:
        for _ in range(20):
            client.sendall(ASK * 2 + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while b'"UP"' not in received:
                received += client.recv(2**16)
            assert received.count(b"HTTP/1.1 200") == 3


def test_a_stream_of_empty_lines_is_no_stream_of_requests(served: Web) -> None:
    with served.opened(b"\r\n\r\n" * 4000) as client:
        assert answer(client).count(b"HTTP/1.0 400") <= 1
    assert served.asked == 0


HALF_SENT = {
    "chunked": POST + b"Transfer-Encoding: chunked\r\n\r\n9\r\n{",
    "a length": POST + b"Content-Length: 1900000\r\n\r\n{",
    "most of it": POST + b"Content-Length: 1900000\r\n\r\n" + b" " * 1_800_000,
    "wrong credentials": POST + b"Authorization: Basic eDp4\r\nContent-Length: 1900000\r\n\r\n" + b" " * 1_800_000,
    "the webhook": b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 1900000\r\n\r\n" + b" " * 1_800_000,
}


@pytest.mark.parametrize("name", list(HALF_SENT))
def test_half_sent_requests_without_credentials_take_no_place_of_large_ones(guarded: Web, name: str) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(guarded.opened(HALF_SENT[name]))
        until(lambda: sum(bool(one.request and one.request.headers_finished) for one in guarded.channels) == 8)
        assert guarded.predict(LARGE)[0] == 200
        assert not any(len(one.request.body_rcv) for one in guarded.channels if one.request)


def test_a_half_sent_request_without_credentials_is_told_so_and_closed_long_before_others_are(guarded: Web) -> None:
    with guarded.opened(HALF_SENT["chunked"]) as client:
        until(lambda: any(one.request for one in guarded.channels))
        guarded.go_by(0, 4)
        assert answer(client).startswith(b"HTTP/1.1 401 wrong or missing user name and password")


def test_without_credentials_nobody_is_asked_to_send_a_body(guarded: Web) -> None:
    with guarded.opened(POST + b"Expect: 100-continue\r\nContent-Length: 1900000\r\n\r\n") as client:
        assert answer(client).startswith(b"HTTP/1.1 401")
    allowed = f"Authorization: {AUTHORIZATION}\r\nExpect: 100-continue\r\nContent-Length: 1900000\r\n\r\n".encode()
    with guarded.opened(POST + allowed) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 100")


@pytest.mark.parametrize("framing", [b"Content-Length: %d\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n%x\r\n"])
def test_a_client_with_a_wrong_password_can_send_all_of_its_body_and_then_reads_so(
    guarded: Web, framing: bytes
) -> None:
    end = b"\r\n0\r\n\r\n" if b"chunked" in framing else b""
    with guarded.opened(POST, framing % len(LARGE), LARGE + end) as client:
        assert answer(client).startswith(b"HTTP/1.1 401")


def test_no_more_than_the_largest_body_is_taken_of_one_without_credentials(guarded: Web) -> None:
    with guarded.opened(POST, b"Content-Length: 999999999\r\n\r\n") as client:
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                client.sendall(bytes(BODY))
        assert is_closed(client) or answer(client)
    until(lambda: not guarded.channels)


def test_where_all_are_strangers_a_claim_takes_no_place_and_a_slow_body_gives_its_own_up(served: Web) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(served.opened(HALF_SENT["a length"]))
        until(lambda: sum(one.request is not None for one in served.channels) == 8)
        assert served.predict(LARGE)[0] == 200
        for _ in range(4):
            stack.enter_context(served.opened(HALF_SENT["most of it"]))
        until(lambda: sum(len(one.request.body_rcv) for one in served.channels if one.request) >= 4 * 1_800_000)
        assert served.predict(LARGE)[0] == 503
        for one in served.channels:
            if one.request:
                one.request.began -= 3
        assert served.predict(LARGE)[0] == 200


@pytest.mark.parametrize("path", ["/webhook", "//webhook", "/%77ebhook", "/webhook?a=b", "http://elsewhere/webhook"])
def test_every_spelling_of_the_webhooks_route_needs_no_credentials(guarded: Web, path: str) -> None:
    assert send(guarded.port, "POST", path, b"x" * 1_900_000)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/webhook/", "/WEBHOOK", "/./webhook", "/webhook/../predict", "/predict?/webhook", "/webhook%00",
        "/webhook;/predict", "http://webhook/predict", "//webhook/predict", "/webhook%2f..%2fpredict",
        "/%2577ebhook", "/predict%3f/webhook"
    ]
)  # fmt: skip
def test_what_only_looks_like_the_webhook_needs_credentials(guarded: Web, path: str) -> None:
    assert send(guarded.port, "POST", path, b"{}")[0] == 401


SMUGGLED = ASK.replace(b"/versions", b"/smuggled")
TWO_WAYS = {
    "both lengths": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, the other way round": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "an empty transfer encoding": POST + b"Transfer-Encoding:\r\nContent-Length: 2\r\n\r\n{}",
    "two equal lengths": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 0\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "a length of five thousand digits": POST + b"Content-Length: " + b"0" * 5000 + b"2\r\n\r\n{}",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two headers": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a header of two lines": POST + b"X: a\r\n Transfer-Encoding: chunked\r\n\r\n",
    "a length in the next line": POST + b"Content-Length:\r\n 2\r\n\r\n{}",
    "NUL in a header": POST + b"X: a\x00b\r\n\r\n",
    "NUL in the path": b"GET /health\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab in the path": b"GET /hea\tlth HTTP/1.1\r\nHost: x\r\n\r\n",
    "a bare line feed": b"GET /health HTTP/1.1\nHost: x\r\n\r\n",
    "a bare line feed among the headers": b"GET /health HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
    "no version": b"GET /health\r\nHost: x\r\n\r\n",
    "another version": b"GET /health HTTP/2.0\r\nHost: x\r\n\r\n",
    "an address that cannot be": b"GET http://[::1/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "a thousand headers": b"GET /health HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
    "chunks of a byte": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 9000 + b"0\r\n\r\n",
    "an endless chunk line": POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 100_000,
    "an endless trailer": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a" * 100_000
}  # fmt: skip


@pytest.mark.parametrize("name", list(TWO_WAYS))
def test_what_two_servers_could_read_in_two_ways_is_refused_and_closed(
    served: Web, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with served.opened(TWO_WAYS[name] + SMUGGLED) as client:
        received = answer(client)
    assert received[:12] in (b"HTTP/1.0 400", b"HTTP/1.1 400", b"HTTP/1.1 501"), received[:100]
    assert received.count(b"HTTP/1.") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_slow_clients_are_closed_although_the_clock_on_the_wall_jumps_back(served: Web) -> None:
    served.listener.next_look = 0.0
    hour_ago = patch.object(time, "time", return_value=time.time() - 3600)
    with hour_ago, served.opened(POST) as slow, served.opened() as silent:
        until(lambda: len(served.channels) == 2 and any(channel.request for channel in served.channels))
        for channel in served.channels:
            channel.active -= 16
            if channel.request:
                channel.request.began -= 16
        served.listener.pull_trigger()
        assert is_closed(slow)
        assert is_closed(silent)
