"""A prediction request, as Label Studio sends it → predictions, whichever server it came through."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from m2n2_backend.errors import InvalidImage, NotReady
from m2n2_backend.images import natural_size
from m2n2_backend.labelstudio.fields import as_list, as_object, as_text
from m2n2_backend.labelstudio.label_config import parse_label_config
from m2n2_backend.labelstudio.media import ImageRef, Media
from m2n2_backend.labelstudio.request import InteractiveRequest, context_items, parse_request
from m2n2_backend.labelstudio.response import prediction
from m2n2_backend.worker.pool import Answer, Pool, SourceImage

logger = logging.getLogger(__name__)


class Predictor:
    """Answers prediction requests; threads share one."""

    def __init__(self, pool: Pool, media: Media, *, max_pixels: int, at_once: int) -> None:
        """Set up the predictor.

        Args:
            pool: The model.
            media: Where images are read.
            max_pixels: Most pixels of an image.
            at_once: Most objects that are segmented at a time; one more is told to come back. A server keeps more
                threads than that, so that waiting for the model never blocks what must be answered at once.
        """
        self.pool = pool
        self._media = media
        self._max_pixels = max_pixels
        self._at_once = at_once
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
        image = self._media.fetch(ImageRef(request.image, request.task_id, hostname), deadline=deadline)
        self._check_size(image, request)
        read = time.monotonic()
        answer = self.pool.segment(image, request.prompts, deadline=deadline)
        _check_mask(answer, request)
        segmented = time.monotonic()
        result = prediction(answer, request)
        logger.info(
            "task %s: %d clicks, %d boxes, score %.2f, read %.0f ms, segment %.0f ms, encode %.0f ms",
            request.task_id,
            len(request.prompts.clicks),
            len(request.prompts.boxes),
            answer.score,
            1000 * (read - started),
            1000 * (segmented - read),
            1000 * (time.monotonic() - segmented),
        )
        return result

    def _check_size(self, image: SourceImage, request: InteractiveRequest) -> None:
        width, height = natural_size(image.data, max_pixels=self._max_pixels)
        if (width, height) != (request.width, request.height):
            raise _size_error(width, height, request)


def _check_mask(answer: Answer, request: InteractiveRequest) -> None:
    height, width = answer.mask.shape
    if (width, height) != (request.width, request.height):
        raise _size_error(width, height, request)


def _size_error(width: int, height: int, request: InteractiveRequest) -> InvalidImage:
    return InvalidImage(
        f"the image is {width}x{height} pixels, but Label Studio showed {request.width}x{request.height}: "
        "another file, or its EXIF orientation was changed; reload the task"
    )


def _ids(tasks: Sequence[Any]) -> str:
    return ", ".join(str(task.get("id")) for task in tasks)
