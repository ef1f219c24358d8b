"""gunicorn watches the web process and starts it again; in it waitress receives the requests."""

from __future__ import annotations

import os
import time
from typing import Any

from gunicorn.workers.base import Worker
from waitress import wasyncore

from m2n2_backend.server.incoming import Limits
from m2n2_backend.server.receiving import Listener

_POLL_SECONDS = 0.5


class WebWorker(Worker):  # type: ignore[misc]
    """gunicorn's gthread worker gives each connection a thread before it has sent anything; this one does not."""

    def run(self) -> None:
        """Serve until told to stop; then finish what was begun, as long as gunicorn waits for it."""
        sockets: dict[int, Any] = {}
        limits: Limits = self.app.limits
        listeners = [
            Listener(self.wsgi, one.sock, limits, threads=self.cfg.threads, sockets=sockets) for one in self.sockets
        ]
        while self.alive and os.getppid() == self.ppid:
            self._turn(sockets)
        for listener in listeners:
            listener.stop_listening()
        while any(listener.is_busy for listener in listeners):
            self._turn(sockets)
            for listener in listeners:
                listener.maintenance(time.monotonic())

    def _turn(self, sockets: dict[int, Any]) -> None:
        self.notify()
        wasyncore.loop(timeout=_POLL_SECONDS, use_poll=True, map=sockets, count=1)
