"""``m2n2-backend precompute``: a progress bar and a report around the filling of the disk cache."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from m2n2_backend.commands.progress import run_with_progress
from m2n2_backend.errors import SettingsError
from m2n2_backend.labelstudio import precompute as library
from m2n2_backend.labelstudio.client import LabelStudioClient
from m2n2_backend.settings import Settings
from m2n2_backend.worker.interface import wait_until_loaded
from m2n2_backend.worker.local.pool import ProcessPool


def precompute(settings: Settings, *, images: Path | None, project: int | None, console: Console) -> bool:
    """Fill the disk cache with the images of a folder or a project, and print what became of them.

    All devices of the kind in the settings work on it, with the model that a server of the same settings has.

    Args:
        images: A folder, searched with all its folders.

    Returns:
        Whether every image is in the cache at the end.

    Raises:
        SettingsError: Not exactly one of ``images`` and ``project``, no image there, or no disk cache to fill.
        LabelStudioUnavailable: The project cannot be read.
        BackboneUnavailable: The model cannot be loaded.
    """
    if settings.disk_cache == 0:
        raise SettingsError("M2N2_DISK_CACHE is 0: there is no disk cache to fill")
    found = _images(settings, images, project)
    pool = ProcessPool(settings, clicks=False)
    try:
        status = wait_until_loaded(pool)
        console.print(f"{status.backbone}; fingerprint {pool.fingerprint}", soft_wrap=True, highlight=False)
        states = run_with_progress("precompute", len(found), library.precompute(settings, found, pool), console)
    finally:
        pool.close()
    console.print(
        f"{states['encoded']} encoded, {states['present']} were there, {states['failed']} failed", highlight=False
    )
    return not states["failed"]


def _images(settings: Settings, folder: Path | None, project: int | None) -> library.Images:
    if folder is not None and project is None:
        return library.images_of_folder(folder)
    if project is not None and folder is None:
        return library.images_of_project(LabelStudioClient.of(settings), project)
    raise SettingsError("name either --images or --project")
