"""Tasks of a project, as Label Studio lists them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from m2n2_backend.errors import LabelStudioUnavailable
from m2n2_backend.labelstudio.api import StudioApi
from m2n2_backend.labelstudio.images.reader import ImageRef
from m2n2_backend.settings import Settings

PAGE = 100
"""Tasks asked for at a time."""

UPCOMING_SECONDS = 10.0
"""For the list of the next tasks, which nobody waits for."""

_WITH_TASK_ONLY = {"fields": "task_only"}  # without annotations, whose masks may be large


def image_refs(task: Mapping[str, Any], image_key: str, hostname: str | None = None) -> Iterator[ImageRef]:
    """The images of a task, page by page; nothing where its data hold none.

    Args:
        task: As Label Studio sends it; whatever does not look like an address is passed over.
        image_key: Key of its data; see :class:`~m2n2_backend.labelstudio.contract.label_config.LabelConfig`.
        hostname: See :class:`~m2n2_backend.labelstudio.images.reader.ImageRef`.
    """
    data = task.get("data")
    value = data.get(image_key) if isinstance(data, Mapping) else None
    for url in value if isinstance(value, list) else [value]:
        if isinstance(url, str):
            yield ImageRef(url, task.get("id"), hostname)


@dataclass(frozen=True)
class ProjectTasks:
    """The task lists of one Label Studio."""

    api: StudioApi

    @staticmethod
    def of(settings: Settings, *, seconds: float = UPCOMING_SECONDS) -> ProjectTasks | None:
        """By the settings' address and token; None where one of them is not set."""
        url, key = settings.label_studio_url, settings.label_studio_api_key
        if url is None or key is None:
            return None
        return ProjectTasks(StudioApi(url, key.get_secret_value().strip(), seconds=seconds))

    def project(self, project: int) -> Mapping[str, Any]:
        """What Label Studio tells of a project, with ``label_config`` and ``task_number``.

        Raises:
            LabelStudioUnavailable: No such project, or Label Studio does not answer.
        """
        data = self._get(f"/api/projects/{project}/")
        if not isinstance(data, Mapping):
            raise LabelStudioUnavailable(f"Label Studio's answer about project {project} is none")
        return data

    def all(self, project: int) -> Iterator[Mapping[str, Any]]:
        """Every task in the order of the ids.

        Raises:
            LabelStudioUnavailable: No such project, or Label Studio does not answer.
        """
        last = 0
        while tasks := self.after(project, last, PAGE):
            yield from tasks
            last = max(int(task["id"]) for task in tasks)

    def after(
        self, project: int | str, task_id: int, count: int, *, unlabeled: bool = False
    ) -> list[Mapping[str, Any]]:
        """The tasks with the next higher ids: what annotators get next where tasks come in their order.

        Args:
            project: Id of the project.
            task_id: Id of a task in it, or 0.
            count: Most tasks.
            unlabeled: Only those without annotations.

        Raises:
            LabelStudioUnavailable: No such project, or Label Studio does not answer.
        """
        items = [{"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": task_id}]
        if unlabeled:
            items.append(
                {"filter": "filter:tasks:total_annotations", "operator": "equal", "type": "Number", "value": 0}
            )
        query = json.dumps({"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]})
        data = self._get("/api/tasks/", project=project, page=1, page_size=count, query=query, **_WITH_TASK_ONLY)
        found = data.get("tasks") if isinstance(data, Mapping) else data
        return [task for task in found if isinstance(task, Mapping)] if isinstance(found, list) else []

    def upcoming(self, project: str, task_id: object, count: int) -> list[Mapping[str, Any]]:
        """The next tasks without annotations; ``project`` as /predict names it, "1.1795354407"."""
        number = project.partition(".")[0]
        if not number.isdigit() or not isinstance(task_id, int):
            return []
        return self.after(number, task_id, count, unlabeled=True)

    def _get(self, path: str, **query: object) -> Any:
        reply = self.api.get(path, **query)
        if reply.status != 200:
            cause = f": {reply.detail}" if reply.detail else ""
            cure = "`m2n2-backend doctor` checks address and token"
            raise LabelStudioUnavailable(f"Label Studio answered {reply.status} for {path}{cause}; {cure}")
        return reply.data
