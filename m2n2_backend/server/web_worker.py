"""gunicorn watches the web process and starts it again; in it waitress receives the requests."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from gunicorn.workers.base import Worker
from waitress import wasyncore

from m2n2_backend.server.incoming import Limits
from m2n2_backend.server.receiving import Listener

_POLL_SECONDS = 0.5
_LAST_WORDS_SECONDS = 5.0


class WebWorker(Worker):  # type: ignore[misc]
    """gunicorn's gthread worker gives each connection a thread before it has sent anything; this one does not."""

    def init_signals(self) -> None:
        """Called by gunicorn at the start: a signal to the whole process group must not end this process alone."""
        hangup = signal.getsignal(signal.SIGHUP)
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN if hangup == signal.SIG_IGN else self.handle_exit)
        for passed_over in (signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(passed_over, signal.SIG_IGN)

    def run(self) -> None:
        """Serve until gunicorn stops this process; then finish the requests that were begun, as long as it waits.

        A click that the model has not answered shortly before the end is answered with an error that says why.
        """
        sockets: dict[int, Any] = {}
        limits: Limits = self.app.limits
        listeners = [
            Listener(self.wsgi, one.sock, limits, threads=self.cfg.threads, sockets=sockets) for one in self.sockets
        ]
        while self.alive and os.getppid() == self.ppid:
            self._turn(sockets)
        for listener in listeners:
            listener.stop_listening()
        last_words = threading.Timer(max(0.0, self.cfg.graceful_timeout - _LAST_WORDS_SECONDS), self.app.give_up)
        last_words.daemon = True
        last_words.start()
        while any(listener.is_busy for listener in listeners):
            self._turn(sockets)
            for listener in listeners:
                listener.maintenance(time.monotonic())

    def _turn(self, sockets: dict[int, Any]) -> None:
        self.notify()
        wasyncore.loop(timeout=_POLL_SECONDS, use_poll=True, map=sockets, count=1)
