"""A backend for hostile addresses, which checks that they cause no connections, model calls or use of memory."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from fake_label_studio import LEGACY, FakeLabelStudio
from label_studio_fakes import DiscPool, key_point, payload, send, serving, settings
from questions import require_explained

from m2n2_backend.server.app import create_app

MEMORY = 256 * 1024
"""Most memory, in KiB, that an answer may cost."""

_TRIED: list[tuple[Any, ...]] = []
_WATCHED = threading.Event()


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[Any, ...]]]:
    """The (host, port) of every connection that this process tries to make meanwhile."""
    _TRIED.clear()
    _WATCHED.set()
    try:
        yield _TRIED
    finally:
        _WATCHED.clear()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and _WATCHED.is_set() and isinstance(arguments[1], tuple):
        _TRIED.append(arguments[1][:2])


sys.addaudithook(_audit)


class Canary:
    """Listens on one port of both loopback addresses and counts connections."""

    def __init__(self) -> None:
        self.visits = 0
        self._listeners = [socket.create_server(("127.0.0.1", 0))]
        self.port = self._listeners[0].getsockname()[1]
        if socket.has_ipv6:
            # Without an IPv6 loopback on this machine, the audit hook still sees attempts.
            with contextlib.suppress(OSError):
                self._listeners.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        self._threads = [threading.Thread(target=self._count, args=(one,)) for one in self._listeners]
        for thread in self._threads:
            thread.start()

    def _count(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.visits += 1
            connection.close()

    def close(self) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join()


class Prey:
    """The backend, the Label Studio it trusts, and the canary it must not touch."""

    def __init__(self, port: int, studio: FakeLabelStudio, canary: Canary, pool: DiscPool) -> None:
        self.port, self.studio, self.canary, self.pool = port, studio, canary, pool

    def asked_for(self, image: str) -> str:
        """Ask /predict about an image and check what holds for every hostile address; returns the status line."""
        expected = {("127.0.0.1", self.port), ("127.0.0.1", self.studio.port)}
        visits, calls = self.canary.visits, len(self.pool.calls)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with watched() as tried:
            status, phrase, body = send(self.port, "POST", "/predict", payload(key_point(), image=image))
        assert set(tried) <= expected
        assert self.canary.visits == visits == 0
        assert len(self.pool.calls) == calls, "the model was asked"
        require_explained(status, phrase, json.loads(body))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MEMORY
        return f"{status} {phrase}"


@contextlib.contextmanager
def trapped() -> Iterator[Prey]:
    """Serve the app with real settings; at the end it must still read what it may read."""
    studio, canary, pool = FakeLabelStudio(), Canary(), DiscPool()
    ours = settings(label_studio_url=studio.url, label_studio_api_key=LEGACY, max_image_bytes=1_000_000)
    try:
        with serving(create_app(ours, pool)) as port:
            yield Prey(port, studio, canary, pool)
            assert send(port, "POST", "/predict", payload(key_point(), image="/open/a.png"))[0] == 200
    finally:
        canary.close()
        studio.close()
