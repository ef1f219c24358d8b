"""The Hugging Face hub behind three calls whose errors name their cause in one line."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from m2n2_backend.errors import BackboneUnavailable, SettingsError, one_line
from m2n2_backend.tls import advice, trusted_by_libraries

logger = logging.getLogger(__name__)


def cached_snapshot(repository: str, file: str) -> Path | None:
    """Folder of the main branch's snapshot in the local cache, if it holds ``file``; never uses the network.

    Raises:
        BackboneUnavailable: ``repository`` is not a valid hub id.
    """
    from huggingface_hub import try_to_load_from_cache

    try:
        path = try_to_load_from_cache(repository, file)
    except ValueError as error:
        raise BackboneUnavailable(f"{repository} is neither a folder nor a hub id: {error}") from error
    return Path(path).parents[file.count("/")] if isinstance(path, str) else None


def listing(repository: str, timeout_s: float) -> list[str]:
    """Names of all files of a repository.

    Args:
        repository: Hub id ``owner/name``.
        timeout_s: Bounds everything, name lookup included; there is one attempt only.

    Raises:
        BackboneUnavailable: No connection, no answer in time, no such repository, no access.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise BackboneUnavailable(
            f"{repository} is not in the local cache, and HF_HUB_OFFLINE forbids the network: unset it"
        )

    def ask() -> list[str]:
        return [file.rfilename for file in HfApi().model_info(repository, timeout=timeout_s).siblings or []]

    try:
        with trusted_by_libraries():
            return _within(timeout_s, ask)
    except Exception as error:
        # Which classes stand for a lost connection depends on the hub client's release (requests, httpx, …).
        raise _explained(repository, error) from error


def download(repository: str, files: Sequence[str]) -> Path:
    """Download some files into the local cache, with progress bars; what is there is not fetched again.

    Returns:
        The snapshot folder, named by the commit.

    Raises:
        BackboneUnavailable: As ``listing``, or the disk is full.
    """
    from huggingface_hub import snapshot_download

    logger.info("fetching %d files of %s", len(files), repository)
    try:
        with trusted_by_libraries():
            return Path(snapshot_download(repository, allow_patterns=list(files)))
    except Exception as error:  # as in listing
        raise _explained(repository, error) from error


def _within(timeout_s: float, call: Callable[[], list[str]]) -> list[str]:
    """Result of a call, or TimeoutError: clients' timeouts bound neither name lookup nor slow answers."""
    results: list[list[str]] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:  # raised again in the waiting thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="hub-attempt")
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {timeout_s:g} s")
    return results[0]


def _explained(repository: str, error: Exception) -> BackboneUnavailable:
    """The cause, in one line."""
    from huggingface_hub import constants
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        page = f"{constants.ENDPOINT}/{repository}"
        return BackboneUnavailable(f"{repository} is gated: accept its terms at {page} and set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError):
        return BackboneUnavailable(f"the hub has no {repository}, or it is private and HF_TOKEN gives no access")
    if isinstance(error, SettingsError):
        return BackboneUnavailable(f"{repository} is not in the local cache, and the hub cannot be asked: {error}")
    cache = constants.HF_HUB_CACHE
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return BackboneUnavailable(f"no disk space for {repository} in {cache}: free some, or set HF_HOME")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return BackboneUnavailable(f"{repository} cannot be written to {cache}: set HF_HOME to a folder of yours")
    if cure := advice(error):
        return BackboneUnavailable(f"{repository} is not in the local cache, and the hub cannot be asked: {cure}")
    detail = f"{type(error).__name__}: {one_line(error, 160)}"
    if isinstance(error, HfHubHTTPError):
        return BackboneUnavailable(f"the hub refused {repository} ({detail})")
    return BackboneUnavailable(f"{repository} is not in the local cache, and the hub cannot be reached ({detail})")
