"""The project to click in: created once, connected with the backend at every start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from m2n2_backend.labelstudio.client import LabelStudioClient


def project_named(api: LabelStudioClient, title: str, config: str, images: Sequence[Path]) -> int:
    """The id of the project with that title; if it does not exist, it is created with one task for each image.

    Raises:
        LabelStudioUnavailable: Label Studio refuses.
    """
    projects = api.call("GET", "/api/projects/", page_size=1000, fields="id,title,task_number")
    for project in projects["results"]:
        if project["title"] == title:
            number = int(project["id"])
            if not project.get("task_number"):
                upload(api, number, images)
            return number
    number = create_project(api, title, config)
    upload(api, number, images)
    return number


def create_project(api: LabelStudioClient, title: str, config: str, **more: Any) -> int:
    """A new project.

    Returns:
        Its id.
    """
    project = api.call("POST", "/api/projects/", {"title": title, "label_config": config, **more})
    return int(project["id"])


def upload(api: LabelStudioClient, project: int, images: Sequence[Path]) -> None:
    """Make one task of each image file."""
    for image in images:
        # One by one: several files of one request become tasks in no certain order.
        api.call("POST", f"/api/projects/{project}/import", files={"file": (image.name, image.read_bytes())})
