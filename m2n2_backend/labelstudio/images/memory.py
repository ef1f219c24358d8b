"""Addresses of images that were read before: a warm click downloads nothing."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace

from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader, Validators
from m2n2_backend.settings import Settings
from m2n2_backend.worker.pool import SourceImage

MAX_ADDRESSES = 20_000
"""Addresses remembered; each takes some hundred bytes."""

RECENT_BYTES = 64 * 1024**2
"""Bytes of files kept for whoever needs one again at once, such as a worker that died with the image in work."""


@dataclass(frozen=True)
class _Known:
    image: SourceImage  # without data
    validators: Validators
    asked_at: float


class RememberingMedia:
    """A :class:`~m2n2_backend.labelstudio.images.reader.Media` that knows which file stands behind an address.

    For ``fresh_seconds`` an address is taken to hold the same file; after that its server is asked whether it
    changed. Requests for one address at a time are one download. Data URLs carry their file with them and are not
    remembered. Threads share one.
    """

    def __init__(self, reader: MediaReader, *, fresh_seconds: float) -> None:
        self._reader = reader
        self._fresh_seconds = fresh_seconds
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str | None], _Known] = OrderedDict()
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._busy: dict[tuple[str, str | None], threading.Lock] = {}
        self.downloads = 0
        self.revalidations = 0

    @staticmethod
    def of(settings: Settings) -> RememberingMedia:
        """The memory around a reader, as the settings want both."""
        return RememberingMedia(MediaReader(settings), fresh_seconds=settings.image_fresh)

    def fetch(self, ref: ImageRef, *, deadline: float = float("inf"), data_needed: bool = True) -> SourceImage:
        """Read one image, or tell what is known of it; see :meth:`MediaReader.fetch` for what it raises."""
        if ref.url[:5].lower() == "data:":
            return self._reader.fetch(ref, deadline=deadline)
        address = (ref.url, ref.hostname)
        with self._lock:
            busy = self._busy.setdefault(address, threading.Lock())
        # Whoever waits here longer than the deadline would have waited as long for a download of its own.
        if not busy.acquire(timeout=max(0.0, min(deadline - time.monotonic(), 100.0))):
            return self._reader.fetch(ref, deadline=deadline)
        try:
            return self._fetch(ref, address, deadline, data_needed)
        finally:
            busy.release()
            with self._lock:
                self._busy.pop(address, None)

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()
            self._recent.clear()
        self._reader.close()

    def _fetch(
        self, ref: ImageRef, address: tuple[str, str | None], deadline: float, data_needed: bool
    ) -> SourceImage:
        with self._lock:
            known = self._known.get(address)
        if known is not None and time.monotonic() - known.asked_at < self._fresh_seconds:
            found = self._recalled(known.image, data_needed)
            if found is not None:
                return found
        validators = known.validators if known is not None and not data_needed else Validators()
        image, validators = self._reader.fetch_if_changed(ref, validators, deadline=deadline)
        with self._lock:
            if image is None:
                assert known is not None, "only what is known can be unchanged"
                self.revalidations += 1
                image = known.image
            else:
                self.downloads += 1
                self._keep(image)
            self._known[address] = _Known(replace(image, data=None), validators, time.monotonic())
            self._known.move_to_end(address)
            if len(self._known) > MAX_ADDRESSES:
                self._known.popitem(last=False)
        return image

    def _recalled(self, image: SourceImage, data_needed: bool) -> SourceImage | None:
        if not data_needed:
            return image
        with self._lock:
            data = self._recent.get(image.key)
        return None if data is None else replace(image, data=data)

    def _keep(self, image: SourceImage) -> None:
        if image.data is None or len(image.data) > RECENT_BYTES:
            return
        self._recent[image.key] = image.data
        self._recent.move_to_end(image.key)
        while sum(map(len, self._recent.values())) > RECENT_BYTES:
            self._recent.popitem(last=False)
