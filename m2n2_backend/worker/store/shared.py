"""The tier of features that a whole cluster shares: each photograph is encoded once, by whoever needs it first."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from m2n2_backend.images import DECODING
from m2n2_backend.m2n2.state import EncodedImage
from m2n2_backend.settings import Settings
from m2n2_backend.worker.store.disk import FIRST_TRY_BYTES, SUFFIX, DiskCache, file_name, pack, unpack
from m2n2_backend.worker.store.files import SharedFiles, within
from m2n2_backend.worker.store.health import CacheHealth
from m2n2_backend.worker.store.leases import Leases

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 60.0
"""After a failure the store is left alone for so long, unless a try finds that it works again."""

COSTS = {
    "reached": "images are encoded without it",
    "written": "each machine encodes its images itself",
    "cleaned up": "it may grow beyond M2N2_DISK_CACHE",
}
"""What may fail, and what that means."""

READ_SECONDS = 10.0
"""Most time that a click waits for one answer of the store."""

WRITE_SECONDS = 120.0
"""Most time for writing one photograph's features, for which nobody waits."""

_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.05, 0.5
_JANITOR_SECONDS = 60.0
_UNSEEN = 0.05  # of the limit: bytes written here after which it is looked at again
_TRIMMED_TO = 0.9
_LOST_AFTER_SECONDS = 3600.0
_JANITOR = "leases/janitor"

T = TypeVar("T")


class SharedStore:
    """Features by the hash of their photographs, below any address fsspec understands.

    It has the interface and the files of :class:`~m2n2_backend.worker.store.disk.DiskCache`. Nothing here
    raises because of the store: without it the model is asked.
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
        self.hits = self.misses = self.evictions = 0
        # An address may hold a password, and this name is shown to everybody.
        self.health = CacheHealth(f"the store {re.sub('//[^/@]*@', '//…@', files.address)}", COSTS, PAUSE_SECONDS)
        self._files = files
        self._leases = leases or Leases(files)
        self._held = self._count = self._since_look = 0  # as of the janitor's latest look, and written since
        self._looked_at = -_JANITOR_SECONDS
        self._unwritten = FIRST_TRY_BYTES  # bytes that could not be written the last time
        self._try = f"leases/try-{uuid.uuid4().hex}"  # the janitor removes what is left of it

    def name(self, key: str) -> str:
        """The file of a photograph below the store's address."""
        return file_name(key, self.fingerprint)

    def __contains__(self, key: str) -> bool:
        if self.limit == 0 or self.health.paused:
            return False
        return self._asked(lambda: self._files.exists(self.name(key))) is True

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of all files as of the latest look, and of those written since."""
        return self._held

    def get(self, key: str) -> EncodedImage | None:
        """Read a photograph's features; None where there are none that can be used."""
        found = self._read(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def claim(self, key: str) -> EncodedImage | None:
        """Read a photograph's features, or be the one who encodes it; waits while another machine is at it.

        Returns:
            None where the caller is to encode it, then to :meth:`put` or :meth:`abandon` it. Where the store is out
            of reach, others may be told the same.
        """
        found, pause = self.get(key), _POLL_SECONDS
        while found is None and self.limit and not self.health.paused:
            leased = self._asked(lambda: self._leases.acquire(_lease(key)))
            # Also with the lease: its last holder may have written between our look and our lease.
            found = self._read(key) if leased is not None else None
            if leased and found is not None:
                self.abandon(key)
            if leased is not False:
                break
            time.sleep(pause)
            pause = min(_LONGEST_POLL_SECONDS, 1.5 * pause)
        return found

    def abandon(self, key: str) -> None:
        """Let others encode a photograph that was claimed; never blocks."""
        self._leases.release(_lease(key))

    def put(self, key: str, encoded: EncodedImage) -> bool:
        """Write features and let go of the claim on them; whether they were written."""
        try:
            if self.limit == 0 or self.health.paused:
                return False
            data = pack(encoded, key, self.fingerprint)
            self._write(self.name(key), data)
            self._held += len(data)
            self._since_look += len(data)
            self._count += 1
        except OSError as error:
            self._unwritten = len(data)
            self.health.failed("written", error)
            return False
        finally:
            self.abandon(key)
        try:
            self._clean_up()
        except OSError as error:
            self.health.failed("cleaned up", error)
        return True

    def try_again(self) -> None:
        """Find out, where that is due, whether the store can be used: as many bytes as failed are put there."""
        if self.limit == 0 or not self.health.is_due():
            return
        if self._asked(lambda: self._files.exists(self._try)) is None:
            return
        try:
            self._write(self._try, bytes(self._unwritten))
        except OSError as error:
            self.health.failed("written", error, pause=False)  # it can still be read
        with suppress(OSError):
            within(READ_SECONDS, lambda: self._files.remove(self._try))

    def close(self) -> None:
        """Give all claims back."""
        self._leases.close()

    def _read(self, key: str) -> EncodedImage | None:
        if self.limit == 0 or self.health.paused:
            return None
        name = self.name(key)
        data = self._asked(lambda: self._files.read(name))
        if data is None:
            return None
        try:
            encoded = unpack(data, key, self.fingerprint)
        except ValueError as error:
            # It is not removed: whoever encodes the image puts a good one in its place.
            logger.warning("%s in the store is passed over: %s", name, error)
            self.health.damaged += 1
            return None
        self._asked(lambda: self._files.touch(name))
        return encoded

    def _clean_up(self) -> None:
        """Keep the limit, if nobody else is at it."""
        due = time.monotonic() - self._looked_at > _JANITOR_SECONDS or self._since_look > _UNSEEN * self.limit
        if self.health.paused or not due or not self._leases.acquire(_JANITOR):
            return
        try:
            entries = self._files.entries()
            newest = max((entry.used for entry in entries), default=0.0)  # by the store's own clock
            features = [entry for entry in entries if entry.name.endswith(SUFFIX)]
            for entry in entries:
                if not entry.name.endswith(SUFFIX) and newest - entry.used > _LOST_AFTER_SECONDS:
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
            self.health.works("cleaned up")
        finally:
            self._leases.release(_JANITOR)

    def _asked(self, call: Callable[[], T]) -> T | None:
        """What the store says; None, and a pause, where it does not answer."""
        try:
            answer = within(READ_SECONDS, call)
        except OSError as error:
            self.health.failed("reached", error)
            return None
        self.health.works("reached")
        return answer

    def _write(self, name: str, data: bytes) -> None:
        within(WRITE_SECONDS, lambda: self._files.write(name, data))
        self.health.works("reached", "written")


def open_store(settings: Settings, fingerprint: str) -> DiskCache | SharedStore:
    """The tier that outlives the process: the shared one that is named, or this machine's folder.

    Args:
        settings: Address or folder, limit, and the working size, which decides what is kept.
        fingerprint: The backbone's own.

    Raises:
        SettingsError: The named address cannot be opened here.
    """
    contents = f"{fingerprint}, working size {settings.working_size}, decoding {DECODING}"
    if settings.store is None:
        return DiskCache(settings.cache_dir / "images", contents, settings.disk_cache)
    return SharedStore(SharedFiles(settings.store), contents, settings.disk_cache)


def _lease(key: str) -> str:
    return f"leases/{key}"
