"""Requests are received whole before a thread is taken to answer them, so that slow clients hold none.

waitress does it in one thread for all connections; here are the limits that it lacks.
"""

from __future__ import annotations

import logging
import math
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask

logger = logging.getLogger(__name__)

REFUSED = "m2n2_backend.refused"
"""Key of the WSGI environment: why a body was thrown away, ``too large``, ``busy``, ``slow`` or ``unwanted``; None
where it was not."""

PIPELINED = 2
"""Requests of one connection that may wait for the answer to an earlier one; where there are more, it is closed."""

_TRANSFER_ENCODING = re.compile(rb"^transfer-encoding[ \t]*:(.*)$", re.IGNORECASE | re.MULTILINE)
_SLOW_AFTER_SECONDS = 2.0
_SLOW_BYTES_PER_SECOND = 64 * 1024  # the least that brings a large body within the time for a request
_QUICK_THREADS = 2
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Limits:
    """What clients may take.

    Attributes:
        body: Most bytes of a request's body.
        large: A body of more bytes than this is large; a click's request has some kilobytes.
        large_at_once: Most large requests that are received or answered at a time, as their bodies are in memory.
            One that comes in slowly gives its place to another that wants one.
        seconds: For a request to arrive, headers and body; also for a client to take its answer or ask again.
        connections: Where there are more, those that have waited longest are closed.
        wants_body: Path and value of the Authorization header ("" without one) → whether the body is read at all,
            decided when the headers are there. Others are thrown away as they come in.
        is_quick: Path → whether threads that do nothing else answer it, as somebody ends a server that does not.
    """

    body: int
    large: int = 1024**2
    large_at_once: int = 4
    seconds: float = 15.0
    connections: int = 400
    wants_body: Callable[[str, str], bool] = lambda path, authorization: True
    is_quick: Callable[[str], bool] = lambda path: False


class _Nowhere(OverflowableBuffer):  # type: ignore[misc]
    """Takes the rest of a refused body: a client that is still sending would not read the answer."""

    def append(self, s: bytes) -> None:
        pass


class _Places:
    """Which requests have a large body in memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._held: list[_Request] = []

    def take(self, request: _Request) -> bool:
        """Give a request a place, if need be that of one which comes in slowly; False where there is none."""
        with self._lock:
            slow = next((one for one in self._held if one.is_slow), None) if len(self._held) >= self._most else None
            if slow is not None:
                self._held.remove(slow)
            elif len(self._held) >= self._most:
                return False
            self._held.append(request)
        if slow is not None:
            slow.refuse("slow")
        return True

    def leave(self, request: _Request) -> None:
        """End what :meth:`take` began, if it did."""
        with self._lock:
            if request in self._held:
                self._held.remove(request)


class _Request(HTTPRequestParser):  # type: ignore[misc]
    """One request as it comes in."""

    completed: bool

    def __init__(self, adj: Adjustments, *, limits: Limits, places: _Places) -> None:
        super().__init__(adj)
        self._limits = limits
        self._places = places
        self._is_large = False
        self._began = time.monotonic()
        self.refused: str | None = None

    @property
    def is_slow(self) -> bool:
        """Whether it still comes in, and no faster than a request that will be closed for it."""
        age = time.monotonic() - self._began
        return not self.completed and age > max(
            _SLOW_AFTER_SECONDS, self.body_bytes_received / _SLOW_BYTES_PER_SECOND
        )

    @property
    def route(self) -> str:
        """The path as the app is told it: WSGI leaves one slash of several at its beginning."""
        return "/" + str(self.path).lstrip("/")

    def parse_header(self, header_plus: bytes) -> None:
        """Called with the first line and all headers.

        Raises:
            ParsingError: They cannot be read, or leave open where the body ends.
        """
        super().parse_header(header_plus)
        # Waitress and a proxy before it could each take another one for the request's end.
        codings = _TRANSFER_ENCODING.findall(header_plus)
        if codings and (
            len(codings) > 1 or b"," in codings[0] or "CONTENT_LENGTH" in self.headers or not self.chunked
        ):
            raise ParsingError("Transfer-Encoding with Content-Length, twice, or of HTTP/1.0")

    def received(self, data: bytes) -> int:
        """Called by the channel with what has arrived."""
        had_headers = self.headers_finished
        consumed: int = super().received(data)
        if self.body_rcv is None:
            return consumed
        if self.headers_finished and not had_headers:
            authorization = self.headers.get("AUTHORIZATION", "")
            if not self._limits.wants_body(self.route, authorization):
                self.refuse("unwanted")
                self._end(self.expect_continue)
        if self.refused is None:
            size = max(self.content_length, self.body_bytes_received)
            if size > self._limits.body:
                self.refuse("too large")
            elif size > self._limits.large and not self._is_large:
                self._is_large = True
                if not self._places.take(self):
                    self.refuse("busy")
        # Who is told so only after a body has been sent can read it, but nobody sends for ever.
        self._end(self.refused is not None and self.body_bytes_received > 8 * self._limits.body)
        return consumed

    def close(self) -> None:
        """Called once the request is answered, or its client is gone."""
        super().close()
        self._places.leave(self)

    def refuse(self, why: str) -> None:
        """Let the rest of the body go nowhere, and what is there of it."""
        self.refused = why
        self.body_rcv.buf = _Nowhere(0)
        self._places.leave(self)

    def _end(self, at_once: bool) -> None:
        """Answer before the body has arrived, and close the connection, as its rest would be taken for a request."""
        if at_once and not self.completed:
            self.expect_continue = False
            self.completed = self.connection_close = True


class _Task(WSGITask):  # type: ignore[misc]
    """Tells the app what was refused."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[REFUSED] = self.request.refused
        return environ


