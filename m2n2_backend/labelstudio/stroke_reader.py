"""Strokes → pixels, within the memory that a web process has."""

from __future__ import annotations

import threading
import time

from m2n2_backend.errors import DeadlinePassed, NotReady
from m2n2_backend.labelstudio.contract.request import InteractiveRequest
from m2n2_backend.prompts import Prompts

LARGE_STROKES = 1_000_000
"""Requests whose strokes have more pixels than this are read one at a time."""

LARGE_AT_ONCE = 64
"""Requests with such strokes that are kept: one is read, and the others wait."""


class StrokeReader:
    """Reads the prompts of requests; large strokes of one request at a time, as they take room for every pixel."""

    def __init__(self) -> None:
        """Set up a reader with all places free."""
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(LARGE_AT_ONCE)

    def read(self, request: InteractiveRequest, deadline: float) -> Prompts:
        """The prompts of a request whose image is known to have the size that the request claims.

        Raises:
            InvalidPrompt: See :attr:`InteractiveRequest.prompts`.
            NotReady: Too many requests with large strokes came at once.
        """
        if request.stroke_pixels <= LARGE_STROKES:
            return request.prompts
        if not self._places.acquire(blocking=False):
            raise NotReady("busy: several requests with strokes on large images wait; click again in a moment")
        try:
            if not self._turn.acquire(timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)):
                raise DeadlinePassed("busy with strokes on large images; click again in a moment")
            try:
                return request.prompts
            finally:
                self._turn.release()
        finally:
            self._places.release()
