"""A request as it comes in: the limits that it has to keep until it is complete."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field

from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.utilities import BadRequest

from m2n2_backend.server.access import is_authorized, is_open

IN_MEMORY = 2**62
"""Bytes of a buffer that is never written to a file, and of an answer that waits for no slow reader."""

_MOST_HEADERS = 100
_LONGEST_CHUNK_LINE = 1024
# The lines between chunks are parsed one by one: they may be an eighth of a large body.
_FREE_CHUNK_LINES, _BODY_PER_CHUNK_LINES = 16 * 1024, 8

_CONTROL_OR_FOLD = re.compile(rb"\A[^\r]*[\x00-\x0c\x0e-\x1f\x7f]|\r\n[ \t]")
_LENGTHS = re.compile(rb"\r\n(?:content-length|transfer-encoding):", re.IGNORECASE)
_SOUND_LENGTH = re.compile(
    rb"\r\n(?:content-length:[ \t]*[0-9]{1,15}|transfer-encoding:[ \t]*chunked)[ \t]*\r\n", re.IGNORECASE
)


@dataclass(frozen=True)
class Limits:
    """The limits of clients.

    Attributes:
        body: Most bytes of a request's body.
        credentials: See :func:`~m2n2_backend.server.access.credentials`; a body that comes without them is not kept.
        large: A body of more bytes than this is large; a click's request has some kilobytes.
        large_at_once: Most large requests that are received or answered at a time, as their bodies are in memory.
        seconds: For a request to arrive, headers and body; also for a client to take its answer or ask again.
        patience: Seconds for a body that is not wanted, and for a large one when another waits for its place.
        connections: Where there are more, those that have waited longest are closed.
        ahead: Most requests that wait behind the one which a connection is getting the answer to; more close it.
    """

    body: int
    credentials: tuple[str, str] | None = field(default=None, repr=False)
    large: int = 1024**2
    large_at_once: int = 4
    seconds: float = 15.0
    patience: float = 2.0
    connections: int = 400
    ahead: int = 2


class LargeBodies:
    """Where large bodies are kept. One that still comes in after ``patience`` seconds gives way to another."""

    def __init__(self, limits: Limits) -> None:
        """Set up a store with all places free."""
        self._limits = limits
        self._lock = threading.RLock()
        self._holders: list[Incoming] = []

    def take(self, request: Incoming) -> bool:
        """Give the request a place, if it has none; False where others have all of them."""
        with self._lock:
            if request in self._holders:
                return True
            if len(self._holders) == self._limits.large_at_once and not self._free_the_slowest():
                return False
            self._holders.append(request)
            return True

    def leave(self, request: Incoming) -> None:
        """Free the place of a request, if it has one."""
        with self._lock:
            if request in self._holders:
                self._holders.remove(request)

    def _free_the_slowest(self) -> bool:
        now = time.monotonic()
        slow = [one for one in self._holders if not one.completed and now - one.began > self._limits.patience]
        if not slow:
            return False
        slowest = min(slow, key=lambda one: one.body_bytes_received / (now - one.began))
        slowest.refuse("busy")
        return True


class Incoming(HTTPRequestParser):  # type: ignore[misc]
    """One request.

    Attributes:
        began: ``time.monotonic()`` of its first byte.
        refused: Why its body is thrown away: ``unauthorized``, ``too large``, ``busy``, or ``not wanted`` where the
            route does not read it; None where it is kept.
    """

    empty: bool

    def __init__(self, adj: Adjustments, limits: Limits, places: LargeBodies) -> None:
        """Set up a request of which nothing has come yet."""
        super().__init__(adj)
        self._limits = limits
        self._places = places
        self._is_judged = False
        self.began = time.monotonic()
        self.refused: str | None = None

    def received(self, data: bytes) -> int:
        """Called by the channel with what has arrived."""
        consumed: int = super().received(data)
        if self.empty:
            # A stream of empty lines would be a stream of requests that nobody counts.
            self.empty, self.error = False, BadRequest("No request between empty lines")
        if self.error is None and self.headers_finished:
            if not self._is_judged:
                self._is_judged = True
                self._judge()
            if self.body_rcv is not None:
                self._bound()
        return consumed

    def parse_header(self, header_plus: bytes) -> None:
        """Called once the headers are complete.

        Raises:
            ParsingError: Another server could read them in another way.
        """
        if header_plus.count(b"\r\n") > _MOST_HEADERS:
            raise ParsingError(f"More than {_MOST_HEADERS} headers")
        if _CONTROL_OR_FOLD.search(header_plus):
            raise ParsingError("A control character in the first line, or a header of several lines")
        lengths = len(_LENGTHS.findall(header_plus))
        if lengths > 1 or (lengths == 1 and not _SOUND_LENGTH.search(header_plus)):
            raise ParsingError("Send either one Content-Length or one Transfer-Encoding: chunked")
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            raise ParsingError("The address cannot be parsed") from error
        if self.version not in ("1.0", "1.1") or "TRANSFER_ENCODING" in self.headers:
            raise ParsingError("Another version of HTTP than 1.0 and 1.1, or chunks in 1.0")
        if self.body_rcv is None:
            self.expect_continue = False
        else:
            self.body_rcv.buf = _Body(IN_MEMORY)

    def refuse(self, why: str) -> None:
        """Throw the body away, also the part that still comes: a client reads no answer while it sends."""
        self.refused = why
        self._places.leave(self)
        if self.body_rcv is None:
            return
        self.body_rcv.buf.throw_away()
        if self.expect_continue:
            self.expect_continue = False
            self._answer_and_close()

    def close(self) -> None:
        """Called once the request is answered, or its client is gone."""
        super().close()
        self._places.leave(self)

    def _judge(self) -> None:
        """Decide by the headers whether the body is kept."""
        expected = self._limits.credentials
        if is_open(self.path):
            self.refuse("not wanted")
        elif not is_authorized(self.headers.get("AUTHORIZATION", ""), expected):
            self.headers["CONNECTION"] = "close"
            self.refuse("unauthorized")
        elif self.content_length > self._limits.body:
            self.refuse("too large")

    def _bound(self) -> None:
        """Bound the body that has come so far."""
        lines = self.body_bytes_received - self.body_rcv.buf.seen
        if self.chunked and (
            lines > _FREE_CHUNK_LINES + self.body_rcv.buf.seen // _BODY_PER_CHUNK_LINES
            or len(self.body_rcv.control_line) + len(self.body_rcv.trailer) > _LONGEST_CHUNK_LINE
        ):
            self.error = BadRequest("Send larger chunks, without extensions and trailers")
            self.completed = True
        elif self.refused == "unauthorized" and self.body_bytes_received > self._limits.body:
            self._answer_and_close()
        elif self.refused is None and self.body_bytes_received > self._limits.body:
            self.refuse("too large")
        elif self.refused is None and self.body_bytes_received > self._limits.large and not self._places.take(self):
            self.refuse("busy")

    def _answer_and_close(self) -> None:
        self.headers["CONNECTION"] = "close"
        self.completed = True


class _Body(OverflowableBuffer):  # type: ignore[misc]
    """The bytes of a body: counted, and kept as long as they are wanted."""

    seen = 0
    is_wanted = True

    def append(self, s: bytes) -> None:
        self.seen += len(s)
        if self.is_wanted:
            super().append(s)

    def throw_away(self) -> None:
        self.is_wanted = False
        self.buf, self.strbuf = None, b""
