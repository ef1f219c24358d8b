"""Images that will be clicked soon are encoded ahead: that of the task just opened, and those of the next tasks."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cachetools import TTLCache

from m2n2_backend.errors import M2N2Error
from m2n2_backend.labelstudio.contract.label_config import LabelConfig
from m2n2_backend.labelstudio.images.download import Clock
from m2n2_backend.labelstudio.images.reader import ImageRef, Media
from m2n2_backend.labelstudio.task_images import MOST_SHOWN, images_of_task
from m2n2_backend.worker.interface import Pool

logger = logging.getLogger(__name__)

MAX_WAITING = 32
"""Opened tasks that wait; older ones are forgotten, as somebody who opens that many looks at none for long."""

REPEAT_SECONDS = 600.0
"""An image is not prefetched twice within this time: Label Studio asks twice for each task that is opened."""

MAX_REMEMBERED = 4096

MAX_WAITING_BYTES = 32 * 1024**2
"""Most bytes of the addresses of waiting tasks: data URLs hold whole images."""

THREADS = 3
"""Tasks whose images are read at once: at most two with all images in Label Studio, and two with images elsewhere."""

QUICK_SECONDS = 2.0
"""Where encoding takes longer, only the opened task's image is prefetched: work that was begun is not interrupted,
and a click on this image would have to wait for the next task's image."""

Upcoming = Callable[[str, object], Sequence[Mapping[str, Any]]]
"""Project and id of a task → the tasks that an annotator will get next."""


@dataclass(frozen=True, eq=False)
class OpenedTask:
    """A task whose images are wanted: one that an annotator opened, or one that comes next."""

    refs: tuple[ImageRef, ...]
    config: LabelConfig
    project: str
    hosts: frozenset[str]  # the hosts that are asked for the images, without Label Studio
    is_next: bool = False  # one of the next tasks: nobody looks at it yet

    @property
    def nbytes(self) -> int:
        """Bytes of the addresses; a character takes up to four."""
        return sum(sys.getsizeof(ref.url) for ref in self.refs)

    def is_beside(self, others: Collection[OpenedTask]) -> bool:
        """Whether this one may be read beside others: a slow host, or a busy project, holds one thread of several."""
        alike = [other for other in others if bool(other.hosts) == bool(self.hosts)]
        return len(alike) < THREADS - 1 and not any(
            other.project == self.project or other.hosts & self.hosts for other in others
        )


class Prefetcher:
    """Threads that read images and hand them to the pool; a failure is left to the click that needs the image."""

    def __init__(
        self,
        pool: Pool,
        media: Media,
        *,
        timeout: float,
        upcoming: Upcoming | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Start the threads.

        Args:
            timeout: Seconds for one image.
            upcoming: Finds the next tasks; None where that is not possible.
        """
        self._clock = clock
        self._pool = pool
        self._media = media
        self._timeout = timeout
        self._upcoming = upcoming
        self._waiting: deque[OpenedTask] = deque(maxlen=MAX_WAITING)
        self._later: deque[OpenedTask] = deque(maxlen=MAX_WAITING)
        self._in_work: list[OpenedTask] = []
        self._seen: TTLCache[bytes, bool] = TTLCache(MAX_REMEMBERED, REPEAT_SECONDS, timer=clock)
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name="prefetch", daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def opened(self, refs: Sequence[ImageRef], config: LabelConfig, *, project: str) -> None:
        """Note that a task was opened; returns at once.

        Args:
            refs: The images that are shown first, at least one.
            config: The labeling config, by which the images of further tasks are found.
            project: The project as /predict names it; "" where only these images are wanted.
        """
        with self._changed:
            for obsolete in [one for one in self._later if one.project == project]:
                self._later.remove(obsolete)
            self._put(self._waiting, OpenedTask(tuple(refs), config, project, self._hosts(refs)))

    def close(self) -> None:
        """Stop after the images in work."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until = time.monotonic() + 5
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while (opened := self._begin()) is not None:
            try:
                self._prefetch(opened)
            except M2N2Error as error:
                logger.info("prefetch after task %s: %s", opened.refs[0].task_id, error)
            except Exception:
                logger.exception("prefetch after task %s failed", opened.refs[0].task_id)
            with self._changed:
                self._in_work.remove(opened)
                self._changed.notify_all()

    def _begin(self) -> OpenedTask | None:
        """Wait for a task that may be read beside those in work; None at the end."""
        with self._changed:
            while not self._closed:
                # The newest goes first: somebody is looking at it now.
                for opened in (*reversed(self._waiting), *self._later):
                    if opened.is_beside(self._in_work):
                        (self._later if opened.is_next else self._waiting).remove(opened)
                        self._in_work.append(opened)
                        return opened
                self._changed.wait()
            return None

    def _prefetch(self, opened: OpenedTask) -> None:
        for ref in opened.refs:
            self._image(ref)
        if self._upcoming is None or not opened.project or opened.is_next or not self._is_quick():
            return
        config, hostname = opened.config, opened.refs[0].hostname
        for task in self._upcoming(opened.project, opened.refs[0].task_id):
            shown = images_of_task(task, config, hostname, opened.project)
            if refs := tuple(ref for _, ref in islice(shown, MOST_SHOWN)):
                with self._changed:
                    self._put(self._later, OpenedTask(refs, config, opened.project, self._hosts(refs), is_next=True))

    def _put(self, tasks: deque[OpenedTask], opened: OpenedTask) -> None:
        tasks.append(opened)
        while sum(one.nbytes for one in tasks) > MAX_WAITING_BYTES:
            tasks.popleft()
        self._changed.notify_all()

    def _hosts(self, refs: Sequence[ImageRef]) -> frozenset[str]:
        return frozenset(self._media.host(ref) for ref in refs) - {""}

    def _is_quick(self) -> bool:
        """Whether the model is fast enough that a click never waits long for the image of a later task."""
        return all(worker.figures.encode_seconds <= QUICK_SECONDS for worker in self._pool.stats())

    def _image(self, ref: ImageRef) -> None:
        """Hand one image to the pool; one that cannot be read does not keep others from being read."""
        try:
            self._read(ref)
        except M2N2Error as error:
            logger.info("prefetch of task %s: %s", ref.task_id, error)

    def _read(self, ref: ImageRef) -> None:
        key = ref.key
        with self._changed:
            if key in self._seen:
                return
        if self._pool.prefetch(self._media.fetch(ref, deadline=self._clock() + self._timeout)):
            with self._changed:
                self._seen[key] = True
