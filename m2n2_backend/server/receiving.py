"""Requests are received whole before a thread is taken to answer them, so that slow clients hold none.

waitress does it in one thread for all connections; here are the limits that it lacks.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask

logger = logging.getLogger(__name__)

REFUSED = "m2n2_backend.refused"
"""Key of the WSGI environment: why a body was thrown away, ``too large`` or ``busy``; None where it was not."""


@dataclass(frozen=True)
class Limits:
    """What clients may take.

    Attributes:
        body: Most bytes of a request's body.
        large: A body of more bytes than this is large; a click's request has some kilobytes.
        large_at_once: Most large requests that are received or answered at a time, as their bodies are in memory.
        seconds: For a request to arrive, headers and body; also for a client to take its answer or ask again.
        connections: Where there are more, those that have waited longest are closed.
    """

    body: int
    large: int = 1024**2
    large_at_once: int = 4
    seconds: float = 15.0
    connections: int = 400


class _Nowhere(OverflowableBuffer):  # type: ignore[misc]
    """Takes the rest of a refused body: a client that is still sending would not read the answer."""

    def append(self, s: bytes) -> None:
        pass


class _Request(HTTPRequestParser):  # type: ignore[misc]
    """One request as it comes in."""

    def __init__(self, adj: Adjustments, *, limits: Limits, places: threading.BoundedSemaphore) -> None:
        super().__init__(adj)
        self._limits = limits
        self._places = places
        self._has_place = False
        self.refused: str | None = None

    def received(self, data: bytes) -> int:
        """Called by the channel with what has arrived."""
        consumed: int = super().received(data)
        if self.body_rcv is not None and self.refused is None:
            if max(self.content_length, self.body_bytes_received) > self._limits.body:
                self._refuse("too large")
            elif (self.chunked or self.content_length > self._limits.large) and not self._has_place:
                self._has_place = self._places.acquire(blocking=False)
                if not self._has_place:
                    self._refuse("busy")
        return consumed

    def close(self) -> None:
        """Called once the request is answered, or its client is gone."""
        super().close()
        self._leave()

    def _refuse(self, why: str) -> None:
        self.refused = why
        self.body_rcv.buf = _Nowhere(0)
        self._leave()

    def _leave(self) -> None:
        if self._has_place:
            self._has_place = False
            self._places.release()


class _Task(WSGITask):  # type: ignore[misc]
    """Tells the app what was refused."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[REFUSED] = self.request.refused
        return environ


class _Channel(HTTPChannel):  # type: ignore[misc]
    """One connection."""

    task_class = _Task
    request: _Request | None
    began = 0.0

    @property
    def waiting_since(self) -> float:
        """``time.time()`` since which the client owes us something."""
        return self.began if self.request is not None else float(self.last_activity)

    def received(self, data: bytes) -> bool:
        if self.request is None:
            self.began = time.time()
        return bool(super().received(data))

    def handle_close(self) -> None:
        super().handle_close()
        if self.request is not None:
            self.request.close()
            self.request = None


class Listener(TcpWSGIServer):  # type: ignore[misc]
    """Receives requests at one socket; :meth:`maintenance` is called every second."""

    def __init__(
        self, app: Callable[..., Any], sock: socket.socket, limits: Limits, *, threads: int, sockets: dict[int, Any]
    ) -> None:
        """Start to listen and to answer.

        Args:
            app: A WSGI application.
            sock: Bound.
            limits: See :class:`Limits`.
            threads: That answer requests.
            sockets: The map that waitress' loop goes over.
        """
        self._limits = limits
        self._looked_at = 0.0
        places = threading.BoundedSemaphore(limits.large_at_once)
        parser = partial(_Request, limits=limits, places=places)
        self.channel_class = type("Channel", (_Channel,), {"parser_class": parser})
        in_memory = 2**62  # nothing is written to files, and no answer waits for a slow reader
        adjustments = Adjustments(
            ident="m2n2-backend",
            recv_bytes=16 * 1024,  # taking chunks apart costs the square of it
            cleanup_interval=1,
            connection_limit=4 * limits.connections,
            max_request_header_size=64 * 1024,
            max_request_body_size=in_memory,
            inbuf_overflow=in_memory,
            outbuf_overflow=in_memory,
            outbuf_high_watermark=in_memory,
            log_socket_errors=False,
        )
        dispatcher = ThreadedTaskDispatcher()
        dispatcher.set_thread_count(threads)
        place = (sock.family, sock.type, sock.proto, sock.getsockname())
        super().__init__(
            app, sockets, True, sock, dispatcher=dispatcher, adj=adjustments, bind_socket=False, sockinfo=place
        )

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or an answer sent."""
        return any(channel.requests or channel.total_outbufs_len for channel in list(self.active_channels.values()))

    def stop_listening(self) -> None:
        """Take no more connections."""
        self.del_channel()
        self.socket.close()

    def handle_accept(self) -> None:
        """Called for each new connection."""
        super().handle_accept()
        if len(self.active_channels) > self._limits.connections:
            oldest = next((one for one in self.active_channels.values() if not one.requests), None)
            if oldest is not None:
                oldest.handle_close()

    def maintenance(self, now: float) -> None:
        """Close the connections whose clients have taken too long.

        Args:
            now: ``time.time()``.
        """
        waiting = [channel for channel in list(self.active_channels.values()) if not channel.requests]
        if (stalled := now - self._looked_at) > 2 * self.adj.cleanup_interval and self._looked_at:
            # It was this process that had no time to read.
            for channel in waiting:
                channel.began += stalled
                channel.last_activity += stalled
        self._looked_at = now
        late = [channel for channel in waiting if now - channel.waiting_since > self._limits.seconds]
        for channel in late:
            channel.will_close = True
        if unfinished := sum(channel.request is not None for channel in late):
            logger.warning("%d requests did not arrive within %.0f s: closed", unfinished, self._limits.seconds)
