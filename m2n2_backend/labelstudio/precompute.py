"""The model runs over all images before anybody clicks, and the disk cache keeps it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from m2n2_backend.errors import M2N2Error, SettingsError
from m2n2_backend.folders import is_of_a_person
from m2n2_backend.labelstudio.client import LabelStudioClient
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.images.memory import RememberingMedia
from m2n2_backend.labelstudio.images.reader import ImageRef
from m2n2_backend.labelstudio.outcome import Outcome
from m2n2_backend.labelstudio.task_images import images_of_task
from m2n2_backend.settings import Settings
from m2n2_backend.worker.engine import Engine
from m2n2_backend.worker.pool import SourceImage

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff"})
"""Files of a folder that are taken for images."""

Images = Mapping[str, Path | ImageRef]
"""What people call an image → where it is."""


def images_of_folder(folder: Path) -> Images:
    """The image files of a folder and of all folders in it, in the order of their names.

    Hidden files and folders are passed over, and what operating systems put there: thumbnails, deleted files.

    Raises:
        SettingsError: It is no folder, or holds no image.
    """
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and is_of_a_person(path, folder) and path.is_file()
    )
    if not found:
        raise SettingsError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return {str(path): path for path in found}


def images_of_project(studio: LabelStudioClient, project: int) -> Images:
    """The images of a project's tasks, page by page.

    Raises:
        SettingsError: There are none.
        LabelStudioUnavailable: The project cannot be read.
        InvalidLabelConfig: Its labeling config cannot take masks.
    """
    config = parse_label_config(str(studio.project(project).get("label_config", "")))
    found = {name: ref for task in studio.tasks(project) for name, ref in images_of_task(task, config)}
    if not found:
        places = ", ".join(image.source.place() for image in config.images if image.source and image.prompts)
        raise SettingsError(f"project {project} has no task with an image in {places}")
    return found


def precompute(settings: Settings, images: Images, engine: Engine) -> Iterator[Outcome]:
    """Fill the disk cache; images that are in it are passed over, so an interrupted run goes on where it ended.

    Args:
        settings: How images are read.
        images: Which ones.
        engine: The model and its disk cache.

    Yields:
        ``encoded``, ``present`` or ``failed`` for each image.

    Raises:
        SettingsError: The disk cache cannot be written or is full: going on would evict what was just written.
    """
    media = RememberingMedia.of(settings)
    done = 0
    for name, where in images.items():
        try:
            image = _from_file(where) if isinstance(where, Path) else media.fetch(where)
            present = image.key in engine.disk
            if not present:
                engine.encode_to_disk(image)
        except M2N2Error as error:
            yield Outcome(name, "failed", str(error))
            continue
        done += 1
        if not present:
            _require_room(engine, done)
        yield Outcome(name, "present" if present else "encoded")


def _from_file(path: Path) -> SourceImage:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot be read: {error.strerror}") from error
    return SourceImage(hashlib.sha256(data).hexdigest(), data)


def _require_room(engine: Engine, done: int) -> None:
    disk = engine.disk
    if disk.failures:
        cause = disk.health.trouble.what if disk.health.trouble else "the disk cache could not be used (see the log)"
        raise SettingsError(f"{cause}: {done} images are done")
    if disk.evictions:
        raise SettingsError(
            f"the disk cache is full after {done} images: raise M2N2_DISK_CACHE (now {disk.limit}) and run again"
        )
