"""The model in this process: one inference at a time, prepared images kept in memory."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict

import numba
import numpy as np
import torch

from m2n2_backend import __version__
from m2n2_backend.backbones.device_memory import memory_advice
from m2n2_backend.backbones.registry import BackboneLoader
from m2n2_backend.errors import BackboneUnavailable, M2N2Error, NotReady
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.method import Method
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import ImageState
from m2n2_backend.prompts import Box, Click, Prompts
from m2n2_backend.settings import Settings
from m2n2_backend.worker.pool import Answer, SourceImage, Status

logger = logging.getLogger(__name__)


class LocalPool:
    """A :class:`~m2n2_backend.worker.pool.Pool` of one model behind a lock.

    The model is loaded in a thread, so that the pool can tell its status from the first moment on.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._states: OrderedDict[str, ImageState] = OrderedDict()
        self._segmenter: Segmenter | None = None
        self._failure: str | None = None
        self._closed = False
        self._loaded = threading.Event()
        threading.Thread(target=self._load, name="model-loader", daemon=True).start()

    def segment(self, image: SourceImage, prompts: Prompts, *, deadline: float) -> Answer:
        """See :meth:`m2n2_backend.worker.pool.Pool.segment`."""
        segmenter = self._ready(deadline)
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise NotReady("the model was busy with other images until the deadline; click again")
        try:
            self._limit_threads()
            started = time.monotonic()
            state = self._state(segmenter, image)
            encoded = time.monotonic()
            result = segmenter.segment(state, prompts.clicks, prompts.boxes)
            done = time.monotonic()
        finally:
            self._lock.release()
        timings = {"encode": 1000 * (encoded - started), "segment": 1000 * (done - encoded)}
        return Answer(result.mask, result.score, self.status().model_version, timings)

    def status(self) -> Status:
        """See :meth:`m2n2_backend.worker.pool.Pool.status`."""
        version = f"m2n2-{__version__}"
        if self._failure is not None:
            return Status("failed", version, self._settings.backbone, self._settings.device, self._failure)
        if self._segmenter is None:
            return Status("loading", version, self._settings.backbone, self._settings.device)
        backbone = self._segmenter.backbone
        version = f"{version}-{backbone.fingerprint}"
        return Status("ready", version, backbone.description, _device_name(backbone.device))

    def close(self) -> None:
        """See :meth:`m2n2_backend.worker.pool.Pool.close`."""
        self._closed = True
        with self._lock:
            self._segmenter = None
            self._states.clear()

    def _load(self) -> None:
        settings = self._settings
        try:
            self._limit_threads()
            started = time.monotonic()
            backbone = BackboneLoader.of(settings)()
            segmenter = Segmenter(backbone, method_of(settings))
            _warm_up(segmenter)
            self._segmenter = segmenter
            seconds = time.monotonic() - started
            logger.info("model ready after %.1f s: %s on %s", seconds, backbone.description, backbone.device)
        except M2N2Error as error:
            self._failure = str(error)
            logger.error("the model cannot be loaded: %s", error)
        except Exception as error:
            # Whatever a library raises here must end in /health's answer, not in a thread nobody waits for.
            self._failure = f"the model cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}"
            logger.exception("the model cannot be loaded")
        finally:
            self._loaded.set()

    def _limit_threads(self) -> None:
        """Numba's limit belongs to the calling thread, so every thread that computes has to set it."""
        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)
            numba.set_num_threads(min(self._settings.threads, numba.config.NUMBA_NUM_THREADS))

    def _ready(self, deadline: float) -> Segmenter:
        self._loaded.wait(max(0.0, deadline - time.monotonic()))
        if self._failure is not None:
            raise BackboneUnavailable(self._failure)
        segmenter = self._segmenter
        if segmenter is None:
            raise NotReady("shutting down" if self._closed else "the model is still loading; click again in a moment")
        return segmenter

    def _state(self, segmenter: Segmenter, image: SourceImage) -> ImageState:
        """Of the memory, or made now; called with the lock held, so one image is never encoded twice at once."""
        state = self._states.get(image.key)
        if state is None:
            rgb = decode_image(image.data, max_pixels=self._settings.max_image_pixels)
            backbone = segmenter.backbone
            try:
                with memory_advice(self._settings.grid or 128, backbone.device):
                    state = segmenter.encode(rgb)
            except FloatingPointError as error:
                raise BackboneUnavailable(f"the model's attention is not finite: {error}") from error
            self._states[image.key] = state
        self._states.move_to_end(image.key)
        while len(self._states) > 1 and self._held() > self._settings.image_memory:
            self._states.popitem(last=False)
        return state

    def _held(self) -> int:
        return sum(state.nbytes for state in self._states.values())


def _warm_up(segmenter: Segmenter) -> None:
    """Compile and load every kernel, so that the first annotator does not wait for it."""
    state = segmenter.encode(np.zeros((64, 64, 3), np.uint8))
    segmenter.segment(state, [Click(9, 9), Click(50, 50, positive=False)], Box(4, 4, 40, 40))


def method_of(settings: Settings) -> Method:
    """The method as the product runs it: the paper's, with the settings' limits of size, specks and segments."""
    return Method(working_size=settings.working_size, despeckle=settings.despeckle, least_cells=settings.least_cells)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
