"""The cache tier that outlives the process: what the model made of each photograph, in one file."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from m2n2_backend.images import DECODING
from m2n2_backend.m2n2.state import EncodedImage
from m2n2_backend.settings import Settings
from m2n2_backend.worker.store.files import TEMPORARY, Files, FolderFiles, StoredFile, open_files, within
from m2n2_backend.worker.store.format import SUFFIX, file_name, pack, unpack
from m2n2_backend.worker.store.health import LOCAL, SHARED, CacheHealth, Terms

logger = logging.getLogger(__name__)

FIRST_TRY_BYTES = 1024**2
"""Written at the start to find out whether the cache can be used; later as much as could not be written."""

READ_SECONDS = 10.0
"""A click waits at most this long for one answer of a shared store."""

WRITE_SECONDS = 120.0
"""Limit for writing one photograph's features to a shared store, and for listing it. Nobody waits for these."""

_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.05, 0.5
_LOOK_SECONDS = 60.0  # other processes and machines write here too
_UNSEEN = 0.05  # share of the limit: after so many bytes of our own we look again
_TRIMMED_TO = 0.9  # share of the limit, so that not every write has to evict something
_LOST_AFTER_SECONDS = 3600.0  # a temporary file this old belongs to a process that died
_OURS = re.compile(r"[0-9a-f]{16}/[^/]{1,2}/[^/]+")  # an address may hold files of others

T = TypeVar("T")


class Claims(Protocol):
    """Who encodes which image, among replicas that share a store. Threads share it. Nothing here raises."""

    def take(self, key: str) -> bool:
        """Whether the caller is the one who encodes the image, until it releases the claim; False: another does."""
        ...

    def release(self, key: str) -> None:
        """End a claim, if it is held. Never blocks."""
        ...

    def close(self) -> None:
        """End all claims that are held here."""
        ...