class _TooMany(Exception):
    """More requests wait on one connection than may."""


class _Channel(HTTPChannel):  # type: ignore[misc]
    """One connection. Its times are of a clock that nobody can set back; those that waitress notes are not used."""

    task_class = _Task
    server: Listener
    request: _Request | None
    began = 0.0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.active = time.monotonic()
        self._is_receiving = False
        super().__init__(*arguments, **named)

    @property
    def waiting_since(self) -> float:
        """``time.monotonic()`` since which the client owes us something."""
        return self.began if self.request is not None else self.active

    def parser_class(self, adj: Adjustments) -> _Request:
        """Called by waitress for each request that begins."""
        if self._is_receiving and len(self.requests) > PIPELINED:
            raise _TooMany
        return _Request(adj, limits=self.server.limits, places=self.server.places)

    def received(self, data: bytes) -> bool:
        self.active = time.monotonic()
        if self.request is None:
            self.began = self.active
        self._is_receiving = True
        try:
            return bool(super().received(data))
        except _TooMany:
            self.will_close = True
            return False
        finally:
            self._is_receiving = False

    def service(self) -> None:
        super().service()
        self.active = time.monotonic()

    def _flush_some(self, do_close: bool = True) -> bool:
        sent = bool(super()._flush_some(do_close))
        if sent:
            self.active = time.monotonic()
        return sent

    def handle_close(self) -> None:
        super().handle_close()
        if self.request is not None:
            self.request.close()
            self.request = None


class Listener(TcpWSGIServer):  # type: ignore[misc]
    """Receives requests at one socket; whoever runs the loop calls :meth:`maintenance` about every second."""

    channel_class = _Channel

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
        self.limits = limits
        self.places = _Places(limits.large_at_once)
        self._looked_at = 0.0
        self._quick = ThreadedTaskDispatcher()
        self._quick.set_thread_count(_QUICK_THREADS)
        in_memory = 2**62  # nothing is written to files, and no answer waits for a slow reader
        adjustments = Adjustments(
            ident="m2n2-backend",
            recv_bytes=16 * 1024,  # taking chunks apart costs the square of it
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
        self.next_channel_cleanup = math.inf  # by waitress, whose clock may be set back

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or an answer sent."""
        return any(channel.requests or channel.total_outbufs_len for channel in list(self.active_channels.values()))

    def add_task(self, task: _Channel) -> None:
        """Called where a request of a connection is to be answered."""
        request = task.requests[0]
        is_quick = request.error is None and self.limits.is_quick(request.route)
        (self._quick if is_quick else self.task_dispatcher).add_task(task)

    def stop_listening(self) -> None:
        """Take no more connections."""
        self.del_channel()
        self.socket.close()

    def handle_accept(self) -> None:
        """Called for each new connection."""
        super().handle_accept()
        if len(self.active_channels) > self.limits.connections:
            oldest = next((one for one in self.active_channels.values() if not one.requests), None)
            if oldest is not None:
                oldest.handle_close()

    def maintenance(self, now: float) -> None:
        """Close the connections whose clients have taken too long.

        Args:
            now: ``time.monotonic()``. Within half a second of the last time nothing is looked at.
        """
        if now - self._looked_at < _LOOK_SECONDS / 2:
            return
        waiting = [channel for channel in list(self.active_channels.values()) if not channel.requests]
        if (stalled := now - self._looked_at) > 2 * _LOOK_SECONDS and self._looked_at:
            # It was this process that had no time to read.
            for channel in waiting:
                channel.began += stalled
                channel.active += stalled
        self._looked_at = now
        late = [channel for channel in waiting if now - channel.waiting_since > self.limits.seconds]
        for channel in late:
            channel.will_close = True
        if unfinished := sum(channel.request is not None for channel in late):
            logger.warning("%d requests did not arrive within %.0f s: closed", unfinished, self.limits.seconds)
