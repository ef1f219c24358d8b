"""Model and caches of one device: image and prompts → mask, in steps that may run on different threads."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from m2n2_backend.backbones.device.errors import is_out_of_host_memory, is_out_of_memory
from m2n2_backend.backbones.device.memory import LOWERED_SECONDS, RoomForStates, memory_advice, release
from m2n2_backend.backbones.loading import one_line
from m2n2_backend.errors import BackboneUnavailable, ImageNeeded
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.cache import ENTRY_BYTES, ByteCache
from m2n2_backend.m2n2.paper.attention import Backbone
from m2n2_backend.m2n2.paper.upsample import JointBilateral
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import EncodedImage, ImageState
from m2n2_backend.m2n2.strategy import Paused, never
from m2n2_backend.prompts import Box, Click, Prompts
from m2n2_backend.settings import Settings
from m2n2_backend.worker.interface import SourceImage, Tier
from m2n2_backend.worker.store.features import Claims, FeatureStore, open_store
from m2n2_backend.worker.store.health import CacheHealth

logger = logging.getLogger(__name__)

CPU_CACHES = (192 * 1024**2, 256 * 1024**2)
"""Defaults of the first and the second tier on a CPU, where both are the same memory as the model's."""

ACCELERATOR_MEMORY = 2 * 1024**3
"""Default of the second tier beside an accelerator: features of a grid of 128 take 42 MB an image."""

SPARED = 0.75
"""Share of the first tier for images that were clicked again: first clicks on others do not displace them."""

T = TypeVar("T")
Timings = dict[str, float]


class Step(IntEnum):
    """What an image needs next, in this order."""

    LOAD = 0  # its features from disk, or its pixels from its file
    ENCODE = 1  # the model
    TABLE = 2  # the JBU operator
    READY = 3  # a click, which builds the matrix first
    PREPARED = 4  # a click, which costs its own map only

    @property
    def is_click(self) -> bool:
        """Whether nothing but clicks is left."""
        return self >= Step.READY


@dataclass(eq=False)
class Photo:
    """One photograph on its way to where it can be clicked.

    Attributes:
        image: With its file, or as it is known.
        rgb: uint8 [H, W, 3] between loading and encoding.
        encoded: What the model said.
        table: Its JBU operator.
        state: What the first clicks of a long request made, while the rest waits.
        timings: Milliseconds of the parts that ran and that no answer has told yet.
        busy: Whether a step runs; for whoever runs steps on several threads.
    """

    image: SourceImage
    rgb: NDArray[np.uint8] | None = None
    encoded: EncodedImage | None = None
    table: JointBilateral | None = None
    state: ImageState | None = None
    timings: Timings = field(default_factory=dict)
    busy: bool = False

    @property
    def key(self) -> str:
        """Hash of the file."""
        return self.image.key


