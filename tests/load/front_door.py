"""Strangers at the door: pipelined requests, half-sent bodies, JSON of two million keys, each beside a bystander."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, suppress

from rig import Running, at_once, bystander, item, key_point, picture, question, report, running

CREDENTIALS = {"basic_auth_user": "anna", "basic_auth_password": "secret"}
SECONDS = 10.0


def pipelined(server: Running, path: str, connections: int, requests: int) -> None:
    """So many requests at once on each connection, again and again."""
    sent = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * requests
    until = time.monotonic() + SECONDS

    def one(_: int) -> None:
        while time.monotonic() < until:
            with suppress(OSError), server.connect() as connection:
                connection.settimeout(5.0)
                connection.sendall(sent)
                while connection.recv(2**16):
                    pass

    at_once(connections, one)


def half_sent(server: Running, stack: ExitStack, *, number: int = 8) -> None:
    """Large bodies without credentials of which the rest never comes."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for index in range(number):
        connection: socket.socket = stack.enter_context(server.connect())
        framing = b"Transfer-Encoding: chunked\r\n\r\n200000\r\n" if index % 2 else b"Content-Length: 3000000\r\n\r\n"
        connection.sendall(head + framing + bytes(1000))


def main() -> None:
    """All of them, one after the other."""
    with running() as server:
        for path, connections, requests in (("/openapi.json", 130, 400), ("/metrics", 130, 400), ("/", 130, 400)):
            with bystander(server) as seen:
                pipelined(server, path, connections, requests)
            report(f"{connections} connections that send {requests} GET {path} at once", seen.figures())
        with bystander(server) as seen:
            pipelined(server, "/openapi.json", 130, 1)
        report("130 connections that ask for /openapi.json one by one", seen.figures())
        keys = b",".join(b'"k%d":1' % number for number in range(2_000_000))
        body = b'{"tasks": [], "more": {%s}}' % keys
        with bystander(server) as seen:
            said = at_once(4, lambda _: server.call("POST", "/predict", body)[0])
        report("four bodies of two million keys", {**seen.figures(), "status": said})
    with running(**CREDENTIALS) as server:
        size = server.log.stat().st_size
        stranger = Running(server.pid, server.port, server.folder, server.log)
        with bystander(server) as seen:
            pipelined(stranger, "/predict", 40, 400)
        report("40 connections of 401s", {**seen.figures(), "log_kb": (server.log.stat().st_size - size) // 1000})
        image = server.put("large.jpg", picture(2))
        padding = item("labels", "other", {"text": "x" * 2_100_000}, "other")
        body = question(image, [key_point(50, 50), padding])
        with bystander(server) as seen, ExitStack() as stack:
            half_sent(stranger, stack)
            time.sleep(0.5)
            began = time.monotonic()
            said = [server.call("POST", "/predict", body)[0] for _ in range(5)]
            seconds = round(time.monotonic() - began, 2)
        report("half-sent bodies of strangers", {**seen.figures(), "large_clicks": said, "seconds": seconds})


if __name__ == "__main__":
    threading.stack_size(2**18)
    main()
