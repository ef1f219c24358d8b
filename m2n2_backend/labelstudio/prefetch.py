"""Images that will be clicked soon are encoded before: that of the task just opened, and those of the next tasks."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cachetools import TTLCache

from m2n2_backend.errors import M2N2Error
from m2n2_backend.labelstudio.contract.label_config import LabelConfig
from m2n2_backend.labelstudio.images.download import Clock
from m2n2_backend.labelstudio.images.reader import ImageRef, Media
from m2n2_backend.labelstudio.task_images import MOST_SHOWN, images_of_task
from m2n2_backend.worker.pool import Pool

logger = logging.getLogger(__name__)

MAX_WAITING = 32
"""Opened tasks that wait; older ones are forgotten, as somebody who opens that many looks at none for long."""

REPEAT_SECONDS = 600.0
"""An image is not prefetched twice within this time: Label Studio asks twice for each task that is opened."""

MAX_REMEMBERED = 4096

MAX_WAITING_BYTES = 32 * 1024**2
"""Of the addresses of tasks that wait: data URLs hold whole images."""

QUICK_SECONDS = 2.0
"""Where encoding takes longer, only the opened task's image is prefetched: work that was begun is not interrupted, so
that a click on this image would have to wait for the next task's."""

Upcoming = Callable[[str, object], Sequence[Mapping[str, Any]]]
"""Project and id of a task → the tasks that an annotator will get next."""


@dataclass(frozen=True)
class _Opened:
    refs: tuple[ImageRef, ...]
    config: LabelConfig
    project: str

    @property
    def nbytes(self) -> int:
        """Bytes of the addresses; a character takes up to four."""
        return sum(sys.getsizeof(ref.url) for ref in self.refs)


class Prefetcher:
    """A thread that reads images and hands them to the pool; whatever fails is left to the click that needs it."""

    def __init__(
        self,
        pool: Pool,
        media: Media,
        *,
        timeout: float,
        upcoming: Upcoming | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Start the thread.

        Args:
            pool: The model.
            media: Where images are read.
            timeout: Seconds for one image.
            upcoming: How to learn of the next tasks, None where that is not possible.
            clock: Of deadlines and repeats.
        """
        self._clock = clock
        self._pool = pool
        self._media = media
        self._timeout = timeout
        self._upcoming = upcoming
        self._waiting: deque[_Opened] = deque(maxlen=MAX_WAITING)
        self._seen: TTLCache[bytes, bool] = TTLCache(MAX_REMEMBERED, REPEAT_SECONDS, timer=clock)
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def opened(self, refs: Sequence[ImageRef], config: LabelConfig, *, project: str) -> None:
        """Note that a task was opened; returns at once.

        Args:
            refs: The images that are shown first, at least one.
            config: Tells where further tasks hold theirs.
            project: As /predict names it; "" where only these images are wanted.
        """
        with self._changed:
            self._waiting.append(_Opened(tuple(refs), config, project))
            while sum(one.nbytes for one in self._waiting) > MAX_WAITING_BYTES:
                self._waiting.popleft()
            self._changed.notify()

    def close(self) -> None:
        """Stop after the image in work."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                opened = self._waiting.pop()  # the newest: somebody is looking at it now
            try:
                self._prefetch(opened)
            except M2N2Error as error:
                logger.info("prefetch after task %s: %s", opened.refs[0].task_id, error)
            except Exception:
                logger.exception("prefetch after task %s failed", opened.refs[0].task_id)

    def _prefetch(self, opened: _Opened) -> None:
        for ref in opened.refs:
            self._image(ref)
        if self._upcoming is not None and opened.project and self._is_quick():
            for task in self._upcoming(opened.project, opened.refs[0].task_id):
                if self._waiting or self._closed:
                    break  # what was opened meanwhile goes first
                for _, ref in islice(images_of_task(task, opened.config, opened.refs[0].hostname), MOST_SHOWN):
                    self._image(ref)

    def _is_quick(self) -> bool:
        """Whether the model is fast enough that a click never waits long for the image of a later task."""
        return all(worker.encode_seconds <= QUICK_SECONDS for worker in self._pool.stats())

    def _image(self, ref: ImageRef) -> None:
        """Hand one image to the pool; one that cannot be read is in no other's way."""
        try:
            self._read(ref)
        except M2N2Error as error:
            logger.info("prefetch of task %s: %s", ref.task_id, error)

    def _read(self, ref: ImageRef) -> None:
        key = ref.key
        if key in self._seen:
            return
        if self._pool.prefetch(self._media.fetch(ref, deadline=self._clock() + self._timeout)):
            self._seen[key] = True
