"""Model and caches of one device: image and prompts → mask, by the shortest way there is. One thread only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

from m2n2_backend.backbones.device_memory import is_out_of_memory, memory_advice
from m2n2_backend.errors import BackboneUnavailable, ImageNeeded
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.attention import Backbone
from m2n2_backend.m2n2.cache import ByteCache
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import EncodedImage, ImageState
from m2n2_backend.m2n2.upsample import JointBilateral
from m2n2_backend.prompts import Box, Click, Prompts
from m2n2_backend.settings import Settings
from m2n2_backend.worker.disk import DiskCache
from m2n2_backend.worker.pool import SourceImage, Tier

logger = logging.getLogger(__name__)

CPU_CACHES = (192 * 1024**2, 256 * 1024**2)
"""Defaults of the first and the second tier on a CPU, where both are the same memory as the model's."""

ACCELERATOR_CACHES = (4 * 1024**3, 2 * 1024**3)
"""Defaults on an accelerator. A grid of 128 and its powers take 2.7 GB in 16-bit, its features 42 MB an image."""

T = TypeVar("T")
Timings = dict[str, float]


class Engine:
    """Three tiers above the model.

    - device: matrix, JBU table, maps of earlier clicks. A new click costs its own map only.
    - memory: what the model said, and JBU tables. The matrix is built again.
    - disk: what the model said. Matrix and table are built again.

    The model runs where all of them miss, and only then the image's file is needed.
    """

    def __init__(self, backbone: Backbone, settings: Settings) -> None:
        """Set up empty tiers, but for the disk's.

        Args:
            backbone: Loaded.
            settings: Bytes of the tiers, folder of the disk's, limits of images, hyperparameters.
        """
        self.backbone = backbone
        self._segmenter = Segmenter(backbone, settings.method())
        self._max_pixels = settings.max_image_pixels
        on_device, in_memory = _limits(settings, backbone.device)
        self._states = ByteCache[ImageState](on_device)
        self._features = ByteCache[EncodedImage](in_memory // 2)
        self._tables = ByteCache[JointBilateral](in_memory // 2)
        fingerprint = f"{backbone.fingerprint}, working size {settings.working_size}"
        self.disk = DiskCache(settings.cache_dir / "images", fingerprint, settings.disk_cache)

    def warm_up(self) -> None:
        """Compile and load every kernel, so that the first annotator does not wait for it."""
        state = self._segmenter.encode(np.zeros((64, 64, 3), np.uint8))
        self._segmenter.segment(state, [Click(9, 9), Click(50, 50, positive=False)], Box(4, 4, 40, 40))

    def segment(self, image: SourceImage, prompts: Prompts) -> tuple[Segmentation, Timings]:
        """Segment one object.

        Returns:
            The mask, and the milliseconds of the parts that ran: ``encode`` (the model), ``prepare`` (matrix and
            table) and ``segment``.

        Raises:
            ImageNeeded: No tier has the image and ``image.data`` is None.
            InvalidImage: It cannot be decoded.
            ImageTooLarge: It has too many pixels.
            InvalidPrompt: A prompt lies outside the image or none is foreground.
            BackboneUnavailable: Too little memory, or the model gives no finite values.
        """
        timings: Timings = {}
        result = self._with_room(lambda: self._segment(image, prompts, timings))
        return result, timings

    def prefetch(self, image: SourceImage) -> Timings:
        """Bring an image to memory and disk, displacing no state that clicks are working on.

        Raises:
            ImageNeeded: No tier has the image and ``image.data`` is None.
            InvalidImage: It cannot be decoded.
            ImageTooLarge: It has too many pixels.
            BackboneUnavailable: Too little memory, or the model gives no finite values.
        """
        timings: Timings = {}
        if image.key not in self._states:
            encoded = self._with_room(lambda: self._encoded(image, timings))
            self._table(image.key, encoded, timings)
        return timings

    def encode_to_disk(self, image: SourceImage) -> None:
        """Run the model and write to disk only, for batches that nobody clicks on yet.

        Raises:
            InvalidImage: It cannot be decoded.
            ImageTooLarge: It has too many pixels.
            BackboneUnavailable: Too little memory, or the model gives no finite values.
        """
        self._with_room(lambda: self._encode(image, {}))

    @property
    def tiers(self) -> dict[str, Tier]:
        """Fill and counters of every tier."""
        memory, tables = self._features, self._tables
        return {
            "device": _tier(self._states),
            "memory": Tier(
                memory.nbytes + tables.nbytes,
                memory.limit + tables.limit,
                len(memory),
                memory.hits,
                memory.misses,
                memory.evictions + tables.evictions,
            ),
            "disk": _tier(self.disk),
        }

    def _segment(self, image: SourceImage, prompts: Prompts, timings: Timings) -> Segmentation:
        state = self._states.get(image.key)
        if state is None:
            encoded = self._encoded(image, timings)
            table = self._table(image.key, encoded, timings)
            with _timing(timings, "prepare"):
                state = self._segmenter.prepare(encoded, table)
            self._states.put(image.key, state)
        with _timing(timings, "segment"):
            segmentation = self._segmenter.segment(state, prompts.clicks, prompts.boxes)
        self._states.put(image.key, state)  # again: it has grown by the new maps
        return segmentation

    def _encoded(self, image: SourceImage, timings: Timings) -> EncodedImage:
        encoded = self._features.get(image.key)
        if encoded is None:
            encoded = self.disk.get(image.key) or self._encode(image, timings)
            self._features.put(image.key, encoded)
        return encoded

    def _encode(self, image: SourceImage, timings: Timings) -> EncodedImage:
        if image.data is None:
            raise ImageNeeded("no cache has the image; its file is needed")
        with _timing(timings, "encode"):
            rgb = decode_image(image.data, max_pixels=self._max_pixels)
            encoded = self._segmenter.extract(rgb).to("cpu")
        self.disk.put(image.key, encoded)
        return encoded

    def _table(self, key: str, encoded: EncodedImage, timings: Timings) -> JointBilateral:
        table = self._tables.get(key)
        if table is None:
            with _timing(timings, "prepare"):
                table = self._segmenter.joint_bilateral(encoded)
            self._tables.put(key, table)
        return table

    def _with_room(self, work: Callable[[], T]) -> T:
        """Out of memory: once more with everything dropped that can be made again."""
        grid = getattr(self.backbone, "grid", 128)
        try:
            try:
                return work()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("out of memory: dropping %d prepared images and trying again", len(self._states))
            for tier in (self._states, self._features, self._tables):
                tier.clear()
            if self.backbone.device.type == "cuda":
                torch.cuda.empty_cache()
            with memory_advice(grid, self.backbone.device):
                return work()
        except FloatingPointError as error:
            raise BackboneUnavailable(f"the model's attention is not finite: {error}") from error


def _limits(settings: Settings, device: torch.device) -> tuple[int, int]:
    """Bytes of the device's and of the memory's tier."""
    defaults = CPU_CACHES if device.type == "cpu" else ACCELERATOR_CACHES
    chosen = (settings.device_cache, settings.memory_cache)
    on_device, in_memory = (default if own is None else own for own, default in zip(chosen, defaults, strict=True))
    return on_device, in_memory


def _tier(cache: ByteCache[ImageState] | DiskCache) -> Tier:
    return Tier(cache.nbytes, cache.limit, len(cache), cache.hits, cache.misses, cache.evictions)


@contextmanager
def _timing(timings: Timings, name: str) -> Iterator[None]:
    """Add the milliseconds of the body to ``timings[name]``."""
    started = time.perf_counter()
    yield
    timings[name] = timings.get(name, 0.0) + 1000.0 * (time.perf_counter() - started)
