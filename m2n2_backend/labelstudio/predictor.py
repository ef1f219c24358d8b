"""A prediction request of Label Studio → predictions, whichever server the request came through."""

from __future__ import annotations

import logging
import sys
import time
from itertools import islice
from typing import Any

from m2n2_backend.errors import ImageNeeded, InvalidImage, InvalidRequest, M2N2Error
from m2n2_backend.images import natural_size
from m2n2_backend.labelstudio.contract.label_config import LabelConfigs
from m2n2_backend.labelstudio.contract.models import PredictRequest
from m2n2_backend.labelstudio.contract.request import InteractiveRequest, parse_request
from m2n2_backend.labelstudio.contract.response import prediction
from m2n2_backend.labelstudio.images.reader import ImageRef, Media
from m2n2_backend.labelstudio.meter import Meter
from m2n2_backend.labelstudio.prefetch import Prefetcher
from m2n2_backend.labelstudio.stroke_reader import StrokeReader
from m2n2_backend.labelstudio.task_images import MOST_SHOWN, images_of_task
from m2n2_backend.prompts import Prompts
from m2n2_backend.worker.interface import Answer, Pool, SourceImage, Subject, Work

logger = logging.getLogger(__name__)


class Predictor:
    """Answers prediction requests; threads share one."""

    def __init__(
        self, pool: Pool, media: Media, *, prefetcher: Prefetcher | None = None, meter: Meter | None = None
    ) -> None:
        """Set up the predictor.

        Args:
            prefetcher: Prepares the images of opened tasks; without one, none is prepared.
            meter: Bounds and counts what is asked of the model; without one, nothing is bounded or counted.
        """
        self._pool = pool
        self._meter = meter
        self.configs = LabelConfigs()
        self._strokes = StrokeReader()
        self._media = media
        self._prefetcher = prefetcher

    def predict(self, request: PredictRequest, *, hostname: str | None = None, deadline: float) -> list[Any]:
        """Answer one request.

        Args:
            request: A request without prompts is answered at once with an empty list per task, before the config, an
                image or the model is touched; the image of a single task is then prefetched.
            hostname: The address that /setup gave; used for relative image addresses where no setting gives one.
            deadline: ``time.monotonic()`` after which nobody waits for the answer.

        Returns:
            One entry per task: a prediction, or an empty list.

        Raises:
            M2N2Error: As for :func:`parse_request`, :meth:`Media.fetch` and :meth:`Pool.segment`.
        """
        if not request.items:
            self._prefetch(request, hostname)
            return [[] for _ in request.tasks]
        if not request.label_config:
            raise InvalidRequest("label_config must be a non-empty string where prompts are sent")
        question = parse_request(request, self.configs.read(request.label_config))
        if question is None:
            logger.info(
                "project %s, task %s: every prompt is already saved, nothing to segment",
                request.project,
                request.tasks[0].get("id"),
            )
            return [[]]
        return [self._segment(question, hostname, deadline)]

    def _prefetch(self, request: PredictRequest, hostname: str | None) -> None:
        """Prefetch the images of a single task, which an annotator opens; several tasks are a batch."""
        if self._prefetcher is None or len(request.tasks) != 1 or not request.label_config:
            return
        (task,) = request.tasks
        try:
            config = self.configs.read(request.label_config)
        except M2N2Error as error:
            logger.info("project %s, task %s: not prefetched: %s", request.project, task.get("id"), error)
            return
        opened = {"id": task.get("id"), "data": task.get("data")}
        shown = islice(images_of_task(opened, config, hostname, request.project), MOST_SHOWN)
        if refs := [ref for _, ref in shown]:
            self._prefetcher.opened(refs, config, project=request.project or "")

    def _segment(self, request: InteractiveRequest, hostname: str | None, deadline: float) -> dict[str, Any]:
        started = time.monotonic()
        ref = ImageRef(request.image, request.task_id, hostname, request.project)
        subject = Subject(request.project, str(request.task_id), request.label, request.prompt_ids)
        image = self._media.fetch(ref, deadline=deadline, data_needed=False)
        read = time.monotonic()
        if image.size is None and image.data is None:
            image = self._media.fetch(ref, deadline=deadline, data_needed=True)
        _check_size(image, request)
        prompts = self._strokes.read(request, deadline)
        try:
            answer = self._ask(image, prompts, request, deadline, subject)
        except ImageNeeded:
            image = self._media.fetch(ref, deadline=deadline, data_needed=True)
            _check_size(image, request)
            answer = self._ask(image, prompts, request, deadline, subject)
        _require_size((answer.mask.shape[1], answer.mask.shape[0]), request)
        segmented = time.monotonic()
        result = prediction(answer, request)
        logger.info(
            "project %s, task %s: %d clicks, %d boxes, score %.2f, read %.0f ms, model %.0f ms (%s), answer %.0f ms"
            "%s",
            request.project,
            request.task_id,
            len(prompts.clicks),
            len(prompts.boxes),
            answer.score,
            1000 * (read - started),
            1000 * (segmented - read),
            ", ".join(f"{name} {milliseconds:.0f}" for name, milliseconds in answer.timings_ms.items()),
            1000 * (time.monotonic() - segmented),
            f", {answer.view}" if answer.view else "",
        )
        return result

    def _ask(
        self, image: SourceImage, prompts: Prompts, request: InteractiveRequest, deadline: float, subject: Subject
    ) -> Answer:
        is_brush = any(target.kind == "brush" for target in request.targets)
        work = Work(image, prompts, deadline - time.monotonic(), subject, rle=is_brush)
        if self._meter is None:
            return self._pool.segment(work)
        with self._meter.place(work):
            answer = self._pool.segment(work)
        self._meter.answered(work, answer)
        return answer


def _check_size(image: SourceImage, request: InteractiveRequest) -> None:
    """Refuse an image of another size than the request claims, before work that grows with the claimed size."""
    size = image.size
    if size is None:
        assert image.data is not None, "an image of unknown size comes with its file"
        size = natural_size(image.data, max_pixels=sys.maxsize)
    _require_size(size, request)


def _require_size(size: tuple[int, int], request: InteractiveRequest) -> None:
    if size != (request.width, request.height):
        raise InvalidImage(
            f"the image is {size[0]}x{size[1]} pixels, but Label Studio showed {request.width}x{request.height}: "
            "another file, or its EXIF orientation was changed; reload the task"
        )
