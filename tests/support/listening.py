"""A listener on a real socket, whose time passes only as the tests say."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from label_studio_fakes import CountingMedia, DiscPool, key_point, payload, send, settings
from waitress import wasyncore

from m2n2_backend.server.app import create_app
from m2n2_backend.server.incoming import Limits
from m2n2_backend.server.receiving import Listener
from m2n2_backend.worker.interface import Answer, Work

BODY = 2_000_000
CREDENTIALS = ("annotator", "sesame")
AUTHORIZATION = f"Basic {base64.b64encode(':'.join(CREDENTIALS).encode()).decode()}"
CLICK = json.dumps(payload(key_point())).encode()
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


class HeldPool(DiscPool):
    """An app that answers while its gate is open, as it is at first."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def segment(self, work: Work) -> Answer:
        self.entered.set()
        assert self.gate.wait(60)
        return super().segment(work)


class Web:
    """A listener whose loop runs in a thread. ``asked`` counts the requests that reach the app.

    Requests for /versions wait in the app until ``go_on`` is set, as it is at first.
    """

    def __init__(self, *, guarded: bool = False, **limits: Any) -> None:
        self.pool = HeldPool()
        ours: dict[str, Any] = {"max_body_bytes": BODY}
        if guarded:
            limits["credentials"] = CREDENTIALS
            ours["basic_auth_user"], ours["basic_auth_password"] = CREDENTIALS
        app = create_app(settings(**ours), self.pool, CountingMedia())
        self.asked = 0

        self.go_on = threading.Event()
        self.go_on.set()

        def counted(environ: Any, start: Any) -> Any:
            self.asked += 1
            assert environ["PATH_INFO"] != "/versions" or self.go_on.wait(60)
            return app(environ, start)

        self._headers = {"Authorization": AUTHORIZATION} if guarded else {}
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self._sockets: dict[int, Any] = {}
        self._stop = threading.Event()
        self.began = time.monotonic() + 1
        self.listener = Listener(counted, sock, Limits(BODY, **limits), threads=2, sockets=self._sockets)
        self.listener.next_look = math.inf  # the test alone lets time pass
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
        self.listener.stop_threads()
        wasyncore.close_all(self._sockets)

    def opened(self, *sent: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        for part in sent:
            connection.sendall(part)
        return connection

    def predict(self, body: bytes) -> tuple[int, str]:
        return send(self.port, "POST", "/predict", body, Content_Type="application/json", **self._headers)[:2]

    def is_healthy(self) -> bool:
        return send(self.port, "GET", "/health", **self._headers)[0] == 200

    def go_by(self, begin: int, end: int) -> None:
        """Let seconds pass."""
        for second in range(begin, end):
            self.listener.maintenance(self.began + second)
        self.listener.pull_trigger()


@contextmanager
def web(*, guarded: bool = False, **limits: Any) -> Iterator[Web]:
    served = Web(guarded=guarded, **limits)
    try:
        yield served
    finally:
        served.close()


def is_closed(connection: socket.socket) -> bool:
    """Wait until something happens."""
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


def answer(connection: socket.socket) -> bytes:
    """Everything that arrives until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(2**16):
            received += part
    return received
