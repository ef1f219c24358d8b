"""A prediction request, as Label Studio sends it → predictions, whichever server it came through."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from m2n2_backend.errors import ImageNeeded, InvalidImage, NotReady
from m2n2_backend.labelstudio.contract.fields import as_list, as_object, as_text
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.contract.request import InteractiveRequest, context_items, parse_request
from m2n2_backend.labelstudio.contract.response import prediction
from m2n2_backend.labelstudio.images.reader import ImageRef, Media
from m2n2_backend.labelstudio.prefetch import Prefetcher
from m2n2_backend.worker.pool import Pool, Subject

logger = logging.getLogger(__name__)


class Predictor:
    """Answers prediction requests; threads share one."""

    def __init__(self, pool: Pool, media: Media, *, at_once: int, prefetcher: Prefetcher | None = None) -> None:
        """Set up the predictor.

        Args:
            pool: The model.
            media: Where images are read.
            at_once: Most objects that are segmented at a time; one more is told to come back. A server keeps more
                threads than that, so that waiting for the model never blocks what must be answered at once.
            prefetcher: Told of opened tasks.
        """
        self.pool = pool
        self._media = media
        self._at_once = at_once
        self._prefetcher = prefetcher
        self._slots = threading.BoundedSemaphore(at_once)

    def predict(
        self,
        tasks: object,
        context: object,
        label_config: object,
        *,
        project: str = "",
        hostname: str | None = None,
        deadline: float,
    ) -> list[Any]:
        """Answer one request.

        Args:
            tasks: The request's ``tasks``.
            context: Its ``params.context``; without prompts every task is answered with an empty list at
                once, before the config, an image or the model is touched.
            label_config: The project's labeling config, XML.
            project: Label Studio's id of the project.
            hostname: The address /setup gave, used for relative image addresses where no setting is.
            deadline: ``time.monotonic()`` after which nobody waits for the answer.

        Returns:
            One entry per task: a prediction, or an empty list.

        Raises:
            NotReady: Too many others are being answered.
            M2N2Error: Of the kinds that ``request``, ``media`` and the pool name.
        """
        listed = as_list(tasks, "tasks")
        for index, task in enumerate(listed):
            as_object(task, f"tasks[{index}]")
        items = context_items(context)
        if not items:
            # One task is one that an annotator opens; many are a batch, whose images nobody is looking at.
            if self._prefetcher is not None and len(listed) == 1:
                self._prefetcher.opened(listed[0], label_config, project=project, hostname=hostname)
            return [[] for _ in listed]
        config = parse_label_config(as_text(label_config, "label_config"))
        request = parse_request(listed, items, config, project=project)
        if request is None:
            logger.info("task %s: every prompt is already saved, nothing to segment", _ids(listed))
            return [[]]
        if not self._slots.acquire(blocking=False):
            raise NotReady(f"busy: {self._at_once} prompts are being answered; click again in a moment")
        try:
            return [self._segment(request, hostname, deadline)]
        finally:
            self._slots.release()

    def _segment(self, request: InteractiveRequest, hostname: str | None, deadline: float) -> dict[str, Any]:
        started = time.monotonic()
        ref = ImageRef(request.image, request.task_id, hostname)
        subject = Subject(request.project, str(request.task_id), request.label, request.prompt_ids)
        image = self._media.fetch(ref, deadline=deadline, data_needed=False)
        read = time.monotonic()
        try:
            _check_size(image.size, request)
            answer = self.pool.segment(image, request.prompts, deadline=deadline, subject=subject)
        except ImageNeeded:
            image = self._media.fetch(ref, deadline=deadline, data_needed=True)
            _check_size(image.size, request)
            answer = self.pool.segment(image, request.prompts, deadline=deadline, subject=subject)
        _check_size((answer.mask.shape[1], answer.mask.shape[0]), request)
        segmented = time.monotonic()
        result = prediction(answer, request)
        logger.info(
            "task %s: %d clicks, %d boxes, score %.2f, read %.0f ms, model %.0f ms (%s), response %.0f ms",
            request.task_id,
            len(request.prompts.clicks),
            len(request.prompts.boxes),
            answer.score,
            1000 * (read - started),
            1000 * (segmented - read),
            ", ".join(f"{name} {milliseconds:.0f}" for name, milliseconds in answer.timings_ms.items()),
            1000 * (time.monotonic() - segmented),
        )
        return result


def _check_size(size: tuple[int, int] | None, request: InteractiveRequest) -> None:
    if size is not None and size != (request.width, request.height):
        raise InvalidImage(
            f"the image is {size[0]}x{size[1]} pixels, but Label Studio showed {request.width}x{request.height}: "
            "another file, or its EXIF orientation was changed; reload the task"
        )


def _ids(tasks: Sequence[Any]) -> str:
    return ", ".join(str(task.get("id")) for task in tasks)
