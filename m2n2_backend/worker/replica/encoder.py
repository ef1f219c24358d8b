"""The runs of the model, counted and timed."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import EncodedImage
from m2n2_backend.worker.replica.tiers import MemoryTiers


class Encoder:
    """Runs the model.

    Attributes:
        runs: Times the model ran, without the warm-up.
        seconds: Duration of the latest run, or of the warm-up before.
        slowest_seconds: Duration of the slowest run.
    """

    def __init__(self, segmenter: Segmenter, memory: MemoryTiers) -> None:
        self.runs = 0
        self.seconds = self.slowest_seconds = 0.0
        self._segmenter = segmenter
        self._memory = memory

    def warm_up(self) -> EncodedImage:
        """Run the model once, on an image of noise: colors that a mixture can be fitted to."""
        started = time.monotonic()
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        with self._memory.room.step():
            encoded = self._segmenter.extract(noise)
        self.seconds = self.slowest_seconds = time.monotonic() - started
        return encoded

    def encode(self, rgb: NDArray[np.uint8]) -> EncodedImage:
        """The model's features of an image, in the host's memory.

        Raises:
            BackboneUnavailable: Memory is too small, or the model gives values that are not finite.
        """
        started = time.monotonic()
        encoded = self._memory.with_room(lambda: self._extract(rgb))
        self.runs += 1
        self.seconds = time.monotonic() - started
        self.slowest_seconds = max(self.slowest_seconds, self.seconds)
        return encoded

    def _extract(self, rgb: NDArray[np.uint8]) -> EncodedImage:
        # The image in work stays, unless both are known not to fit.
        self._memory.make_room(0, keep=0 if self._memory.room.is_lowered else 1)
        with self._memory.room.step():
            encoded = self._segmenter.extract(rgb)
            if not encoded.features.is_finite:  # before any tier has them
                raise FloatingPointError("its features are not: the weights or the device are damaged")
            return encoded.to("cpu")
