"""A backbone that fails on command, in the process in which it runs."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import cv2
import numba
import numpy as np
import torch
from numpy.typing import NDArray

from m2n2_backend.backbones.color import ColorAffinity
from m2n2_backend.m2n2.paper.attention import AttentionFeatures
from m2n2_backend.settings import Settings

GRID = 8


def picture(color: tuple[int, int, int], *, tail: bytes = b"") -> bytes:
    """A small PNG of a disk on a ground of one color; different tails make different files of the same pixels."""
    rgb = np.full((48, 64, 3), color, np.uint8)
    cv2.circle(rgb, (30, 22), 12, (250, 240, 30), -1)
    return bytes(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()) + tail


CRASH, HANG, MEMORY, BROKEN = (200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 0, 200)
"""Grounds of pictures that end the process, never return, run out of memory, or break the device."""

PLAIN = (90, 80)
"""Red and green of harmless pictures; blue is free, to tell them apart."""


class FaultyBackbone(ColorAffinity):
    """Color affinities, unless the ground of the picture is one of the colors above.

    Attributes:
        calls: Colors of the grounds that were encoded.
        gate: Closed, it holds every picture back but the one of the warm-up.
        entered: Set while a picture is held back.
        broken: What the device says once it is broken.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(grid=GRID)
        self.fingerprint = "faulty-1"
        self.folder = folder
        self.broken = "CUDA error: an illegal memory access was encountered"
        self.calls: list[tuple[int, int, int]] = []
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()

    def features(self, rgb: NDArray[np.uint8]) -> AttentionFeatures:
        if self.folder is not None:
            threads = f"{torch.get_num_threads()} {numba.get_num_threads()}"
            (self.folder / f"threads-{os.getpid()}").write_text(threads)
        red, green, blue = (int(value) for value in rgb[0, 0])
        ground = (red, green, blue)
        if rgb.shape[:2] != (64, 64):  # the picture of the warm-up has this size
            self.calls.append(ground)
            self.entered.set()
            assert self.gate.wait(120)
            self.entered.clear()
        if ground == CRASH:
            os.kill(os.getpid(), signal.SIGKILL)
        if ground == HANG:
            time.sleep(10_000)
        if ground == MEMORY:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        if ground == BROKEN:
            raise RuntimeError(self.broken)
        return super().features(rgb)


def load_faulty(settings: Settings, device: str, *, folder: Path) -> FaultyBackbone:
    return FaultyBackbone(folder)


def loader(folder: Path) -> partial[FaultyBackbone]:
    """What a worker loads; it can be pickled. Each worker notes in the folder how many threads it may use."""
    return partial(load_faulty, folder=folder)
