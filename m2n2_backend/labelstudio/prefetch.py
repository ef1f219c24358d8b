"""Images that will be clicked soon are encoded before: that of the task just opened, and those of the next tasks."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from m2n2_backend.errors import M2N2Error
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.images.download import Clock
from m2n2_backend.labelstudio.images.reader import ImageRef, Media
from m2n2_backend.worker.pool import Pool

logger = logging.getLogger(__name__)

MAX_WAITING = 32
"""Opened tasks that wait; older ones are forgotten, as somebody who opens that many looks at none for long."""

REPEAT_SECONDS = 600.0
"""An image is not prefetched twice within this time: Label Studio asks twice for each task that is opened."""

MAX_REMEMBERED = 4096

QUICK_SECONDS = 2.0
"""Where encoding takes longer, only the opened task's image is prefetched: work that was begun is not interrupted, so
that a click on this image would have to wait for the next task's."""

Upcoming = Callable[[str, object], Sequence[Mapping[str, Any]]]
"""Project and id of a task → the tasks that an annotator will get next."""


@dataclass(frozen=True)
class _Opened:
    task: Mapping[str, Any]
    label_config: str
    project: str
    hostname: str | None


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
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def opened(self, task: Mapping[str, Any], label_config: str, *, project: str, hostname: str | None) -> None:
        """Note that a task was opened; returns at once."""
        with self._changed:
            self._waiting.append(_Opened(task, label_config, project, hostname))
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
                logger.info("prefetch of task %s: %s", opened.task.get("id"), error)
            except Exception:
                logger.exception("prefetch of task %s failed", opened.task.get("id"))

    def _prefetch(self, opened: _Opened) -> None:
        key = parse_label_config(opened.label_config).image_key
        self._task(opened.task, key, opened.hostname)
        if self._upcoming is not None and opened.project and self._is_quick():
            for task in self._upcoming(opened.project, opened.task.get("id")):
                if self._waiting or self._closed:
                    break  # what was opened meanwhile goes first
                self._task(task, key, opened.hostname)

    def _is_quick(self) -> bool:
        """Whether the model is fast enough that a click never waits long for the image of a later task."""
        return all(worker.encode_seconds <= QUICK_SECONDS for worker in self._pool.stats())

    def _task(self, task: Mapping[str, Any], image_key: str, hostname: str | None) -> None:
        for ref in islice(
            ImageRef.of_task(task, image_key, hostname), 1
        ):  # of several pages the one that is shown first
            if self._is_new(ref.url):
                image = self._media.fetch(ref, deadline=self._clock() + self._timeout)
                self._pool.prefetch(image)

    def _is_new(self, url: str) -> bool:
        now = self._clock()
        if now - self._seen.get(url, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        self._seen[url] = now
        self._seen.move_to_end(url)
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        return True
