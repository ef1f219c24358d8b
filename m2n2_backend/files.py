"""Where this package keeps files, and how it writes those that others read meanwhile."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from m2n2_backend.errors import SettingsError

logger = logging.getLogger(__name__)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file, in the place of an older one if there is one; missing folders are made.

    The file behind a symbolic link is replaced, and the link stays. A pipe or a device such as /dev/stdout is written
    to instead: there is nothing to replace.

    Raises:
        OSError: It cannot be written; the older file is as it was, and no other one is left behind.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    with _draft(path, data) as draft:
        draft.replace(path)


def create_file(path: Path, data: bytes) -> bool:
    """Write a file if there is none yet; of several callers at once, exactly one gets True.

    Raises:
        OSError: It cannot be written.
    """
    with _draft(path, data) as draft:
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
    return True


def cache_home() -> Path:
    """``XDG_CACHE_HOME`` or ``~/.cache``; a temporary folder where there is no such folder to write to.

    Raises:
        SettingsError: No temporary folder can be written either.
    """
    usual = _usual()
    return usual if usual is not None and _is_writable(usual) else _temporary()


def settle_cache_home() -> None:
    """Let all libraries of this process, and of those it starts, keep their caches below :func:`cache_home`.

    The hub client, numba, PyTorch and matplotlib each look for a home folder of their own accord, and some libraries
    cannot even be imported without one. All of them read ``HOME`` and ``XDG_CACHE_HOME``.

    Raises:
        SettingsError: No folder can be written, and the settings do not name one.
    """
    usual = _usual()
    if usual is not None and _is_writable(usual):
        return
    unset = [name for name in ("M2N2_CACHE_DIR", "HF_HOME") if not os.environ.get(name)]
    try:
        folder = str(_temporary())
        os.environ["XDG_CACHE_HOME"] = folder
    except SettingsError:
        if unset:
            raise
        folder = "/"
    if usual is None:
        os.environ["HOME"] = folder
    if unset:
        logger.warning(
            "%s: caches and downloaded weights go to %s and may be lost with it; set %s to folders that are kept",
            "there is no home folder" if usual is None else f"{usual} cannot be written",
            folder,
            " and ".join(unset),
        )


def is_temporary(folder: Path) -> bool:
    """Whether a folder lies in the one that :func:`cache_home` falls back on."""
    return _folder_of_user() in folder.parents


@contextmanager
def _draft(path: Path, data: bytes) -> Iterator[Path]:
    """The content under a name of its own in the same folder; whatever has that name afterwards is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Random, as processes in two containers on one volume may have equal ids.
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        draft.write_bytes(data)
        yield draft
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _usual() -> Path | None:
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return None


def _is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or it can be made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _temporary() -> Path:
    """A folder for this user alone, the same one every time."""
    try:
        folder = _folder_of_user()
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        own = found.st_uid == _user() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        # Others may write to the folder above, and could have put a folder of theirs there: code is cached in it.
        return folder if stat.S_ISDIR(found.st_mode) and own else Path(tempfile.mkdtemp(prefix="m2n2-backend-"))
    except OSError as error:
        raise SettingsError(
            f"there is no folder to write to ({error}): set HOME, or M2N2_CACHE_DIR and HF_HOME, to a folder that "
            "this user can write to, or mount a temporary folder at /tmp"
        ) from error


def _folder_of_user() -> Path:
    return Path(tempfile.gettempdir()) / f"m2n2-backend-{_user()}"


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