class FeatureStore:
    """Features of photographs, by the hash of their files.

    A file carries a checksum of its contents. A damaged one is removed and counts as absent. No method raises
    an error of the disk or the network; without them the model runs again.
    """

    def __init__(
        self, files: Files, fingerprint: str, limit: int, *, terms: Terms = LOCAL, claims: Claims | None = None
    ) -> None:
        """Name the store. A local one is listed now; nothing is written yet.

        Args:
            files: Files of all models; each model gets a folder among them.
            fingerprint: Changes with everything that decides the contents: model, grid, working size.
            limit: Most bytes of all models' features together; 0 keeps nothing.
            terms: What may fail, and what follows.
            claims: Who encodes what; without claims everybody may encode everything.
        """
        self.fingerprint = fingerprint
        self.limit = limit
        self.hits = self.misses = self.evictions = 0
        # An address may hold a password, and everybody sees this name.
        name = terms.name.format(re.sub("//[^/@]*@", "//…@", files.address))
        self.health = CacheHealth(name, terms.costs, terms.pause_seconds)
        self._files = files
        self._terms = terms
        self._claims = claims
        self._held = self._count = self._since_look = 0  # as of the latest look, and written here since
        self._looked_at = -_LOOK_SECONDS
        self._unwritten = FIRST_TRY_BYTES  # as many bytes as could not be written the last time
        if limit > 0 and not terms.is_shared:
            self._ask(self._look)

    def name(self, key: str) -> str:
        """The file of a photograph, whether it exists or not."""
        return file_name(key, self.fingerprint)

    def __contains__(self, key: str) -> bool:
        if self.limit == 0 or self._cannot_be_read:
            return False
        return self._ask(lambda: self._files.exists(self.name(key))) is True

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of all files as of the latest look, and of those written here since."""
        return self._held

    def get(self, key: str) -> EncodedImage | None:
        """Read a photograph's features; None where there are none that can be used."""
        found = self._read(key)
        if self.limit > 0:
            self.hits += found is not None
            self.misses += found is None
        return found

    def claim(self, key: str) -> EncodedImage | None:
        """Read a photograph's features, or become the one who encodes it; waits while another replica encodes it.

        Returns:
            None where the caller is to encode the photograph, then to :meth:`put` or :meth:`abandon` it. Where the
            store or the claims cannot be reached, several callers may get None.
        """
        found, pause = self.get(key), _POLL_SECONDS
        while self._claims is not None and found is None and self.limit > 0 and not self.health.paused:
            if self._claims.take(key):
                found = self._read(key)  # the last holder may have written since we looked
                if found is not None:
                    self.abandon(key)
                break
            time.sleep(pause)
            pause = min(_LONGEST_POLL_SECONDS, 1.5 * pause)
        return found

    def abandon(self, key: str) -> None:
        """Let others encode a photograph that was claimed. Never blocks."""
        if self._claims is not None:
            self._claims.release(key)

    def put(self, key: str, encoded: EncodedImage) -> bool:
        """Write features, end the claim on them, then keep the limit; returns whether they were written."""
        try:
            if self.limit == 0 or self.health.paused:
                return False
            data = pack(encoded, key, self.fingerprint)
            replaced = self._within(WRITE_SECONDS, lambda: self._files.write(self.name(key), data))
        except OSError as error:
            self._unwritten = len(data)
            self.health.failed("written", error)
            return False
        finally:
            self.abandon(key)
        self.health.works("written")
        self._held += len(data) - (replaced or 0)
        self._since_look += len(data)
        self._count += replaced is None
        self._keep_limit()
        return True

    def try_again(self) -> None:
        """Find out, where that is due, whether the store can be used, with as many bytes as failed the last time."""
        if self.limit == 0 or not self.health.is_due():
            return
        if self._ask(lambda: self._files.exists(self.name("try"))) is None:
            return
        try:
            self._within(WRITE_SECONDS, lambda: self._files.try_out(self._unwritten))
        except OSError as error:
            self.health.failed("written", error)
        else:
            self.health.works("written", self._terms.looking)

    def close(self) -> None:
        """End all claims."""
        if self._claims is not None:
            self._claims.close()

    @property
    def _cannot_be_read(self) -> bool:
        return self.health.is_paused(self._terms.looking)

    def _read(self, key: str) -> EncodedImage | None:
        if self.limit == 0 or self._cannot_be_read:
            return None
        name = self.name(key)
        data = self._ask(lambda: self._files.read(name))
        if data is None:
            return None
        self.health.works(self._terms.looking)
        try:
            encoded = unpack(data, key, self.fingerprint)
        except ValueError as error:
            logger.warning("cached file %s is dropped: %s", name, error)
            self.health.damaged += 1
            with suppress(OSError):
                self._within(READ_SECONDS, lambda: self._files.remove(name))
            return None
        with suppress(OSError):
            self._within(READ_SECONDS, lambda: self._files.touch(name))  # eviction goes by the time of the last use
        return encoded

    def _keep_limit(self) -> None:
        """Evict the least recently used files where there may be too many; looks only now and then."""
        is_due = time.monotonic() - self._looked_at > _LOOK_SECONDS
        if not (is_due or self._held > self.limit or self._since_look > _UNSEEN * self.limit):
            return
        try:
            oldest_first = self._within(WRITE_SECONDS, self._look)
            if self._held > self.limit:
                for file in oldest_first:
                    if self._held <= _TRIMMED_TO * self.limit:
                        break
                    # The lambda is called before the loop goes on.
                    self.evictions += self._within(READ_SECONDS, lambda: self._files.remove(file.name))  # noqa: B023
                    self._held -= file.size
                    self._count -= 1
        except OSError as error:
            self.health.failed("cleaned up", error)
        else:
            self.health.works("cleaned up")

    def _look(self) -> list[StoredFile]:
        """The features that are there, the least recently used first; what died processes have left is removed."""
        entries = [file for file in self._files.entries() if _OURS.fullmatch(file.name)]
        features = [file for file in entries if file.name.endswith(SUFFIX)]
        # The clock of the files may be another machine's.
        now = min(time.time(), max((file.used for file in entries), default=0.0))
        for file in entries:
            if file.name.endswith(TEMPORARY) and now - file.used > _LOST_AFTER_SECONDS:
                with suppress(OSError):
                    self._files.remove(file.name)
        self._held, self._count, self._since_look = sum(file.size for file in features), len(features), 0
        self._looked_at = time.monotonic()
        return features

    def _ask(self, call: Callable[[], T]) -> T | None:
        """The answer of the files; None, which is told, where they do not answer."""
        try:
            return self._within(READ_SECONDS, call)
        except OSError as error:
            self.health.failed(self._terms.looking, error, pause=self._terms.is_shared)
            return None

    def _within(self, seconds: float, call: Callable[[], T]) -> T:
        return within(seconds, call) if self._terms.is_shared else call()


def open_store(settings: Settings, fingerprint: str, claims: Claims | None = None) -> FeatureStore:
    """The tier that outlives the process: the shared one that the settings name, or a folder of this machine.

    A folder of this machine needs no claims, because each image belongs to one worker here.

    Raises:
        SettingsError: The address cannot be opened here.
    """
    contents = f"{fingerprint}, working size {settings.working_size}, decoding {DECODING}"
    if settings.store is None:
        return FeatureStore(FolderFiles(settings.cache_dir / "images"), contents, settings.disk_cache)
    files = open_files(settings.store)
    return FeatureStore(files, contents, settings.disk_cache, terms=SHARED, claims=claims)
