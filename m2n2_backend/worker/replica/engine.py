"""Model and caches of one device: image and prompts → mask, in steps that may run on different threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numba

from m2n2_backend.backbones.device.memory import memory_advice
from m2n2_backend.errors import ImageNeeded
from m2n2_backend.images import decode_image
from m2n2_backend.m2n2.cache import ByteCache
from m2n2_backend.m2n2.paper.attention import Backbone
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import EncodedImage
from m2n2_backend.m2n2.strategy import never
from m2n2_backend.prompts import Box, Click, Prompts
from m2n2_backend.settings import Settings
from m2n2_backend.worker.figures import Tier
from m2n2_backend.worker.interface import SourceImage
from m2n2_backend.worker.replica.encoder import Encoder
from m2n2_backend.worker.replica.photo import Photo, Step, Timings
from m2n2_backend.worker.replica.tiers import MemoryTiers
from m2n2_backend.worker.replica.views import SEEN_BYTES, SeenViews, StatesAtHand
from m2n2_backend.worker.store.features import Claims, open_store

logger = logging.getLogger(__name__)


class Engine:
    """Three tiers above the model.

    - device: matrix, JBU table, maps of earlier clicks. A new click costs its own map only.
    - memory: the model's features, and JBU tables. The matrix is built again.
    - disk: the model's features. Matrix and table are built again.

    The model runs if an image is in none of them, and only then the image's file is needed. Each kind of step runs on
    one thread at a time, different kinds may run at once; clicks on one image never do.

    Attributes:
        backbone: The model.
        memory: The tiers on the device and in memory.
        disk: The tier on disk. Callers of ``advance`` write to it when it suits them.
        encoder: Runs the model.
        view: See :class:`~m2n2_backend.worker.interface.Answer`; that of the latest answer.
    """

    def __init__(self, backbone: Backbone, settings: Settings, claims: Claims | None = None) -> None:
        """Set up empty tiers above a loaded backbone; the disk's keeps what it has. See ``open_store`` for claims."""
        self.backbone = backbone
        self.memory = MemoryTiers(backbone, settings)
        self.disk = open_store(settings, backbone.fingerprint, claims)
        self._segmenter = Segmenter(backbone, settings.method())
        self.encoder = Encoder(self._segmenter, self.memory)
        self._max_pixels = settings.max_image_pixels
        self.view = ""
        self._seen = ByteCache[SeenViews](SEEN_BYTES)
        self._kernels: AbstractContextManager[object] = nullcontext()

    @property
    def tiers(self) -> dict[str, Tier]:
        """Fill and counters of every tier."""
        return {**self.memory.figures, "disk": _disk_tier(self)}

    def warm_up(self, share: float = 1.0, *, clicks: bool = True) -> None:
        """Compile and load every kernel, so that the first annotator does not wait for it, and measure.

        Args:
            share: The part of the device's memory that belongs to this process, 0 to 1.
            clicks: Without them only the model is run: matrices of images that nobody clicks on need no memory.

        Raises:
            OutOfMemory: The device has too little for one image; the message names a smaller grid.
        """
        memory = self.memory
        memory.room.share = share
        with memory_advice(getattr(self.backbone, "grid", 128), self.backbone.device):
            encoded = self.encoder.warm_up()
            if clicks:
                self._warm_up_clicks(encoded)
        if clicks and numba.threading_layer() not in ("omp", "tbb"):
            self._kernels = threading.Lock()  # that layer ends the process if two threads use it at once
        if clicks and not memory.on_cpu:
            memory.states.limit = memory.room.limit(0)
            logger.info("%s holds %s", self.backbone.device, memory.images_held())

    def segment(self, image: SourceImage, prompts: Prompts) -> tuple[Segmentation, Timings]:
        """Segment one object, all steps on this thread.

        Returns:
            The mask, and the timings of :class:`~m2n2_backend.worker.interface.Answer` for the parts that ran here.

        Raises:
            ImageNeeded: No tier has the image and ``image.data`` is None.
            InvalidImage: The image cannot be decoded.
            ImageTooLarge: The image has too many pixels.
            InvalidPrompt: A prompt lies outside the image, or no prompt is foreground.
            BackboneUnavailable: Memory is too small, or the model gives values that are not finite.
        """
        photo = Photo(image)
        segmentation = None
        while segmentation is None:  # again if memory ran out, and the state was dropped
            while not (step := self.step(photo)).is_click:
                self.advance(photo, step)
                if step is Step.ENCODE and photo.encoded is not None:
                    self.disk.put(photo.key, photo.encoded)
            segmentation = self.answer(photo, prompts)
        return segmentation, photo.timings

    def is_prepared(self, key: str) -> bool:
        """Whether a click on an image costs its own map only."""
        return self.memory.is_prepared(key)

    def step(self, photo: Photo) -> Step:
        """What the image needs next. What memory has of a new image is put into the photo here."""
        key, memory = photo.key, self.memory
        if photo.state is not None or key in memory.states:
            return Step.PREPARED
        if not photo.is_missed and self.is_prepared(photo.image.key):
            return Step.PREPARED
        if photo.encoded is None and photo.rgb is None and key in memory.features:
            # Also of an image that was prepared a moment ago: it is not as cold as one that must be decoded.
            photo.encoded, photo.table = memory.features.get(key), memory.tables.get(key)
        if photo.encoded is None:
            return Step.LOAD if photo.rgb is None else Step.ENCODE
        return Step.TABLE if photo.table is None else Step.READY

    def advance(self, photo: Photo, step: Step) -> None:
        """Take one step that is not a click.

        Raises:
            ImageNeeded: No tier has the image and its file is not there.
            InvalidImage: The image cannot be decoded.
            ImageTooLarge: The image has too many pixels.
            BackboneUnavailable: Memory is too small, or the model gives values that are not finite.
        """
        key = photo.key
        if step is Step.LOAD:
            with photo.timing("load"):
                # Without its file the image cannot be encoded here, so there is nothing to claim.
                look = self.disk.get if photo.image.data is None else self.disk.claim
                photo.encoded = self.memory.features.get(key) or look(key)
                if photo.encoded is None:
                    with self._claimed(photo):
                        self._decode(photo)
                else:
                    self.memory.features.put(key, photo.encoded)
        elif step is Step.ENCODE:
            assert photo.rgb is not None, "what the step is made of"
            with photo.timing("encode"), self._claimed(photo):
                photo.encoded = self.encoder.encode(photo.rgb)
            photo.rgb = None
            self.memory.features.put(key, photo.encoded)
        elif step is Step.TABLE:
            encoded = photo.encoded
            assert encoded is not None, "what the step is made of"
            with photo.timing("prepare"), self._kernels:
                photo.table = self.memory.with_room(lambda: self._segmenter.joint_bilateral(encoded))
            self.memory.tables.put(key, photo.table)

    def abandon(self, photo: Photo) -> None:
        """Let others encode an image that was loaded for the model and is not wanted, or not written, any more."""
        self.disk.abandon(photo.key)

    def answer(self, photo: Photo, prompts: Prompts, pause: Callable[[], bool] = never) -> Segmentation | None:
        """Segment one object of an image that is ready.

        Args:
            photo: The image.
            prompts: The prompts of one object.
            pause: Asked after each prompt whether the others may wait. They are answered by a later call, which goes
                on where this one ended as long as ``photo.state`` is there.

        Returns:
            The mask; None if it is not finished, or if the image is no longer ready as its state was evicted.

        Raises:
            InvalidPrompt: A prompt lies outside the image, no prompt is foreground, or there are too many.
            BackboneUnavailable: Memory is too small, or the model gives values that are not finite.
        """
        return self.memory.with_room(lambda: self._answer(photo, prompts, pause))

    def _answer(self, photo: Photo, prompts: Prompts, pause: Callable[[], bool]) -> Segmentation | None:
        memory = self.memory
        state = photo.state or memory.states.get(photo.key)
        if state is None and photo.encoded is not None and photo.table is not None:
            with photo.timing("prepare"), self._kernels:
                memory.make_room(memory.next_state)  # before the new one is built, or both need memory
                with memory.room.step():
                    state = self._segmenter.prepare(photo.encoded, photo.table)
            memory.next_state = max(memory.next_state, memory.size_of_state(state))
            memory.states.put(photo.key, state)
        photo.state = None
        states = StatesAtHand(photo, state, memory, self._seen)
        with photo.timing("segment"), self._kernels, memory.room.step():
            segmentation = states.segment(self._segmenter, prompts, pause)
        states.keep()  # again: it has grown by the new maps
        if segmentation is not None:
            self.view = str(segmentation.choice or "")
        return segmentation

    @contextmanager
    def _claimed(self, photo: Photo) -> Iterator[None]:
        """A claim that ends if the body fails; otherwise it ends when the features are written."""
        try:
            yield
        except BaseException:
            self.abandon(photo)
            raise

    def _decode(self, photo: Photo) -> None:
        data, pixels = photo.image.data, photo.pixels
        if pixels is None:
            if data is None:
                raise ImageNeeded("no cache has the image; its file is needed")
            pixels = self.memory.with_room(lambda: decode_image(data, max_pixels=self._max_pixels))
        photo.pixels = pixels if self._segmenter.is_viewed(pixels.shape) else None
        photo.rgb = pixels if photo.view is None else photo.view.crop(pixels)

    def _warm_up_clicks(self, encoded: EncodedImage) -> None:
        with self.memory.room.step():
            state = self._segmenter.prepare(encoded)
            for box in (None, Box(4, 4, 40, 40)):
                self._segmenter.segment(state, [Click(9, 9), Click(50, 50, positive=False), Click(30, 20)], box)
        if not self.memory.on_cpu:
            self.memory.next_state = state.device_bytes  # the grid decides it, and is the same for every image


def _disk_tier(engine: Engine) -> Tier:
    disk, health = engine.disk, engine.disk.health
    return Tier(
        disk.nbytes,
        disk.limit,
        len(disk),
        disk.hits,
        disk.misses,
        disk.evictions,
        failures=health.failures,
        damaged=health.damaged,
        paused=health.paused,
        trouble=health.trouble,
    )
