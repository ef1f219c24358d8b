"""40 clicks at once on images of servers that are slow, or cut them into tiny pieces, beside a bystander.

`python tests/load/slow_images.py`, on a machine that does nothing else. The servers are a process of their own, on as
many addresses of the loopback network as are wanted, each of which is a host.
"""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from under_attack import Running, at_once, bystander, key_point, picture, question, report, running

CLICKS = 40
SECONDS = 30.0
LARGE = 60 * 1024**2

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"


def parts(kind: str) -> Iterator[tuple[bytes, float]]:
    """What a server sends, and the pause after each part."""
    file = picture(3)
    if kind == "drip":
        yield b"HTTP/1.0 200 OK\r\n\r\n" + file[:1000], 0.0
        while True:
            yield b"x", 1.0
    elif kind == "segments":
        yield b"HTTP/1.0 200 OK\r\n\r\n", 0.0
        while True:
            yield b"x", 0.0
    elif kind == "headers":
        yield b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" * 1000, 0.0
        while True:
            yield b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" * 1000, 0.0
    elif kind == "large":
        yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + file, 0.0
        for _ in range(LARGE // 2**20):
            yield bytes(2**20), 0.0
    else:
        size = int(kind)
        yield CHUNKED, 0.0
        block = b"%x\r\n%b\r\n" % (size, bytes(size))
        block *= max(1, 2**18 // len(block))
        while True:
            yield block, 0.0


def serve(port: int) -> None:
    """Answer each GET /KIND/… on every loopback address, without end."""
    listening = socket.create_server(("0.0.0.0", port), backlog=200)

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            kind = connection.recv(65536).split(b"/")[1].decode()
            until = time.monotonic() + SECONDS
            for part, pause in parts(kind):
                connection.sendall(part)
                if time.monotonic() > until:
                    return
                time.sleep(pause)

    while True:
        threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()


def cold_clicks(server: Running, stop: threading.Event, said: list[str]) -> None:
    """A click a second on another image of Label Studio's own, of a project of its own."""
    number = 0
    while not stop.wait(1.0):
        number += 1
        address = server.put(f"own{number}.jpg", picture(1000 + number))
        body = question(address, [key_point(50, 50)], task=500 + number, project="8")
        status, text = server.call("POST", "/predict", body)
        said.append("200" if status == 200 else f"{status} {text}")


def attack(server: Running, port: int, kind: str, hosts: int) -> dict[str, Any]:
    """All clicks at once, spread over so many hosts."""

    def click(index: int) -> tuple[int, str, float]:
        address = f"http://127.0.0.{2 + index % hosts}:{port}/{kind}/{index}.jpg"
        started = time.monotonic()
        body = question(address, [key_point(50, 50)], task=100 + index, project=f"{1000 + index}")
        status, said = server.call("POST", "/predict", body)
        return status, said if status != 200 else "", time.monotonic() - started

    stop, own = threading.Event(), list[str]()
    with bystander(server) as seen:
        clicking = threading.Thread(target=cold_clicks, args=(server, stop, own))
        clicking.start()
        answers = at_once(CLICKS, click)
        stop.set()
        clicking.join()
    return {
        **seen.figures(),
        "attack_statuses": dict(Counter(status for status, _, _ in answers)),
        "attack_said": sorted({said for _, said, _ in answers if said})[:3],
        "attack_longest_s": round(max(seconds for _, _, seconds in answers), 1),
        "own_cold_clicks": dict(Counter(own)),
    }


def main() -> None:
    """Run all of them."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port = int(probe.getsockname()[1])
    servers = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    servers.start()
    allowed = ",".join(f"127.0.0.{2 + index}:{port}" for index in range(CLICKS))
    for name, kind, hosts in (
        ("40 images that drip, of two hosts", "drip", 2),
        ("40 images that drip, of 40 hosts", "drip", CLICKS),
        ("40 images in chunks of one byte", "1", CLICKS),
        ("40 images in chunks of 600 bytes", "600", CLICKS),
        ("40 images in segments of one byte", "segments", CLICKS),
        ("40 answers that are headers without end", "headers", CLICKS),
        ("40 images of 60 MB", "large", CLICKS),
    ):
        with running(allowed_hosts=allowed) as server:
            report(name, attack(server, port, kind, hosts))
    servers.terminate()


if __name__ == "__main__":
    main()
