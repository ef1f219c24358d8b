"""A folder or a bucket that many machines share, through fsspec: files appear there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import fsspec.core
from fsspec.implementations.local import LocalFileSystem

from m2n2_backend.errors import SettingsError

T = TypeVar("T")

TEMPORARY = ".tmp"
"""Ending of files that are still being written."""

_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")  # file systems name it as they like


class Entry(NamedTuple):
    """One file: seconds since the epoch when it was last used or written, size in bytes, name below the root."""

    used: float
    size: int
    name: str


class SharedFiles:
    """Files by their names below one address; threads share it.

    A local folder (a volume, NFS) is written under another name and renamed; an object store shows what was put there
    once all of it has come. Whatever goes wrong with the network or its service is an OSError.
    """

    def __init__(self, address: str) -> None:
        """Find the file system; nothing is read or written yet.

        Args:
            address: A folder, or what fsspec understands, such as ``s3://bucket/folder``. Keys and endpoint come from
                the environment, as the file system's own documentation says.

        Raises:
            SettingsError: The package for this kind of address is not installed, or there is no such kind.
        """
        self.address = address
        try:
            # What another machine wrote a moment ago is to be seen.
            self._fs, self._root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise SettingsError(
                f'M2N2_STORE={address}: {error}; s3:// comes with pip install "m2n2-backend[cluster]"'
            ) from error
        self._local = isinstance(self._fs, LocalFileSystem)

    def read(self, name: str) -> bytes | None:
        """All of a file; None where there is none."""
        try:
            with _as_os_error():
                return bytes(self._fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Put a file in the place of an older one."""
        path = self._path(name)
        if not self._local:
            with _as_os_error():
                self._fs.pipe_file(path, data)
            return
        temporary = f"{path}.{uuid.uuid4().hex}{TEMPORARY}"
        self._fs.makedirs(self._fs._parent(path), exist_ok=True)
        try:
            with self._fs.open(temporary, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                self._fs.rm_file(temporary)
            raise

    def create(self, name: str, data: bytes) -> bool:
        """Put a small file where there is none; of several callers one hears True."""
        path = self._path(name)
        try:
            if self._local:
                self._fs.makedirs(self._fs._parent(path), exist_ok=True)
                with self._fs.open(path, "xb") as file:
                    file.write(data)
            else:
                with _as_os_error():
                    self._fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def exists(self, name: str) -> bool:
        """Whether there is such a file now."""
        with _as_os_error():
            return bool(self._fs.isfile(self._path(name)))

    def remove(self, name: str) -> None:
        """Remove a file, or find that another machine was faster."""
        with contextlib.suppress(FileNotFoundError), _as_os_error():
            self._fs.rm_file(self._path(name))

    def touch(self, name: str) -> None:
        """Note that a file was used; in a bucket it keeps the time it was written."""
        if self._local:
            with contextlib.suppress(OSError):
                os.utime(self._path(name))

    def entries(self) -> list[Entry]:
        """All files, those used longest ago first."""
        with _as_os_error():
            found = self._fs.find(self._root, detail=True)
        return sorted(
            Entry(_time(facts), int(facts["size"] or 0), path[len(self._root) :].strip("/"))
            for path, facts in found.items()
        )

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns or raises; a network that does not answer is left behind after ``seconds``.

    Raises:
        TimeoutError: It is still under way.
    """
    future = Future[T]()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="store-call", daemon=True).start()
    try:
        return future.result(seconds)
    except FutureTimeout:
        raise TimeoutError(f"no answer for {seconds:.0f} s") from None


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # of the file system's own client: botocore, aiohttp, …
        raise OSError(f"{type(error).__name__}: {error}") from error


def _time(facts: dict[str, Any]) -> float:
    value = next((facts[name] for name in _TIMES if facts.get(name) is not None), 0.0)
    return float(value.timestamp()) if hasattr(value, "timestamp") else float(value)
