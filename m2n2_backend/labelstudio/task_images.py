"""A task → the images in it that can be clicked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from m2n2_backend.labelstudio.contract.label_config import LabelConfig
from m2n2_backend.labelstudio.images.reader import ImageRef

MOST_SHOWN = 4
"""Images of a task that are prefetched: a task may show many at once, and an annotator begins with one."""


def images_of_task(
    task: Mapping[str, Any], config: LabelConfig, hostname: str | None = None, project: str | None = None
) -> Iterator[tuple[str, ImageRef]]:
    """The images of a task, the first page of each before further pages.

    Values of the task that do not look like an address are passed over. ``hostname`` and ``project`` are those of
    :class:`~m2n2_backend.labelstudio.images.reader.ImageRef`.

    Yields:
        The image's name for people, such as "task 7, page 2", and where the image is.
    """
    several = len(config.images) > 1
    for image, page, url in config.addresses(task.get("data")):
        name = f"task {task.get('id')}"
        name += f", {image.name}" if several or image.index is not None else ""
        name += f", page {page + 1}" if page else ""
        yield name, ImageRef(url, task.get("id"), hostname, project)
