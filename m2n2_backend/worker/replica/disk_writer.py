"""Features on their way to disk, on a thread that nobody waits for."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from m2n2_backend.m2n2.state import EncodedImage
from m2n2_backend.worker.replica.engine import Engine
from m2n2_backend.worker.replica.photo import Photo
from m2n2_backend.worker.store.health import TRY_SECONDS

logger = logging.getLogger(__name__)

WRITES_WAITING = 8
"""Images on their way to a slow disk; a further one is not written, and is encoded again some day."""


class DiskWriter:
    """Writes features to the engine's tier on disk.

    Attributes:
        unwritten: Hashes of the images on their way to disk; protected by ``changed``.
    """

    def __init__(self, engine: Engine, changed: threading.Condition) -> None:
        """Set up the writer; ``changed`` is notified of each image that is written."""
        self.unwritten: set[str] = set()
        self._engine = engine
        self._changed = changed
        self._writes: queue.Queue[tuple[str, EncodedImage] | None] = queue.Queue(WRITES_WAITING)

    @property
    def is_full(self) -> bool:
        """Whether as many images as may wait for the disk."""
        return self._writes.full()

    def put(self, photo: Photo) -> None:
        """Let the features of an image be written, unless too many wait already. Never blocks."""
        key = photo.key
        assert photo.encoded is not None, "what is written"
        with self._changed:
            self.unwritten.add(key)
        try:
            self._writes.put_nowait((key, photo.encoded))
        except queue.Full:
            self._engine.disk.health.failed("written", f"too slow: {WRITES_WAITING} images wait", pause=False)
            self._engine.abandon(photo)
            with self._changed:
                self.unwritten.discard(key)

    def run(self) -> None:
        """Body of the thread, until :meth:`end`."""
        while True:
            with _logging_errors("the cache could not be tried"):
                self._engine.disk.try_again()
            try:
                write = self._writes.get(timeout=TRY_SECONDS)
            except queue.Empty:
                continue
            if write is None:
                return
            with _logging_errors("an image could not be written to the cache"):
                self._engine.disk.put(*write)
            with self._changed:
                self.unwritten.discard(write[0])
                self._changed.notify_all()

    def end(self, timeout: float) -> None:
        """Let the thread end after what waits is written, unless the disk takes nothing for ``timeout`` seconds."""
        with suppress(queue.Full):
            self._writes.put(None, timeout=timeout)


@contextmanager
def _logging_errors(words: str) -> Iterator[None]:
    """Log what the body raises: no failure of a disk ends the thread that writes to it."""
    try:
        yield
    except Exception:
        logger.exception(words)
