"""The cache tier that outlives the process: one safetensors file per photograph, shared between processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from m2n2_backend.m2n2.paper.attention import AttentionBlock, AttentionFeatures
from m2n2_backend.m2n2.state import EncodedImage
from m2n2_backend.worker.store.health import CacheHealth

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 300.0
"""After a failed write nothing is written for so long, unless a try finds that it would succeed."""

FIRST_TRY_BYTES = 1024**2
"""Written at the start to find out whether the cache can be used; later as much as could not be written."""

COSTS = {
    "written": "images are encoded again after a restart",
    "read": "images are encoded again",
    "cleaned up": "it may grow beyond M2N2_DISK_CACHE",
}
"""What may fail, and what that means."""

SUFFIX = ".safetensors"
"""Of the files."""

_FORMAT = "m2n2-encoded-1"
_TRIMMED_TO = 0.9  # of the limit, so that not every write has to look for something to evict
_LOST_AFTER_SECONDS = 3600.0  # a temporary file this old belongs to a process that died
_SCAN_SECONDS = 60.0  # other processes write into the folder too


class _File(NamedTuple):
    used: float
    size: int
    path: Path


class DiskCache:
    """What the model said of photographs, by the hash of their files.

    Files are written under another name and then renamed, so that nobody ever reads half a file, and carry a checksum
    of all they hold. What is damaged, or was written for another model, is removed and counts as absent. Nothing here
    raises for the disk's sake: without it the model is asked again.
    """

    def __init__(self, folder: Path, fingerprint: str, limit: int) -> None:
        """Name the folder; nothing is written yet.

        Args:
            folder: Of all models; each gets a folder inside.
            fingerprint: Of whatever decides the contents: model, grid, working size.
            limit: Bytes that all files in ``folder`` may have together; 0 keeps nothing.
        """
        self.fingerprint = fingerprint
        self.limit = limit
        self.hits = self.misses = self.evictions = 0
        self.health = CacheHealth(f"the cache in {folder}", COSTS, PAUSE_SECONDS)
        self._root = folder
        # Each format has folders of its own, so that servers of two versions share the root in peace.
        self._held = self._count = 0  # as of the latest look at the folder, and written since
        self._scanned_at = -_SCAN_SECONDS
        self._unwritten = FIRST_TRY_BYTES  # bytes that could not be written the last time
        if limit > 0:
            try:
                self._look()
            except OSError as error:
                self.health.failed("read", error, pause=False)

    def path(self, key: str) -> Path:
        """The file of a photograph, whether it exists or not."""
        return self._root / file_name(key, self.fingerprint)

    def __contains__(self, key: str) -> bool:
        try:
            return self.limit > 0 and self.path(key).is_file()
        except OSError as error:  # before Python 3.14, of a disk that is broken or out of reach
            self.health.failed("read", error, pause=False)
            return False

    def __len__(self) -> int:
        return self._count

    def get(self, key: str) -> EncodedImage | None:
        """Read a photograph's file; None where there is none that can be used."""
        if self.limit == 0:
            return None
        path = self.path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            self.misses += 1
            return None
        except OSError as error:
            self.health.failed("read", error, pause=False)
            self.misses += 1
            return None
        self.health.works("read")
        try:
            encoded = unpack(data, key, self.fingerprint)
        except ValueError as error:
            logger.warning("cached file %s is dropped: %s", path.name, error)
            self.health.damaged += 1
            self.misses += 1
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        self.hits += 1
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of the last use, which eviction goes by
        return encoded

    def claim(self, key: str) -> EncodedImage | None:
        """As :meth:`get`: on one machine each image has its worker, and nobody else encodes it meanwhile."""
        return self.get(key)

    def abandon(self, key: str) -> None:
        """Nothing was claimed."""

    def close(self) -> None:
        """Nothing is to be given back."""

    def put(self, key: str, encoded: EncodedImage) -> bool:
        """Write a photograph's file, then evict others if that is too much; whether it was written."""
        if self.limit == 0 or self.health.paused:
            return False
        path = self.path(key)
        # Random, as processes in two containers on one volume may have equal ids.
        temporary = path.with_name(f".{key}.{os.urandom(8).hex()}.tmp")
        data = pack(encoded, key, self.fingerprint)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            before = path.stat().st_size if path.is_file() else None
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            self._unwritten = len(data)
            self.health.failed("written", error)
            return False
        self.health.works("written")
        self._held += len(data) - (before or 0)
        self._count += before is None
        if self._held > self.limit or time.monotonic() - self._scanned_at > _SCAN_SECONDS:
            try:
                self._evict()
            except OSError as error:
                self.health.failed("cleaned up", error)
            else:
                self.health.works("cleaned up")
        return True

    def try_again(self) -> None:
        """Find out, where that is due, if the folder can be used: as many bytes as failed are written and read."""
        if self.limit == 0 or not self.health.is_due():
            return
        try:
            try_folder(self._root, self._unwritten)
        except OSError as error:
            self.health.failed("written", error)
        else:
            self.health.works("written", "read")

    @property
    def nbytes(self) -> int:
        """Bytes of all files as of the latest look at the folder, and of those written since."""
        return self._held

    def _look(self) -> list[_File]:
        """Count what is there, least recently used first."""
        files = sorted(self._files())
        self._held, self._count = sum(file.size for file in files), len(files)
        self._scanned_at = time.monotonic()
        return files

    def _evict(self) -> None:
        files = self._look()
        if self._held <= self.limit:
            return
        for file in files:
            if self._held <= _TRIMMED_TO * self.limit:
                break
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                file.path.unlink()
                self.evictions += 1
            self._held -= file.size
            self._count -= 1

    def _files(self) -> Iterator[_File]:
        now = time.time()
        for path in self._root.glob("*/*/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                if path.suffix == SUFFIX:
                    yield _File(status.st_mtime, status.st_size, path)
                elif path.suffix == ".tmp" and now - status.st_mtime > _LOST_AFTER_SECONDS:
                    path.unlink()


def try_folder(folder: Path, size: int) -> None:
    """Write so many bytes to a folder, which is made where it is missing, read them, and remove them.

    Raises:
        OSError: It cannot be done.
    """
    with contextlib.suppress(FileExistsError):  # a file in its place is told below, in the words that `put` has
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(size))
        file.seek(0)
        file.read()


