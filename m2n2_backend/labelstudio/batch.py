"""Predictions for a whole project, posted to Label Studio, without its limit of 100 seconds for all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from m2n2_backend.errors import BackboneUnavailable, InvalidImage, LabelStudioUnavailable, M2N2Error, SettingsError
from m2n2_backend.labelstudio.contract.fields import as_text
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.contract.saved_prompts import Item, column_objects, saved_objects
from m2n2_backend.labelstudio.images.reader import ImageRef, Media, MediaReader
from m2n2_backend.labelstudio.predictor import Predictor
from m2n2_backend.settings import Settings
from m2n2_backend.worker.pool import Pool, SourceImage

SECONDS = 900.0
"""For one object: nobody waits at a screen, and a large model on a CPU takes minutes to encode."""

_API_SECONDS = 60.0
_PAGE = 50
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Attributes:
        task_id: Label Studio's id.
        state: ``posted``; ``present`` where a prediction of this model version was there; ``no prompts``; ``failed``.
        detail: Why it failed, else empty.
    """

    task_id: int
    state: Literal["posted", "present", "no prompts", "failed"]
    detail: str = ""


class ProjectBatch:
    """One project's tasks, one after the other."""

    def __init__(self, settings: Settings, project: int, *, column: str | None = None) -> None:
        """Ask Label Studio for the project.

        Args:
            settings: Label Studio's address and token, and the limits.
            project: Its id.
            column: Key of the tasks' data that holds the prompts; those saved in annotations and drafts if None.

        Raises:
            SettingsError: Address or token is not set.
            LabelStudioUnavailable: Label Studio does not answer, or not for this token or project.
            InvalidLabelConfig: The project's labeling config cannot take masks.
        """
        url, key = settings.label_studio_url, settings.label_studio_api_key
        if url is None or key is None:
            raise SettingsError("set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY: the tasks are read from Label Studio")
        self._settings = settings
        self._project = project
        self._column = column
        try:
            self._studio = LabelStudio(base_url=url, api_key=key.get_secret_value().strip(), timeout=_API_SECONDS)
            found = self._studio.projects.get(project)
        except (ApiError, httpx.HTTPError) as error:
            raise _unavailable(error, f"project {project}") from error
        self.size = int(found.task_number or 0)
        self._xml = str(found.label_config)
        self._config = parse_label_config(self._xml)

    def run(self, pool: Pool) -> Iterator[Outcome]:
        """Predict and post; an interrupted run goes on where it ended, as tasks that are done are passed over.

        Args:
            pool: The model; it stays the caller's to close.

        Raises:
            BackboneUnavailable: The model cannot be loaded.
            LabelStudioUnavailable: The list of tasks cannot be read.
        """
        version = _version_when_ready(pool)
        media = _LatestImage(MediaReader(self._settings))
        predictor = Predictor(pool, media, at_once=1)
        for task in self._tasks():
            number = int(task["id"])
            if any(one.get("model_version") == version for one in task.get("predictions") or ()):
                yield Outcome(number, "present")
                continue
            try:
                objects = self._objects(task, media)
                if not objects:
                    yield Outcome(number, "no prompts")
                    continue
                self._post(number, self._predicted(predictor, task, objects))
            except BackboneUnavailable:
                raise
            except M2N2Error as error:
                yield Outcome(number, "failed", str(error))
            else:
                yield Outcome(number, "posted")

    def _tasks(self) -> Iterator[dict[str, Any]]:
        try:
            for task in self._studio.tasks.list(project=self._project, fields="all", page_size=_PAGE):
                yield task.model_dump(mode="json")
        except (ApiError, httpx.HTTPError) as error:
            raise _unavailable(error, "the list of tasks") from error

    def _objects(self, task: Mapping[str, Any], media: Media) -> list[list[Item]]:
        if self._column is None:
            return saved_objects(task, self._config)
        data = task.get("data") or {}
        if data.get(self._column) is None:
            return []
        if self._config.pages:
            raise SettingsError("a column of prompts needs tasks with one image each, not valueList")
        url = as_text(data.get(self._config.image_key), f"data.{self._config.image_key}")
        image = media.fetch(ImageRef(url, task["id"]), deadline=time.monotonic() + SECONDS)
        assert image.size is not None, "a reader tells the size"
        return column_objects(data[self._column], f"data.{self._column}", image.size, self._config)

    def _predicted(self, predictor: Predictor, task: Mapping[str, Any], objects: list[list[Item]]) -> dict[str, Any]:
        # Without its annotations, in which the prompts stand as saved and would be taken for another object's.
        bare = {"id": task["id"], "data": task["data"]}
        found = []
        for items in objects:
            deadline = time.monotonic() + SECONDS
            found += predictor.predict(
                [bare], {"result": items}, self._xml, project=str(self._project), deadline=deadline
            )
        regions = [region for one in found for region in one["result"]]
        if not regions:
            raise InvalidImage("no mask was found for the prompts")
        return {
            "result": regions,
            "score": fmean(one["score"] for one in found),
            "model_version": found[0]["model_version"],
        }

    def _post(self, task: int, prediction: dict[str, Any]) -> None:
        try:
            self._studio.predictions.create(task=task, **prediction)
        except (ApiError, httpx.HTTPError) as error:
            raise _unavailable(error, "a prediction") from error


class _LatestImage:
    """Media that keeps the last image: the objects of a task lie in the same one."""

    def __init__(self, media: Media) -> None:
        self._media = media
        self._latest: tuple[ImageRef, SourceImage] | None = None

    def fetch(self, ref: ImageRef, *, deadline: float, data_needed: bool = True) -> SourceImage:
        """See :meth:`m2n2_backend.labelstudio.images.reader.Media.fetch`."""
        if self._latest is None or self._latest[0] != ref:
            self._latest = ref, self._media.fetch(ref, deadline=deadline)
        return self._latest[1]

    def close(self) -> None:
        """See :meth:`m2n2_backend.labelstudio.images.reader.Media.close`."""
        self._media.close()


def _version_when_ready(pool: Pool) -> str:
    while (status := pool.status()).state == "loading":
        time.sleep(_POLL_SECONDS)
    if status.state == "failed":
        raise BackboneUnavailable(status.detail)
    return status.model_version


def _unavailable(error: Exception, what: str) -> LabelStudioUnavailable:
    """The SDK's error in a line; its own text lists headers and may hold the token's."""
    if isinstance(error, ApiError):
        detail = error.body.get("detail") if isinstance(error.body, dict) else None
        cause = f"Label Studio answered {error.status_code} for {what}" + (
            f": {str(detail).rstrip('.')}" if detail else ""
        )
    else:
        cause = f"Label Studio cannot be asked for {what}: {str(error) or type(error).__name__}"
    return LabelStudioUnavailable(f"{cause}; `m2n2-backend doctor` checks address and token")
