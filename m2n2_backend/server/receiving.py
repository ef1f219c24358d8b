"""Requests are received whole before a thread is taken to answer them, so that slow clients hold none.

waitress does it in one thread for all connections; this module adds the limits that it lacks. It overrides internals
of waitress, whose names tests/server/test_waitress_names.py lists.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask

from m2n2_backend.server.access import route_of
from m2n2_backend.server.incoming import IN_MEMORY, Incoming, LargeBodies, Limits

logger = logging.getLogger(__name__)

REFUSED = "m2n2_backend.refused"
"""Key of the WSGI environment: why a body was thrown away, see :class:`~m2n2_backend.server.incoming.Incoming`."""

_HEALTH_THREADS = 2
_OTHER_THREADS = 4


class _TaskWithRefusal(WSGITask):  # type: ignore[misc]
    """Tells the app why a body was thrown away."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[REFUSED] = self.request.refused
        return environ


class _Rest(Incoming):
    """What a connection sends while it is being closed."""

    def received(self, data: bytes) -> int:
        return len(data)


class _Channel(HTTPChannel):  # type: ignore[misc]
    """One connection; its times are of ``time.monotonic()``."""

    task_class = _TaskWithRefusal
    server: Listener
    request: Incoming | None
    active = 0.0

    @property
    def last_activity(self) -> float:
        return self.active

    @last_activity.setter
    def last_activity(self, wall_time: float) -> None:
        """Called by waitress, with the clock on the wall, which may jump."""
        self.active = time.monotonic()

    @property
    def waiting_since(self) -> float:
        """The time since which the client has owed a request, or the rest of one."""
        return self.request.began if self.request is not None else self.active

    def parser_class(self, adj: Adjustments) -> Incoming:
        """Called by waitress where another request begins."""
        limits, places = self.server.limits, self.server.places
        if len(self.requests) <= limits.ahead:
            return Incoming(adj, limits, places)
        logger.warning(
            "a client sent more than %d requests without waiting for an answer: closed",
            limits.ahead + 1,
            extra={"kind": "sent ahead"},
        )
        self.will_close = True
        return _Rest(adj, limits, places)

    def answer_now(self) -> None:
        """Answer a request whose body is not wanted, before all of it has come."""
        with self.requests_lock:
            self.requests.append(self.request)
            self.request = None
            self.server.add_task(self)

    def handle_close(self) -> None:
        super().handle_close()
        if self.request is not None:
            self.request.close()
            self.request = None


class Listener(TcpWSGIServer):  # type: ignore[misc]
    """Receives requests at one socket; :meth:`maintenance` is called every second.

    Attributes:
        next_look: ``time.monotonic()`` of the next call.
    """

    channel_class = _Channel
    next_channel_cleanup = math.inf  # of the clock on the wall, which may jump

    def __init__(
        self, app: Callable[..., Any], sock: socket.socket, limits: Limits, *, threads: int, sockets: dict[int, Any]
    ) -> None:
        """Start to listen and to answer.

        Args:
            sock: A bound socket.
            threads: The number of threads that answer clicks.
            sockets: The map that waitress' loop goes over.
        """
        self.limits = limits
        self.places = LargeBodies(limits)
        self.next_look = 0.0
        self._looked_at = time.monotonic()
        adjustments = Adjustments(
            ident="m2n2-backend",
            recv_bytes=16 * 1024,  # taking chunks apart costs the square of it
            cleanup_interval=1,
            connection_limit=4 * limits.connections,
            max_request_header_size=64 * 1024,
            max_request_body_size=IN_MEMORY,
            inbuf_overflow=IN_MEMORY,
            outbuf_overflow=IN_MEMORY,
            outbuf_high_watermark=IN_MEMORY,
            log_socket_errors=False,
        )
        # Only clicks wait for something. With more threads for other requests, the loop would wait for them.
        dispatcher = _dispatcher(threads)
        self._of_health, self._of_others = _dispatcher(_HEALTH_THREADS), _dispatcher(_OTHER_THREADS)
        place = (sock.family, sock.type, sock.proto, sock.getsockname())
        super().__init__(
            app, sockets, True, sock, dispatcher=dispatcher, adj=adjustments, bind_socket=False, sockinfo=place
        )

    def add_task(self, task: _Channel) -> None:
        """Called where a request of a connection is to be answered."""
        request = task.requests[0]
        path = route_of(request.path) if request.error is None and request.refused is None else ""
        threads = {"/health": self._of_health, "/predict": self.task_dispatcher}
        threads.get(path, self._of_others).add_task(task)

    def stop_threads(self) -> None:
        """End the threads that answer."""
        for threads in (self.task_dispatcher, self._of_health, self._of_others):
            threads.shutdown()

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or an answer sent."""
        return any(channel.requests or channel.total_outbufs_len for channel in list(self.active_channels.values()))

    def stop_listening(self) -> None:
        """Take no more connections."""
        self.del_channel()
        self.socket.close()

    def readable(self) -> bool:
        """Called by waitress before each wait."""
        now = time.monotonic()
        if now >= self.next_look:
            self.next_look = now + self.adj.cleanup_interval
            self.maintenance(now)
        return bool(super().readable())

    def handle_accept(self) -> None:
        """Called for each new connection."""
        super().handle_accept()
        if len(self.active_channels) > self.limits.connections:
            oldest = next((one for one in self.active_channels.values() if not one.requests), None)
            if oldest is not None:
                oldest.handle_close()

    def maintenance(self, now: float) -> None:
        """Close the connections whose clients have taken too long at ``time.monotonic()`` ``now``."""
        waiting = [channel for channel in list(self.active_channels.values()) if not channel.requests]
        if (stalled := now - self._looked_at) > 2 * self.adj.cleanup_interval:
            # This process itself had no time to read.
            for channel in waiting:
                channel.active += stalled
                if channel.request is not None:
                    channel.request.began += stalled
        self._looked_at = now
        late = [channel for channel in waiting if now - channel.waiting_since > self.limits.seconds]
        for channel in late:
            channel.will_close = True
        if unfinished := sum(channel.request is not None for channel in late):
            logger.warning(
                "%d requests did not arrive within %.0f s: closed",
                unfinished,
                self.limits.seconds,
                extra={"kind": "late"},
            )
        for channel in waiting:
            request = channel.request
            if (
                request is not None
                and request.refused == "unauthorized"
                and now - request.began > self.limits.patience
            ):
                channel.answer_now()


def _dispatcher(threads: int) -> ThreadedTaskDispatcher:
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(threads)
    return dispatcher
