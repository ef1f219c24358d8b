"""What a stranger can do at the door: requests sent ahead, many connections, half-sent bodies, JSON of many keys.

`python tests/load/pipelining.py [PART_OF_A_NAME …]` runs all attacks, or those named; see `under_attack.py`.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from under_attack import Running, at_once, bystander, key_point, picture, question, report, running

CONNECTIONS = 130
SECONDS = 10.0
GUARDED = {"basic_auth_user": "annotator", "basic_auth_password": "sesame"}
ASK = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
HALF_SENT = {
    "chunked": POST + b"Transfer-Encoding: chunked\r\n\r\n10\r\n{",
    "length": POST + b"Content-Length: 2000000\r\n\r\n{",
    "expect": POST + b"Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n",
    "webhook": b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n{",
    "megabyte": POST + b"Content-Length: 2000000\r\n\r\n" + b" " * 1_200_000,
}
Attack = Callable[[Running], "dict[str, Any] | None"]


def sent_ahead(path: bytes, total: int) -> Attack:
    """Bytes of requests over all connections, each sent without a look at the answers."""
    requests = ASK % path * (total // CONNECTIONS // len(ASK % path))

    def one(server: Running) -> None:
        with contextlib.suppress(OSError), server.connect() as connection:
            connection.sendall(requests)
            while connection.recv(2**16):
                pass

    return lambda server: at_once(CONNECTIONS, lambda _: one(server)) and None


def read_answer(connection: socket.socket) -> None:
    """All of one answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    left = int(head.lower().partition(b"content-length:")[2].split()[0]) - len(body)
    while left > 0:
        left -= len(_more(connection))


def _more(connection: socket.socket) -> bytes:
    part = connection.recv(2**16)
    if not part:
        raise ConnectionError("closed")
    return part


def one_by_one(path: bytes, *, requests: float = 1e9) -> Attack:
    """A request after each answer, as fast as they come; so many of them on a connection."""

    def one(server: Running, until: float) -> None:
        while time.monotonic() < until:
            with contextlib.suppress(OSError), server.connect() as connection:
                asked = 0
                while asked < requests and time.monotonic() < until:
                    connection.sendall(ASK % path)
                    asked += 1
                    read_answer(connection)

    def attack(server: Running) -> None:
        until = time.monotonic() + SECONDS
        at_once(CONNECTIONS, lambda _: one(server, until))

    return attack


def half_sent(sent: bytes, number: int) -> Attack:
    """Requests that are never finished; how long the owner of the credentials waits for a large click."""

    def attack(server: Running) -> dict[str, Any]:
        click = question(server.put("large.jpg", picture(2)), [key_point(50, 50)]) + b" " * 2_100_000
        assert server.call("POST", "/predict", click)[0] == 200
        with contextlib.ExitStack() as stack:
            for _ in range(number):
                connection = stack.enter_context(server.connect())
                with contextlib.suppress(OSError):
                    connection.sendall(sent)
            time.sleep(1)
            began, refused = time.monotonic(), 0
            while server.call("POST", "/predict", click)[0] != 200 and time.monotonic() < began + 30:
                refused += 1
                time.sleep(0.2)
            return {"large_click_s": round(time.monotonic() - began, 2), "large_click_refused": refused}

    return attack


def posted(body: bytes, number: int) -> Attack:
    """The same body several times at once."""
    return lambda server: {"answers": at_once(number, lambda _: server.call("POST", "/predict", body)[1][:80])}


def attacks() -> dict[str, tuple[dict[str, Any], Attack]]:
    """Name → settings of the server, attack."""
    keys, fewer = (
        b"{" + b",".join(b'"%d":1' % index for index in range(number)) + b"}" for number in (2_000_000, 99_990)
    )
    numbers, masks = (b"[" + b",".join([each] * (32_000_000 // (len(each) + 1))) + b"]" for each in (b"1", b"255"))
    return {
        "sent ahead, 2 MB": ({}, sent_ahead(b"/openapi.json", 2_000_000)),
        "sent ahead, 2 MB, no credentials": (GUARDED, sent_ahead(b"/openapi.json", 2_000_000)),
        "one by one, /openapi.json": ({}, one_by_one(b"/openapi.json")),
        "one by one, /metrics": ({}, one_by_one(b"/metrics")),
        "one by one, no credentials": (GUARDED, one_by_one(b"/health")),
        "one by one, new connections": ({}, one_by_one(b"/health", requests=1)),
        **{f"4 half-sent, {name}": (GUARDED, half_sent(sent, 4)) for name, sent in HALF_SENT.items()},
        **{f"40 half-sent, {name}, open": ({}, half_sent(sent, 40)) for name, sent in HALF_SENT.items()},
        "two million keys": ({}, posted(keys, 1)),
        "two million keys, four at once": ({}, posted(keys, 4)),
        "a hundred thousand keys, four at once": (
            {},
            posted(b'{"tasks":[{"id":1,"data":%b}]}' % (fewer + b" " * 2_000_000), 4),
        ),
        "8 million numbers, four at once": ({}, posted(b'{"tasks":[{"id":1,"data":{"rle":%b}}]}' % masks, 4)),
        "16 million numbers, four at once": ({}, posted(numbers, 4)),
    }


def main(wanted: list[str]) -> None:
    """Run each on a server of its own."""
    for name, (settings, attack) in attacks().items():
        if wanted and not any(part in name for part in wanted):
            continue
        with running(**settings) as server:
            before = server.log.stat().st_size
            with bystander(server) as seen:
                more = attack(server) or {}
            report(name, {**seen.figures(), **more, "log_kb": (server.log.stat().st_size - before) // 1000})


if __name__ == "__main__":
    main(sys.argv[1:])