def file_name(key: str, fingerprint: str) -> str:
    """Where a photograph's file is, below the folder of all; models and versions of the format have their own."""
    own = hashlib.sha256(f"{_FORMAT} {fingerprint}".encode()).hexdigest()[:16]
    return f"{own}/{key[:2]}/{key}{SUFFIX}"


def pack(encoded: EncodedImage, key: str, fingerprint: str) -> bytes:
    """An encoded photograph as the bytes of a safetensors file that names and checks its contents."""
    tensors = {"guide": torch.from_numpy(np.require(encoded.guide, requirements=["C", "W"]))}
    for index, block in enumerate(encoded.features.blocks):
        tensors[f"queries.{index}"] = block.queries.contiguous().cpu()
        tensors[f"keys.{index}"] = block.keys.contiguous().cpu()
        if block.special is not None:
            tensors[f"special.{index}"] = block.special.contiguous().cpu()
    header = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "key": key,
        "size": encoded.size,
        "grid": (encoded.features.height, encoded.features.width),
        "scales": [block.scale for block in encoded.features.blocks],
        "weights": [block.weight for block in encoded.features.blocks],
    }
    return save(tensors, {"header": json.dumps(header), "checksum": _checksum(json.dumps(header), tensors)})


def unpack(data: bytes, key: str, fingerprint: str) -> EncodedImage:
    """The photograph that :func:`pack` wrote.

    Raises:
        ValueError: It is damaged, or of another photograph, model or version; the message says which.
    """
    try:
        tensors = load(data)
        metadata = _metadata(data)
        text = metadata["header"]
        header = json.loads(text)
        if header["format"] != _FORMAT or header["fingerprint"] != fingerprint or header["key"] != key:
            raise ValueError("it was written for another image, model or version")
        if metadata["checksum"] != _checksum(text, tensors):
            raise ValueError("its checksum is wrong")
        blocks = tuple(
            AttentionBlock(
                tensors[f"queries.{index}"], tensors[f"keys.{index}"], scale, weight, tensors.get(f"special.{index}")
            )
            for index, (scale, weight) in enumerate(zip(header["scales"], header["weights"], strict=True))
        )
        height, width = header["size"]
        features = AttentionFeatures(blocks, *header["grid"])
        if not features.is_finite:
            raise ValueError("its features are not finite")
        return EncodedImage((height, width), features, tensors["guide"].numpy())
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from error


def _metadata(data: bytes) -> dict[str, Any]:
    """The free text of a safetensors file, which its reader from bytes leaves out: 8 bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length])["__metadata__"])


def _checksum(header: str, tensors: dict[str, torch.Tensor]) -> str:
    """CRC-32 of header and contents: it is there for damage, not for malice."""
    value = zlib.crc32(header.encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].contiguous().view(torch.uint8).numpy().tobytes(), value)
    return f"{value:08x}"
