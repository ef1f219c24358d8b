"""Predictions for a whole project, posted to Label Studio, without its limit of 100 seconds for all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from itertools import islice
from statistics import fmean
from typing import Any

from m2n2_backend.errors import BackboneUnavailable, InvalidImage, InvalidRequest, M2N2Error
from m2n2_backend.labelstudio.client import LabelStudioClient
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.contract.models import PredictRequest
from m2n2_backend.labelstudio.contract.reading import read
from m2n2_backend.labelstudio.contract.saved_prompts import (
    Region,
    Source,
    column_objects,
    saved_objects,
    without_prompts,
)
from m2n2_backend.labelstudio.images.cached import CachedImages
from m2n2_backend.labelstudio.images.reader import ImageRef, Media
from m2n2_backend.labelstudio.outcome import Outcome
from m2n2_backend.labelstudio.predictor import Predictor
from m2n2_backend.settings import Settings
from m2n2_backend.worker.interface import Pool, wait_until_loaded

SECONDS = 900.0
"""Limit for one object: nobody waits at a screen, and a large model on a CPU takes minutes to encode."""


class ProjectBatch:
    """One project's tasks, one after the other."""

    def __init__(
        self, settings: Settings, project: int, *, column: str | None = None, source: Source = "annotations"
    ) -> None:
        """Ask Label Studio for the project.

        Args:
            column: Key of the tasks' data that holds the prompts; None for the prompts that were drawn and saved.
            source: Where drawn prompts are saved.

        Raises:
            SettingsError: Address or token is not set.
            LabelStudioUnavailable: Label Studio does not answer, or refuses this token or project.
            InvalidLabelConfig: The project's labeling config cannot take masks.
        """
        self._studio = LabelStudioClient.of(settings)
        self._settings = settings
        self._project = project
        self._column = column
        self._source: Source = source
        found = self._studio.project(project)
        self.size = int(found.get("task_number") or 0)
        self._xml = str(found.get("label_config"))
        self._config = parse_label_config(self._xml)

    def run(self, pool: Pool) -> Iterator[Outcome]:
        """Predict and post. Tasks that are done are passed over, so an interrupted run continues where it ended.

        Yields:
            ``posted``; ``present`` where a prediction of this model version was there; ``no prompts``; ``failed``.

        Raises:
            BackboneUnavailable: The model cannot be loaded.
            LabelStudioUnavailable: The list of tasks cannot be read.
        """
        version = wait_until_loaded(pool).model_version
        media = CachedImages.of(self._settings)
        predictor = Predictor(pool, media)
        for task in self._studio.tasks(self._project, whole=True):
            name = f"task {task['id']}"
            if any(one.get("model_version") == version for one in task.get("predictions") or ()):
                yield Outcome(name, "present")
                continue
            try:
                objects = self._objects(task, media)
                if not objects:
                    found = without_prompts(task, self._config, self._source) if self._column is None else ""
                    yield Outcome(name, "no prompts", found)
                    continue
                self._studio.post_prediction(task["id"], self._predicted(predictor, task, objects))
            except BackboneUnavailable:
                raise
            except M2N2Error as error:
                yield Outcome(name, "failed", str(error))
            else:
                yield Outcome(name, "posted")

    def _objects(self, task: Mapping[str, Any], media: Media) -> list[list[Region]]:
        if self._column is None:
            return saved_objects(task, self._config, self._source)
        data = task.get("data") or {}
        if data.get(self._column) is None:
            return []
        shown = list(islice(self._config.addresses(data), 2))
        if len(shown) != 1:
            found = "several images" if shown else "no image that can be clicked"
            raise InvalidRequest(f"a column of prompts needs a task with one image, and this one has {found}")
        (on, _, url), *_ = shown
        image = media.fetch(ImageRef(url, task["id"]), deadline=time.monotonic() + SECONDS)
        assert image.size is not None, "a reader measures the size"
        return column_objects(data[self._column], f"data.{self._column}", image.size, on)

    def _predicted(
        self, predictor: Predictor, task: Mapping[str, Any], objects: list[list[Region]]
    ) -> dict[str, Any]:
        # Without its annotations, in which the prompts stand as saved and would be taken for another object's.
        bare = {"id": task["id"], "data": task["data"]}
        found = []
        for items in objects:
            body = {"tasks": [bare], "params": {"context": {"result": items}}, "label_config": self._xml}
            request = read(PredictRequest, {**body, "project": self._project})
            found += predictor.predict(request, deadline=time.monotonic() + SECONDS)
        regions = [region for one in found for region in one["result"]]
        if not regions:
            raise InvalidImage("no mask was found for the prompts")
        return {
            "result": regions,
            "score": fmean(one["score"] for one in found),
            "model_version": found[0]["model_version"],
        }
