"""The two cache tiers in memory, and the room on the device that steps and prepared images share."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

from m2n2_backend.backbones.device.errors import is_out_of_host_memory, is_out_of_memory
from m2n2_backend.backbones.device.memory import LOWERED_SECONDS, RoomForStates, memory_advice, release
from m2n2_backend.errors import BackboneUnavailable, one_line
from m2n2_backend.m2n2.cache import ENTRY_BYTES, ByteCache
from m2n2_backend.m2n2.paper.attention import Backbone
from m2n2_backend.m2n2.paper.upsample import JointBilateral
from m2n2_backend.m2n2.state import EncodedImage, ImageState
from m2n2_backend.settings import Settings
from m2n2_backend.worker.figures import Tier
from m2n2_backend.worker.replica.photo import VIEW_MARK, Photo

logger = logging.getLogger(__name__)

CPU_CACHES = (256 * 1024**2, 256 * 1024**2)
"""Defaults of the first and the second tier on a CPU, where both are the same memory as the model's."""

ACCELERATOR_MEMORY = 2 * 1024**3
"""Default of the second tier beside an accelerator: features of a grid of 128 take 42 MB an image."""

SPARED = 0.75
"""Share of the first tier for images that were clicked again: first clicks on others do not displace them."""

T = TypeVar("T")


class MemoryTiers:
    """Prepared images on the device, and beside them features and JBU tables in the host's memory.

    Attributes:
        on_cpu: Whether the model's device is the CPU, so that there is one memory for everything.
        room: How much of the device's memory prepared images may take.
        states: Prepared images, the first tier.
        features: The model's features, part of the second tier.
        tables: JBU operators, part of the second tier.
        maps_limit: Most bytes of the maps of clicks. Beside an accelerator they lie in the host's memory, not on the
            device, and count for the second tier; 0 on a CPU.
        next_state: Bytes that the next prepared image is expected to take.
    """

    def __init__(self, backbone: Backbone, settings: Settings) -> None:
        """Set up empty tiers for a loaded backbone."""
        self._device = backbone.device
        self._grid: int = getattr(backbone, "grid", 128)
        self.on_cpu = self._device.type == "cpu"
        on_device, in_memory = settings.device_cache, settings.memory_cache
        if on_device is None and self.on_cpu:
            on_device = CPU_CACHES[0]
        if in_memory is None:
            in_memory = CPU_CACHES[1] if self.on_cpu else ACCELERATOR_MEMORY
        self.room = RoomForStates(self._device, on_device)
        self.states = ByteCache[ImageState](self.room.limit(0), self.size_of_state, spared=SPARED)
        self._paused = weakref.WeakSet[Photo]()  # their states may no longer be in that tier
        self._pausing = threading.Lock()
        self.maps_limit = 0 if self.on_cpu else in_memory // 4
        self.features = ByteCache[EncodedImage](in_memory // 2)
        self.tables = ByteCache[JointBilateral](in_memory // 2 - self.maps_limit)
        self.next_state = 0

    @property
    def figures(self) -> dict[str, Tier]:
        """Fill and counters of both tiers."""
        memory, tables, states = self.features, self.tables, self.states
        return {
            "device": Tier(states.nbytes, states.limit, len(states), states.hits, states.misses, states.evictions),
            "memory": Tier(
                memory.nbytes + tables.nbytes + self._maps_bytes(),
                memory.limit + tables.limit + self.maps_limit,
                len(memory),
                memory.hits,
                memory.misses,
                memory.evictions + tables.evictions,
            ),
        }

    def size_of_state(self, state: ImageState) -> int:
        """Bytes that a prepared image takes of the first tier."""
        return ENTRY_BYTES + state.nbytes if self.on_cpu else state.device_bytes

    def is_prepared(self, image: str) -> bool:
        """Whether the first tier has an image, or a view of it."""
        return any(key == image or str(key).startswith(image + VIEW_MARK) for key in self.states.all_keys())

    def is_in_memory(self, image: str) -> bool:
        """Whether an image needs neither its file nor the model, unless another view of it is wanted."""
        return self.is_prepared(image) or image in self.features

    def keep_state(self, key: str, state: ImageState) -> None:
        """Keep a prepared image; others make room if the maps of clicks take too much of the host's memory."""
        self.states.put(key, state)
        while self._maps_bytes() > self.maps_limit and len(self.states) > 1:
            self.states.evict_oldest()

    def pause(self, photo: Photo, state: ImageState) -> None:
        """Keep the state of a long request for its rest, until memory runs out."""
        photo.state = state
        with self._pausing:
            self._paused.add(photo)

    def make_room(self, size: int, keep: int = 0) -> None:
        """Evict prepared images until ``size`` bytes fit beside the others, or only ``keep`` images are left."""
        self.states.limit = self.room.limit(self.states.nbytes)
        self.states.make_room(size, keep)

    def images_held(self) -> str:
        """How many prepared images the first tier has room for, in words."""
        size, limit = max(1, self.next_state), self.states.limit
        return (
            f"{max(1, limit // size)} prepared images of {size / 2**20:.0f} MiB at once, in {limit / 2**20:.0f} MiB"
        )

    def with_room(self, work: Callable[[], T]) -> T:
        """Do work; if memory runs out, drop everything that lies in that memory and can be made again, and retry.

        Raises:
            OutOfMemory: Memory ran out again; the message names a smaller grid.
            BackboneUnavailable: The model gives values that are not finite.
        """
        try:
            try:
                return work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("out of memory (%s)", one_line(error))
                of_host = is_out_of_host_memory(error)
            self._drop(of_host)  # here, as the error holds on to what the work had
            with memory_advice(self._grid, self._device):
                return work()
        except FloatingPointError as error:
            raise BackboneUnavailable(f"the model's attention is not finite: {error}") from error

    def _drop(self, of_host: bool) -> None:
        """Free the host's memory, or the device's, and hold less of the device from now on if that was too much."""
        held, count = self.states.nbytes, len(self.states)
        self.states.clear()
        with self._pausing:
            for photo in self._paused:
                photo.state = None
        if of_host or self.on_cpu:
            self.features.clear()
            self.tables.clear()
        release(self._device)
        if self.on_cpu or not of_host:
            self.room.ran_out(held, self.next_state)
            self.states.limit = self.room.limit(0)
        lowered = f"; for {LOWERED_SECONDS / 60:.0f} minutes {self.images_held()}" if self.room.is_lowered else ""
        logger.warning("dropped %d prepared images to try again%s", count, lowered)

    def _maps_bytes(self) -> int:
        return 0 if self.on_cpu else sum(state.memo_bytes for state in self.states.values())
