"""Where features are kept: a folder, or whatever fsspec knows. Files appear there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, Protocol, TypeVar

import fsspec.core
from fsspec.implementations.local import LocalFileSystem

from m2n2_backend.errors import SettingsError

T = TypeVar("T")

TEMPORARY = ".tmp"
"""Ending of files that are still being written."""

_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")  # each file system has its own name


class StoredFile(NamedTuple):
    """A file: when it was last used or written (seconds since the epoch), its bytes, and its name below the root."""

    used: float
    size: int
    name: str


class Files(Protocol):
    """Files by their names below one root. Threads share it. Every method raises OSError for whatever goes wrong."""

    @property
    def address(self) -> str:
        """The root."""
        ...

    def read(self, name: str) -> bytes | None:
        """The contents of a file; None where it does not exist."""
        ...

    def write(self, name: str, data: bytes) -> int | None:
        """Write a file, or replace it; returns the size of the file that it replaced, None where none is known."""
        ...

    def exists(self, name: str) -> bool:
        """Whether the file exists now."""
        ...

    def remove(self, name: str) -> bool:
        """Remove a file; False where it is known that another process was faster."""
        ...

    def touch(self, name: str) -> None:
        """Note that a file was used, where files have such a time."""
        ...

    def entries(self) -> list[StoredFile]:
        """All files, the least recently used first."""
        ...

    def try_out(self, size: int) -> None:
        """Find out whether ``size`` bytes can be written now; nothing is left of them."""
        ...


class FolderFiles:
    """Files in a folder of this machine, or in one that several machines mount.

    fsspec could read folders too. But its local file system writes in place, and answers like an empty folder where a
    disk is broken.
    """

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is created by the first write."""
        self._root = folder

    @property
    def address(self) -> str:
        """See :class:`Files`."""
        return str(self._root)

    def read(self, name: str) -> bytes | None:
        """See :class:`Files`."""
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> int | None:
        """See :class:`Files`."""
        path = self._root / name
        # Random, because processes in two containers on one volume may have equal ids.
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            before = path.stat().st_size if path.is_file() else None
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        return before

    def exists(self, name: str) -> bool:
        """See :class:`Files`."""
        return (self._root / name).is_file()  # before Python 3.14 this raises where a disk is broken or out of reach

    def remove(self, name: str) -> bool:
        """See :class:`Files`."""
        try:
            (self._root / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def touch(self, name: str) -> None:
        """See :class:`Files`."""
        os.utime(self._root / name)

    def entries(self) -> list[StoredFile]:
        """See :class:`Files`."""
        found = []
        for path in self._root.glob("*/*/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append(StoredFile(status.st_mtime, status.st_size, path.relative_to(self._root).as_posix()))
        return sorted(found)

    def try_out(self, size: int) -> None:
        """See :class:`Files`."""
        with contextlib.suppress(FileExistsError):  # of a file in its place the next line tells, in `write`'s words
            self._root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._root) as file:
            file.write(bytes(size))
            file.seek(0)
            file.read()


class RemoteFiles:
    """Files behind an address of fsspec, such as a bucket, which shows an object once all of it has arrived."""

    def __init__(self, address: str, file_system: Any, root: str) -> None:
        """Use what ``fsspec.core.url_to_fs`` found for an address; nothing is read or written yet."""
        self.address = address
        self._fs = file_system
        self._root = root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """See :class:`Files`."""
        try:
            with _as_os_error():
                return bytes(self._fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """See :class:`Files`. To ask what is replaced would cost another request, so that is never known."""
        with _as_os_error():
            self._fs.pipe_file(self._path(name), data)

    def exists(self, name: str) -> bool:
        """See :class:`Files`."""
        with _as_os_error():
            return bool(self._fs.isfile(self._path(name)))

    def remove(self, name: str) -> bool:
        """See :class:`Files`."""
        try:
            with _as_os_error():
                self._fs.rm_file(self._path(name))
        except FileNotFoundError:
            return False
        return True

    def touch(self, name: str) -> None:
        """Buckets keep the time of writing only."""

    def entries(self) -> list[StoredFile]:
        """See :class:`Files`."""
        with _as_os_error():
            found = self._fs.find(self._root, detail=True)
        return sorted(
            StoredFile(_time(facts), int(facts["size"] or 0), path[len(self._root) :].strip("/"))
            for path, facts in found.items()
        )

    def try_out(self, size: int) -> None:
        """See :class:`Files`."""
        name = f"{'0' * 16}/tr/{uuid.uuid4().hex}{TEMPORARY}"  # what is left of it is swept up as any temporary file
        self.write(name, bytes(size))
        self.remove(name)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def open_files(address: str) -> Files:
    """The files below an address; nothing is read or written yet.

    Args:
        address: A folder, or an address that fsspec understands, such as ``s3://bucket/folder``. Keys and endpoint
            come from the environment, as the documentation of the file system says.

    Raises:
        SettingsError: The package for this kind of address is not installed, or fsspec does not know the kind.
    """
    try:
        # Without the cache of listings, what another machine wrote a moment ago is seen.
        file_system, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise SettingsError(
            f'M2N2_STORE={address}: {error}; s3:// comes with pip install ".[cluster]" in a checkout'
        ) from error
    if isinstance(file_system, LocalFileSystem):
        return FolderFiles(Path(root))
    return RemoteFiles(address, file_system, root)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns or raises.

    Raises:
        TimeoutError: The call has taken longer than ``seconds``; its thread is left behind.
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
    except Exception as error:  # whatever the client of the file system raises: botocore, aiohttp, …
        raise OSError(f"{type(error).__name__}: {error}") from error


def _time(facts: dict[str, Any]) -> float:
    value = next((facts[name] for name in _TIMES if facts.get(name) is not None), 0.0)
    return float(value.timestamp()) if hasattr(value, "timestamp") else float(value)