class Engine:
    """Three tiers above the model.

    - device: matrix, JBU table, maps of earlier clicks. A new click costs its own map only.
    - memory: what the model said, and JBU tables. The matrix is built again.
    - disk: what the model said. Matrix and table are built again.

    The model runs where all of them miss, and only then the image's file is needed. Each kind of step runs on one
    thread at a time, different kinds may run at once; clicks on one image never.

    Attributes:
        backbone: The model.
        disk: The tier on disk. Whoever calls ``advance`` writes to it, when it suits.
        encoded: Times the model ran.
        encode_seconds: Of the latest time.
        slowest_encode: Seconds of the slowest time.
    """

    def __init__(self, backbone: Backbone, settings: Settings, claims: Claims | None = None) -> None:
        """Set up empty tiers, but for the disk's.

        Args:
            backbone: Loaded.
            settings: Bytes of the tiers, folder of the disk's, limits of images, hyperparameters.
        """
        self.backbone = backbone
        self.encoded = 0
        self.encode_seconds = self.slowest_encode = 0.0
        self._segmenter = Segmenter(backbone, settings.method())
        self._max_pixels = settings.max_image_pixels
        self._on_cpu = backbone.device.type == "cpu"
        on_device, in_memory = settings.device_cache, settings.memory_cache
        if on_device is None and self._on_cpu:
            on_device = CPU_CACHES[0]
        if in_memory is None:
            in_memory = CPU_CACHES[1] if self._on_cpu else ACCELERATOR_MEMORY
        self._room = RoomForStates(backbone.device, on_device)
        self._states = ByteCache[ImageState](self._room.limit(0), self._size_of_state, spared=SPARED)
        self._paused = weakref.WeakSet[Photo]()  # their states may no longer be in that tier
        self._pausing = threading.Lock()
        # Beside an accelerator the maps of clicks lie in this memory, not on the device.
        self._maps_limit = 0 if self._on_cpu else in_memory // 4
        self._features = ByteCache[EncodedImage](in_memory // 2)
        self._tables = ByteCache[JointBilateral](in_memory // 2 - self._maps_limit)
        self._next_state = 0  # bytes that the next state is expected to take
        self._kernels: AbstractContextManager[object] = nullcontext()
        self.disk = open_store(settings, backbone.fingerprint, claims)

    def warm_up(self, share: float = 1.0, *, clicks: bool = True) -> None:
        """Compile and load every kernel, so that the first annotator does not wait for it, and measure.

        Args:
            share: The part of the device's memory that is this process's, 0 to 1.
            clicks: Without them the model alone is run: matrices of images that nobody clicks on need no memory.

        Raises:
            OutOfMemory: The device has too little for one image; the message names a smaller grid.
        """
        self._room.share = share
        with memory_advice(self._grid, self.backbone.device):
            self._run_all(clicks)
        if clicks and numba.threading_layer() not in ("omp", "tbb"):
            self._kernels = threading.Lock()  # that layer ends the process where two threads use it at once
        if clicks and not self._on_cpu:
            self._states.limit = self._room.limit(0)
            logger.info("%s holds %s", self.backbone.device, self._images_held())

    def _run_all(self, clicks: bool) -> None:
        """Take every step once, with an image of noise: colors that a mixture can be fitted to."""
        started = time.monotonic()
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        with self._room.step():
            encoded = self._segmenter.extract(noise)
        self.encode_seconds = self.slowest_encode = time.monotonic() - started
        if not clicks:
            return
        with self._room.step():
            state = self._segmenter.prepare(encoded)
            for box in (None, Box(4, 4, 40, 40)):
                self._segmenter.segment(state, [Click(9, 9), Click(50, 50, positive=False), Click(30, 20)], box)
        if not self._on_cpu:
            self._next_state = state.device_bytes  # the grid decides it, and is the same for every image

    def segment(self, image: SourceImage, prompts: Prompts) -> tuple[Segmentation, Timings]:
        """Segment one object, all steps on this thread.

        Returns:
            The mask, and the milliseconds of the parts that ran: ``load`` (disk or file), ``encode`` (the model),
            ``prepare`` (matrix and table) and ``segment``.

        Raises:
            ImageNeeded: No tier has the image and ``image.data`` is None.
            InvalidImage: It cannot be decoded.
            ImageTooLarge: It has too many pixels.
            InvalidPrompt: A prompt lies outside the image or none is foreground.
            BackboneUnavailable: Too little memory, or the model gives no finite values.
        """
        photo = Photo(image)
        segmentation = None
        while segmentation is None:  # again where memory ran out, and the state was dropped
            while not (step := self.step(photo)).is_click:
                self.advance(photo, step)
                if step is Step.ENCODE and photo.encoded is not None:
                    self.disk.put(photo.key, photo.encoded)
            segmentation = self.answer(photo, prompts)
        return segmentation, photo.timings

    def is_prepared(self, key: str) -> bool:
        """Whether a click on an image costs its own map only."""
        return key in self._states

    def is_in_memory(self, key: str) -> bool:
        """Whether an image needs neither its file nor the model."""
        return key in self._states or key in self._features

    def step(self, photo: Photo) -> Step:
        """What the image needs next; of a new one, what memory has of it is found here."""
        if photo.state is not None or self.is_prepared(photo.key):
            return Step.PREPARED
        if photo.encoded is None and photo.rgb is None and photo.key in self._features:
            # Also of an image that was prepared a moment ago: it is not as cold as one that must be decoded.
            photo.encoded = self._features.get(photo.key)
            photo.table = self._tables.get(photo.key)
        if photo.encoded is None:
            return Step.LOAD if photo.rgb is None else Step.ENCODE
        return Step.TABLE if photo.table is None else Step.READY

    def advance(self, photo: Photo, step: Step) -> None:
        """Take one step that is no click.

        Raises:
            ImageNeeded: No tier has the image and its file is not there.
            InvalidImage: It cannot be decoded.
            ImageTooLarge: It has too many pixels.
            BackboneUnavailable: Too little memory, or the model gives no finite values.
        """
        if step is Step.LOAD:
            with _timing(photo.timings, "load"):
                # Without its file the image cannot be encoded here, so there is nothing to claim.
                look = self.disk.get if photo.image.data is None else self.disk.claim
                photo.encoded = self._features.get(photo.key) or look(photo.key)
                if photo.encoded is None:
                    with self._claimed(photo):
                        photo.rgb = self._decode(photo)
                else:
                    self._features.put(photo.key, photo.encoded)
        elif step is Step.ENCODE:
            with _timing(photo.timings, "encode"), self._claimed(photo):
                photo.encoded = self._encode(photo)
            photo.rgb = None
            self._features.put(photo.key, photo.encoded)
        elif step is Step.TABLE:
            encoded = photo.encoded
            assert encoded is not None, "what the step is made of"
            with _timing(photo.timings, "prepare"), self._kernels:
                photo.table = self._with_room(lambda: self._segmenter.joint_bilateral(encoded))
            self._tables.put(photo.key, photo.table)

    def abandon(self, photo: Photo) -> None:
        """Let others encode an image that was loaded for the model and is not wanted, or not written, any more."""
        self.disk.abandon(photo.key)

    def answer(self, photo: Photo, prompts: Prompts, pause: Callable[[], bool] = never) -> Segmentation | None:
        """Segment one object of an image that is ready.

        Args:
            photo: The image on its way.
            prompts: What was clicked on one object.
            pause: Asked after each prompt whether the others may wait. They are answered by a later call, which goes
                on where this one ended as long as ``photo.state`` is there.

        Returns:
            The mask. None where it is not finished, or the image is no longer ready as its state was evicted.

        Raises:
            InvalidPrompt: A prompt lies outside the image, none is foreground, or there are too many.
            BackboneUnavailable: Too little memory, or the model gives no finite values.
        """
        return self._with_room(lambda: self._answer(photo, prompts, pause))

    @property
    def can_do_both_at_once(self) -> bool:
        """Whether a click can be answered while the model runs."""
        return self._on_cpu

    @property
    def tiers(self) -> dict[str, Tier]:
        """Fill and counters of every tier."""
        memory, tables = self._features, self._tables
        return {
            "device": _tier(self._states),
            "memory": Tier(
                memory.nbytes + tables.nbytes + self._maps_bytes(),
                memory.limit + tables.limit + self._maps_limit,
                len(memory),
                memory.hits,
                memory.misses,
                memory.evictions + tables.evictions,
            ),
            "disk": _with_health(_tier(self.disk), self.disk.health),
        }

    def _answer(self, photo: Photo, prompts: Prompts, pause: Callable[[], bool]) -> Segmentation | None:
        state = photo.state or self._states.get(photo.key)
        if state is None:
            if photo.encoded is None or photo.table is None:
                return None
            with _timing(photo.timings, "prepare"), self._kernels:
                self._make_room(self._next_state)  # before the new one is built, or both need memory
                with self._room.step():
                    state = self._segmenter.prepare(photo.encoded, photo.table)
            self._next_state = max(self._next_state, self._size_of_state(state))
            self._states.put(photo.key, state)
        segmentation, photo.state = None, None
        with _timing(photo.timings, "segment"), self._kernels, self._room.step():
            try:
                segmentation = self._segmenter.segment(state, prompts.clicks, prompts.boxes, pause=pause)
            except Paused:
                photo.state = state
                with self._pausing:
                    self._paused.add(photo)
        self._states.put(photo.key, state)  # again: it has grown by the new maps
        while self._maps_bytes() > self._maps_limit and len(self._states) > 1:
            self._states.evict_oldest()
        return segmentation

    @contextmanager
    def _claimed(self, photo: Photo) -> Iterator[None]:
        """A claim that ends where the body fails; otherwise writing the features ends it."""
        try:
            yield
        except BaseException:
            self.disk.abandon(photo.key)
            raise

    def _decode(self, photo: Photo) -> NDArray[np.uint8]:
        data = photo.image.data
        if data is None:
            raise ImageNeeded("no cache has the image; its file is needed")
        return self._with_room(lambda: decode_image(data, max_pixels=self._max_pixels))

    def _encode(self, photo: Photo) -> EncodedImage:
        rgb = photo.rgb
        assert rgb is not None, "what the step is made of"
        started = time.monotonic()
        encoded = self._with_room(lambda: self._extract(rgb))
        self.encoded += 1
        self.encode_seconds = time.monotonic() - started
        self.slowest_encode = max(self.slowest_encode, self.encode_seconds)
        return encoded

    def _size_of_state(self, state: ImageState) -> int:
        return ENTRY_BYTES + state.nbytes if self._on_cpu else state.device_bytes

    def _maps_bytes(self) -> int:
        return 0 if self._on_cpu else sum(state.memo_bytes for state in self._states.values())

    def _extract(self, rgb: NDArray[np.uint8]) -> EncodedImage:
        # The image in work stays, unless both are known not to fit.
        self._make_room(0, keep=0 if self._room.is_lowered else 1)
        with self._room.step():
            encoded = self._segmenter.extract(rgb)
            if not encoded.features.is_finite:  # before any tier has them
                raise FloatingPointError("its features are not: the weights or the device are damaged")
            return encoded.to("cpu")

    @property
    def _grid(self) -> int:
        return getattr(self.backbone, "grid", 128)

    def _make_room(self, size: int, keep: int = 0) -> None:
        """Let prepared images go, until so many bytes more fit beside the others, or ``keep`` of them are left."""
        self._states.limit = self._room.limit(self._states.nbytes)
        self._states.make_room(size, keep)

    def _images_held(self) -> str:
        """How many prepared images the first tier has room for, in words."""
        size, limit = max(1, self._next_state), self._states.limit
        return (
            f"{max(1, limit // size)} prepared images of {size / 2**20:.0f} MiB at once, in {limit / 2**20:.0f} MiB"
        )

    def _with_room(self, work: Callable[[], T]) -> T:
        """Out of memory: once more with everything dropped that can be made again and lies in that memory."""
        try:
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("out of memory (%s)", one_line(error))
                of_host = is_out_of_host_memory(error)
            self._drop(of_host)  # here, as the error holds on to what the work had
            with memory_advice(self._grid, self.backbone.device):
                return work()
        except FloatingPointError as error:
            raise BackboneUnavailable(f"the model's attention is not finite: {error}") from error

    def _drop(self, of_host: bool) -> None:
        """Free the host's memory, or the device's, and hold less of the device from now on if that was too much."""
        held, count = self._states.nbytes, len(self._states)
        self._states.clear()
        with self._pausing:
            for photo in self._paused:
                photo.state = None
        if of_host or self._on_cpu:
            self._features.clear()
            self._tables.clear()
        release(self.backbone.device)
        if self._on_cpu or not of_host:
            self._room.ran_out(held, self._next_state)
            self._states.limit = self._room.limit(0)
        lowered = f"; for {LOWERED_SECONDS / 60:.0f} minutes {self._images_held()}" if self._room.is_lowered else ""
        logger.warning("dropped %d prepared images to try again%s", count, lowered)


def _tier(cache: ByteCache[ImageState] | FeatureStore) -> Tier:
    return Tier(cache.nbytes, cache.limit, len(cache), cache.hits, cache.misses, cache.evictions)


def _with_health(tier: Tier, health: CacheHealth) -> Tier:
    return replace(
        tier, failures=health.failures, damaged=health.damaged, paused=health.paused, trouble=health.trouble
    )


@contextmanager
def _timing(timings: Timings, name: str) -> Iterator[None]:
    """Add the milliseconds of the body to ``timings[name]``."""
    started = time.perf_counter()
    yield
    timings[name] = timings.get(name, 0.0) + 1000.0 * (time.perf_counter() - started)
