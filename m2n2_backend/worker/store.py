"""The tier of features that a whole cluster shares: each photograph is encoded once, by whoever needs it first."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from m2n2_backend.m2n2.state import EncodedImage
from m2n2_backend.worker.disk import pack, unpack
from m2n2_backend.worker.files import SharedFiles, within
from m2n2_backend.worker.leases import Leases

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 60.0
"""After a failure the store is left alone for so long, and images are encoded without it."""

READ_SECONDS = 10.0
"""Most time that a click waits for one answer of the store."""

_WRITE_SECONDS = 120.0
_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.05, 0.5
_UNWRITTEN = 4  # images that may wait to be written; more are not kept
_JANITOR_SECONDS = 60.0
_UNSEEN = 0.05  # of the limit: bytes written here after which it is looked at again
_TRIMMED_TO = 0.9
_LOST_AFTER_SECONDS = 3600.0
_JANITOR = "leases/janitor"
_SUFFIX = ".safetensors"

T = TypeVar("T")


class SharedStore:
    """Features by the hash of their photographs, below any address fsspec understands.

    It has the interface and the files of :class:`~m2n2_backend.worker.disk.DiskCache`. Writes happen on a thread of
    their own. Nothing here raises for the store's sake: without it the model is asked.
    """

    def __init__(self, files: SharedFiles, fingerprint: str, limit: int, leases: Leases | None = None) -> None:
        """Name the store; nothing is read or written yet.

        Args:
            files: Of all models.
            fingerprint: Of whatever decides the contents: model, grid, working size.
            limit: Bytes that all models' features may have together; 0 keeps nothing.
            leases: Those of ``files`` if None.
        """
        self.fingerprint = fingerprint
        self.limit = limit
        self.hits = self.misses = self.evictions = self.damaged = self.failures = 0
        self._files = files
        self._leases = leases or Leases(files)
        self._own = hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
        self._held = self._count = self._since_look = 0  # as of the janitor's latest look, and written since
        self._looked_at = -_JANITOR_SECONDS
        self._resume_at = 0.0
        self._unwritten: dict[str, EncodedImage] = {}
        self._to_write: queue.Queue[str | None] = queue.Queue()
        self._writer: threading.Thread | None = None

    def name(self, key: str) -> str:
        """The file of a photograph below the store's address."""
        return f"{self._own}/{key[:2]}/{key}{_SUFFIX}"

    def __contains__(self, key: str) -> bool:
        if self.limit == 0 or self.paused:
            return False
        return key in self._unwritten or self._asked(lambda: self._files.exists(self.name(key))) is True

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of all files as of the latest look, and of those written since."""
        return self._held

    @property
    def paused(self) -> bool:
        """Whether the store is left alone for a while."""
        return time.monotonic() < self._resume_at

    def obtain(self, key: str, encode: Callable[[], EncodedImage]) -> EncodedImage:
        """Read a photograph's features, or encode it; where another machine is at it, wait for its result.

        Raises:
            Exception: Whatever ``encode`` raises.
        """
        found = self.get(key) or self._lease_or_find(key)
        if found is not None:
            return found
        try:
            encoded = encode()
        except BaseException:
            self._leases.release(_lease(key))
            raise
        if not self.put(key, encoded):
            self._leases.release(_lease(key))
        return encoded

    def get(self, key: str) -> EncodedImage | None:
        """Read a photograph's features; None where there are none that can be used."""
        found = self._read(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def put(self, key: str, encoded: EncodedImage) -> bool:
        """Write features soon, then give the lease on them back; False where they will not be written."""
        if self.limit == 0 or self.paused or len(self._unwritten) >= _UNWRITTEN:
            return False
        self._unwritten[key] = encoded
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_all, name="store-writer", daemon=True)
            self._writer.start()
        self._to_write.put(key)
        return True

    def flush(self) -> None:
        """Wait until everything is written."""
        self._to_write.join()

    def close(self) -> None:
        """Write what waits, then give all leases back."""
        if self._writer is not None:
            self._to_write.put(None)
            self._writer.join(_WRITE_SECONDS)
        self._leases.close()

    def _lease_or_find(self, key: str) -> EncodedImage | None:
        """Features another machine wrote meanwhile, or None: then the lease is held or the store is out of reach."""
        pause = _POLL_SECONDS
        while self.limit and not self.paused:
            if (leased := self._asked(lambda: self._leases.acquire(_lease(key)))) is None:
                return None
            # Also with the lease: its last holder may have written between our look and our lease.
            found = self._read(key)
            if found is not None:
                self._leases.release(_lease(key))
            if leased or found is not None:
                return found
            time.sleep(pause)
            pause = min(_LONGEST_POLL_SECONDS, 1.5 * pause)
        return None

    def _read(self, key: str) -> EncodedImage | None:
        if self.limit == 0:
            return None
        if (waiting := self._unwritten.get(key)) is not None:
            return waiting
        name = self.name(key)
        data = None if self.paused else self._asked(lambda: self._files.read(name))
        if data is None:
            return None
        try:
            encoded = unpack(data, key, self.fingerprint)
        except ValueError as error:
            # It is not removed: whoever encodes the image puts a good one in its place.
            logger.warning("%s in the store is passed over: %s", name, error)
            self.damaged += 1
            return None
        self._asked(lambda: self._files.touch(name))
        return encoded

    def _write_all(self) -> None:
        while (key := self._to_write.get()) is not None:
            try:
                if not self.paused:
                    data = pack(self._unwritten[key], key, self.fingerprint)
                    within(_WRITE_SECONDS, partial(self._files.write, self.name(key), data))
                    self._held += len(data)
                    self._since_look += len(data)
                    self._count += 1
            except OSError as error:
                self._failed("written", error)
            finally:
                self._unwritten.pop(key, None)
                self._leases.release(_lease(key))
            try:
                self._clean_up()
            except OSError as error:
                self._failed("cleaned up", error)
            self._to_write.task_done()

    def _clean_up(self) -> None:
        """Keep the limit, if nobody else is at it."""
        due = time.monotonic() - self._looked_at > _JANITOR_SECONDS or self._since_look > _UNSEEN * self.limit
        if self.paused or not due or not self._leases.acquire(_JANITOR):
            return
        try:
            entries = self._files.entries()
            newest = max((entry.used for entry in entries), default=0.0)  # by the store's own clock
            features = [entry for entry in entries if entry.name.endswith(_SUFFIX)]
            for entry in entries:
                if not entry.name.endswith(_SUFFIX) and newest - entry.used > _LOST_AFTER_SECONDS:
                    self._files.remove(entry.name)
            held, count = sum(entry.size for entry in features), len(features)
            over = held > self.limit
            for entry in features:
                if not over or held <= _TRIMMED_TO * self.limit:
                    break
                self._files.remove(entry.name)
                self.evictions += 1
                held, count = held - entry.size, count - 1
            self._held, self._count, self._since_look, self._looked_at = held, count, 0, time.monotonic()
        finally:
            self._leases.release(_JANITOR)

    def _asked(self, call: Callable[[], T]) -> T | None:
        """What the store says; None, and a pause, where it does not answer."""
        try:
            return within(READ_SECONDS, call)
        except OSError as error:
            self._failed("reached", error)
            return None

    def _failed(self, what: str, error: OSError) -> None:
        self.failures += 1
        self._resume_at = time.monotonic() + PAUSE_SECONDS
        logger.warning(
            "%s cannot be %s: %s; %.0f s without", self._files.address, what, error.strerror or error, PAUSE_SECONDS
        )


def _lease(key: str) -> str:
    return f"leases/{key}"
