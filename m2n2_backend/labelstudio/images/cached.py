"""A cache of the images that were read: a warm click downloads nothing, and a failure is waited for once."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace

from cachetools import LRUCache, TTLCache

from m2n2_backend.errors import ImageUnavailable, M2N2Error, NotReady
from m2n2_backend.labelstudio.images.download import Clock
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader, Validators
from m2n2_backend.settings import Settings
from m2n2_backend.worker.interface import SourceImage
from m2n2_backend.worker.shares import Places, download_limits

MAX_ADDRESSES = 20_000
"""Addresses remembered; each takes some hundred bytes."""

RECENT_BYTES = 64 * 1024**2
"""Bytes of files that are kept for a click that needs one again at once, such as after the death of a worker."""

FAILURE_SECONDS = 5.0
"""Seconds for which a failure answers further clicks on its address."""

_ENTRY_BYTES = 1024  # of a file that is kept, beside its bytes: its key and its places in tables
_LONGEST_CAUSE = 1000


@dataclass(frozen=True)
class _Known:
    image: SourceImage  # without data
    validators: Validators
    asked_at: float


@dataclass
class _Download:
    """A download that is under way; other threads that want the same address wait for its outcome."""

    done: threading.Event = field(default_factory=threading.Event)
    image: SourceImage | None = None
    error: M2N2Error | None = None


class CachedImages:
    """A :class:`~m2n2_backend.labelstudio.images.reader.Media` that knows which file stands behind an address.

    For ``fresh_seconds`` an address is taken to hold the same file. After that its server is asked whether it
    changed, unless so many clicks wait for images that this one would be refused instead. Simultaneous requests for
    one address are one download with one outcome. Data URLs carry their file with them and are not remembered.
    Threads share one cache.
    """

    def __init__(
        self, reader: MediaReader, *, fresh_seconds: float, at_once: int = 40, clock: Clock = time.monotonic
    ) -> None:
        """Set up an empty cache.

        Args:
            at_once: Most threads that wait for downloads. Some are kept for Label Studio's own images, and for other
                hosts and projects; see :func:`~m2n2_backend.worker.shares.download_limits`.
        """
        self._reader = reader
        self._fresh_seconds = fresh_seconds
        self._at_once = at_once
        self._clock = clock
        self._lock = threading.Lock()
        self._known: LRUCache[bytes, _Known] = LRUCache(MAX_ADDRESSES)
        self._recent: LRUCache[str, bytes] = LRUCache(RECENT_BYTES, getsizeof=_held)
        self._failed: TTLCache[bytes, M2N2Error] = TTLCache(1000, FAILURE_SECONDS, timer=clock)
        self._downloads: dict[bytes, _Download] = {}
        self._places = Places("clicks wait for images")
        self.downloads = 0
        self.revalidations = 0

    @staticmethod
    def of(settings: Settings) -> CachedImages:
        """The cache around a reader that the settings describe."""
        reader = MediaReader(settings)
        return CachedImages(reader, fresh_seconds=settings.image_fresh, at_once=settings.http_threads)

    def fetch(self, ref: ImageRef, *, deadline: float = float("inf"), data_needed: bool = True) -> SourceImage:
        """Read one image, or recall its hash and size.

        Raises:
            M2N2Error: See :meth:`MediaReader.fetch`.
            NotReady: Too many others wait for images, of this host or at all, or they take too much memory.
        """
        if ref.is_data:
            return self._reader.fetch(ref, deadline=deadline)  # takes no time, so it needs no place
        key = ref.key
        while True:
            with self._lock:
                if (found := self._recalled(key, data_needed)) is not None:
                    return found
                if (failure := self._failed.get(key)) is not None:
                    raise _again(failure)
            try:
                with self._places.take(download_limits(self._at_once, self._reader.host(ref), ref.project)):
                    image = self._downloaded(ref, key, deadline, data_needed)
            except NotReady:
                if not data_needed and (known := self._known_of(key)) is not None:
                    return known  # better what was there minutes ago than to refuse a click on a prepared image
                raise
            # The thread that asked first may have needed no data.
            if image.data is not None or not data_needed:
                return image

    def host(self, ref: ImageRef) -> str:
        """See :meth:`m2n2_backend.labelstudio.images.reader.MediaReader.host`."""
        return self._reader.host(ref)

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()
            self._recent.clear()
        self._reader.close()

    def _downloaded(self, ref: ImageRef, key: bytes, deadline: float, data_needed: bool) -> SourceImage:
        """The outcome of a download: of the one that is under way, or of this thread's own."""
        with self._lock:
            download = self._downloads.get(key)
            if is_first := download is None:
                download = self._downloads[key] = _Download()
        if is_first:
            try:
                download.image = self._read(ref, key, deadline, data_needed)
            except BaseException as error:
                download.error = _again(error)
                if isinstance(error, M2N2Error) and not isinstance(error, NotReady):
                    with self._lock:
                        self._failed[key] = _again(error)
                raise
            finally:
                with self._lock:
                    del self._downloads[key]
                download.done.set()
            return download.image
        if not download.done.wait(max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX))):
            raise ImageUnavailable("image download timed out")
        if download.image is None:
            raise _again(download.error)
        return download.image

    def _read(self, ref: ImageRef, key: bytes, deadline: float, data_needed: bool) -> SourceImage:
        with self._lock:
            # It may have come between the look at what is known and this download.
            if (found := self._recalled(key, data_needed)) is not None:
                return found
            known = self._known.get(key)
        validators = known.validators if known is not None and not data_needed else Validators()
        image, validators = self._reader.fetch_if_changed(ref, validators, deadline=deadline)
        with self._lock:
            if image is None:
                assert known is not None, "only what is known can be unchanged"
                self.revalidations += 1
                image = known.image
            else:
                self.downloads += 1
                if image.data is not None and _held(image.data) <= RECENT_BYTES:
                    self._recent[image.key] = image.data
            self._known[key] = _Known(image.without_data(), validators, self._clock())
        return image

    def _known_of(self, key: bytes) -> SourceImage | None:
        """The image that an address held when its server was last asked, however long ago."""
        with self._lock:
            known = self._known.get(key)
            return None if known is None else known.image

    def _recalled(self, key: bytes, data_needed: bool) -> SourceImage | None:
        known = self._known.get(key)
        if known is None or self._clock() - known.asked_at >= self._fresh_seconds:
            return None
        if not data_needed:
            return known.image
        data = self._recent.get(known.image.key)
        return None if data is None else replace(known.image, data=data)


def _held(data: bytes) -> int:
    """Bytes that a file takes among the recent ones."""
    return len(data) + _ENTRY_BYTES


def _again(error: BaseException | None) -> M2N2Error:
    """The error for another thread, or for later: a raised one holds the frames it went through, and the file."""
    if isinstance(error, M2N2Error):
        return type(error)(str(error)[:_LONGEST_CAUSE])
    return ImageUnavailable("image download failed")
