"""The model runs over all images before anybody clicks, and the disk cache keeps it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from m2n2_backend.errors import BackboneUnavailable, M2N2Error, SettingsError
from m2n2_backend.images.folders import is_of_a_person
from m2n2_backend.labelstudio.client import LabelStudioClient
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.images.cached import CachedImages
from m2n2_backend.labelstudio.images.reader import ImageRef
from m2n2_backend.labelstudio.outcome import Outcome
from m2n2_backend.labelstudio.task_images import images_of_task
from m2n2_backend.settings import Settings
from m2n2_backend.worker.interface import SourceImage
from m2n2_backend.worker.local.pool import ProcessPool
from m2n2_backend.worker.messages import Done, Reply
from m2n2_backend.worker.store.features import FeatureStore, open_store

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff"})
"""Endings of the files that are taken for images."""

AHEAD = 4
"""Images that each worker has at a time: which worker gets an image is left to chance, and each should have one."""

_FIGURES_SECONDS = 5.0  # a worker sends its figures every second

Images = Mapping[str, Path | ImageRef]
"""The name that people have for an image → where it is."""

T = TypeVar("T")


def images_of_folder(folder: Path) -> Images:
    """The image files of a folder and of all folders in it, in the order of their names.

    Hidden files and folders are passed over, and what operating systems put there: thumbnails, deleted files.

    Raises:
        SettingsError: It is not a folder, or contains no image.
    """
    if not folder.is_dir():
        raise SettingsError(f"{folder} is not a folder")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and is_of_a_person(path, folder) and path.is_file()
    )
    if not found:
        raise SettingsError(f"{folder} contains no images ({', '.join(sorted(SUFFIXES))})")
    return {str(path): path for path in found}


def images_of_project(studio: LabelStudioClient, project: int) -> Images:
    """The images of a project's tasks, page by page.

    Raises:
        SettingsError: The project has no image.
        LabelStudioUnavailable: The project cannot be read.
        InvalidLabelConfig: Its labeling config cannot take masks.
    """
    config = parse_label_config(str(studio.project(project).get("label_config", "")))
    found = {name: ref for task in studio.tasks(project) for name, ref in images_of_task(task, config)}
    if not found:
        places = ", ".join(image.source.place() for image in config.images if image.source and image.prompts)
        raise SettingsError(f"project {project} has no task with an image in {places}")
    return found


def precompute(settings: Settings, images: Images, pool: ProcessPool) -> Iterator[Outcome]:
    """Fill the disk cache. Images that are in it are passed over, so an interrupted run continues where it ended.

    Images are read in their order, a few ahead of the model, and their outcomes come in that order too.

    Args:
        pool: The loaded model; the caller closes it.

    Yields:
        ``encoded``, ``present`` or ``failed`` for each image.

    Raises:
        BackboneUnavailable: The model died and cannot be loaded again.
        SettingsError: The disk cache cannot be written or is full: going on would evict what was just written.
    """
    assert pool.fingerprint is not None, "it is loaded"
    store = open_store(settings, pool.fingerprint)
    media = CachedImages.of(settings)
    begun = ((name, _begin(name, where, media, store, pool)) for name, where in images.items())
    done = 0
    for name, work in _read_ahead(begun, AHEAD * len(pool.stats())):
        outcome = work if isinstance(work, Outcome) else _ended(name, work, pool)
        done += outcome.state != "failed"
        if not isinstance(work, Outcome) and outcome.state != "failed":
            _require_room(settings, pool, done, written=work.key in store)
        yield outcome


@dataclass(frozen=True)
class _UnderWay:
    """An image that the pool has: its hash, and its outcome."""

    key: str
    reply: Future[Reply]


def _begin(
    name: str, where: Path | ImageRef, media: CachedImages, store: FeatureStore, pool: ProcessPool
) -> _UnderWay | Outcome:
    """Read an image and hand it to the pool, or give its outcome at once."""
    try:
        image = _from_file(where) if isinstance(where, Path) else media.fetch(where)
    except M2N2Error as error:
        return Outcome(name, "failed", str(error))
    return Outcome(name, "present") if image.key in store else _UnderWay(image.key, pool.encode(image))


def _ended(name: str, work: _UnderWay, pool: ProcessPool) -> Outcome:
    result = work.reply.result().result
    if isinstance(result, Done):
        return Outcome(name, "encoded" if "encode" in result.timings_ms else "present")
    if isinstance(result, BackboneUnavailable) and pool.status().state == "failed":
        raise result
    return Outcome(name, "failed", str(result))


def _read_ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """The same items; ``count`` of them are asked for ahead."""
    ahead = deque[T]()
    for item in items:
        ahead.append(item)
        if len(ahead) > count:
            yield ahead.popleft()
    yield from ahead


def _from_file(path: Path) -> SourceImage:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot be read: {error.strerror}") from error
    return SourceImage.of(data)


def _require_room(settings: Settings, pool: ProcessPool, done: int, *, written: bool) -> None:
    """Refuse to go on where that would evict images of this run, or where they cannot be written."""
    until = time.monotonic() + _FIGURES_SECONDS
    while True:
        tiers = [tier for worker in pool.stats() if (tier := worker.figures.tiers.get("disk")) is not None]
        if any(tier.evictions for tier in tiers):
            raise SettingsError(
                f"the disk cache is full after {done} images: "
                f"raise M2N2_DISK_CACHE (now {settings.disk_cache}) and run again"
            )
        if written:
            return
        # A later image may have evicted this one a moment ago; the worker's next figures say so.
        cause = next((tier.trouble.what for tier in tiers if tier.trouble is not None), "")
        if cause or time.monotonic() > until:
            cause = cause or "the disk cache cannot be written (see the log)"
            raise SettingsError(f"{cause}: {done - 1} images are done")
        time.sleep(0.1)
