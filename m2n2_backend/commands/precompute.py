"""``m2n2-backend precompute``: the model runs over all images before anybody clicks, and the disk cache keeps it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from m2n2_backend.backbones.registry import backbone_loader
from m2n2_backend.errors import M2N2Error, SettingsError
from m2n2_backend.labelstudio.contract.label_config import parse_label_config
from m2n2_backend.labelstudio.images.reader import ImageRef, MediaReader
from m2n2_backend.labelstudio.tasks import ProjectTasks, image_refs
from m2n2_backend.settings import Settings
from m2n2_backend.worker.engine import Engine
from m2n2_backend.worker.pool import SourceImage

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Files of a folder that are taken for images."""

MAX_REASONS = 20
"""Failed images that are told with their reason."""

_API_SECONDS = 60.0


@dataclass(frozen=True)
class _Source:
    """Images by name, and how to read each."""

    names: list[str]
    reader: MediaReader
    refs: dict[str, ImageRef]

    def read(self, name: str) -> SourceImage:
        if name in self.refs:
            return self.reader.fetch(self.refs[name])
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            raise SettingsError(f"cannot be read: {error.strerror}") from error
        return SourceImage(hashlib.sha256(data).hexdigest(), data)


def precompute(settings: Settings, *, images: Path | None, project: int | None, console: Console) -> bool:
    """Fill the disk cache; images that are in it are passed over, so an interrupted run goes on where it ended.

    Args:
        settings: Backbone, cache, Label Studio.
        images: A folder, searched with all its folders.
        project: Label Studio's id of a project.
        console: For the progress bar and the report.

    Returns:
        True where every image is in the cache at the end.

    Raises:
        SettingsError: Not exactly one of ``images`` and ``project``, no image there, or no disk cache to fill.
        LabelStudioUnavailable: The project cannot be read.
        BackboneUnavailable: The model cannot be loaded.
    """
    if (images is None) == (project is None):
        raise SettingsError("name either --images or --project")
    if settings.disk_cache == 0:
        raise SettingsError("M2N2_DISK_CACHE is 0: there is no disk cache to fill")
    source = _folder(settings, images) if images is not None else _project(settings, project or 0)
    engine = Engine(backbone_loader(settings)(), settings)
    present = encoded = 0
    failed: list[str] = []
    counts = (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), BarColumn(), *counts, console=console) as progress:
        bar = progress.add_task("precompute", total=len(source.names))
        for name in source.names:
            try:
                image = source.read(name)
                if image.key in engine.disk:
                    present += 1
                else:
                    engine.encode_to_disk(image)
                    encoded += 1
                    _require_room(engine, present + encoded)
            except _Full:
                raise
            except M2N2Error as error:
                failed.append(f"{name}: {error}")
            progress.advance(bar)
    for line in failed[:MAX_REASONS]:
        console.print(line, soft_wrap=True, highlight=False)
    console.print(f"{encoded} encoded, {present} were there, {len(failed)} failed", highlight=False)
    return not failed


class _Full(SettingsError):
    """Going on would evict what was just written, or write nothing."""


def _require_room(engine: Engine, done: int) -> None:
    disk = engine.disk
    if disk.failures:
        raise _Full(f"the disk cache cannot be written (see the log): {done} images are done")
    if disk.evictions:
        raise _Full(
            f"the disk cache is full after {done} images: raise M2N2_DISK_CACHE (now {disk.limit}) and run again"
        )


def _folder(settings: Settings, folder: Path) -> _Source:
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder")
    names = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not names:
        raise SettingsError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return _Source(names, MediaReader(settings), {})


def _project(settings: Settings, project: int) -> _Source:
    tasks = ProjectTasks.of(settings, seconds=_API_SECONDS)
    if tasks is None:
        raise SettingsError("set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY: the tasks are read from Label Studio")
    config = parse_label_config(str(tasks.project(project).get("label_config", "")))
    refs = {
        f"task {ref.task_id}" + (f", page {page + 1}" if page else ""): ref
        for task in tasks.all(project)
        for page, ref in enumerate(image_refs(task, config.image_key))
    }
    if not refs:
        raise SettingsError(f"project {project} has no task with an image in {config.image_key!r}")
    return _Source(list(refs), MediaReader(settings), refs)
