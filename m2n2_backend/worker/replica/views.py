"""The states that one answer needs: of the whole photograph, or of its views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from m2n2_backend.m2n2.cache import ByteCache
from m2n2_backend.m2n2.segmentation import Segmentation
from m2n2_backend.m2n2.segmenter import Segmenter
from m2n2_backend.m2n2.state import LOOK_BYTES, ImageState, Views
from m2n2_backend.m2n2.strategy import Paused
from m2n2_backend.m2n2.views.looks import Look
from m2n2_backend.m2n2.views.view import View
from m2n2_backend.prompts import Prompts
from m2n2_backend.worker.replica.photo import Photo, key_of
from m2n2_backend.worker.replica.tiers import MemoryTiers

SEEN_BYTES = 8 * 1024**2
"""Bytes of what was seen in the views of all photographs. What was evicted is looked at again."""


class NotAtHand(Exception):
    """A state is needed that the first tier does not have. The same call succeeds when it has; None is the whole."""

    def __init__(self, view: View | None) -> None:
        super().__init__(f"the state of {view or 'the whole photograph'} is not prepared")
        self.view = view


@dataclass(frozen=True)
class SeenViews:
    """What was seen of a large photograph, which outlives the states of its views.

    Attributes:
        size: (H, W) of the photograph.
        looks: See ``Views.looks``.
    """

    size: tuple[int, int]
    looks: ByteCache[Look] = field(default_factory=lambda: ByteCache(LOOK_BYTES))

    @property
    def nbytes(self) -> int:
        """Bytes of the looks; they are few and small."""
        return self.looks.nbytes


class StatesAtHand:
    """Finds the states of one photograph for one answer, and remembers which one was used last."""

    def __init__(
        self, photo: Photo, state: ImageState | None, memory: MemoryTiers, seen: ByteCache[SeenViews]
    ) -> None:
        """Take what the answer starts with; ``state`` is that of ``photo.view`` if it is prepared."""
        self._photo = photo
        self._key, self._state = photo.key, state
        self._memory = memory
        self._seen = seen

    def segment(self, segmenter: Segmenter, prompts: Prompts, pause: Callable[[], bool]) -> Segmentation | None:
        """The answer; None if it was paused, or if it needs a state to which the photo then turns."""
        try:
            views = self.views(segmenter)
            if views is None:
                return segmenter.segment(self.whole(), prompts.clicks, prompts.boxes, pause=pause)
            segmentation = segmenter.segment_views(views, prompts, pause=pause)
            self._photo.turn_to(None)
            return segmentation
        except Paused:
            self._pause()
        except NotAtHand as missed:
            self._photo.turn_to(missed.view, is_missed=True)
        return None

    def views(self, segmenter: Segmenter) -> Views | None:
        """The views of a large photograph; None if the photograph is only looked at as a whole.

        Raises:
            NotAtHand: Nobody knows how large the photograph is.
        """
        key = self._photo.image.key
        seen = self._seen.get(key)
        if seen is None:
            size = self.whole().size
            if not segmenter.is_viewed(size):
                return None
            seen = SeenViews(size)
        self._seen.put(key, seen)
        whole = View.whole(seen.size)
        return Views(seen.size, lambda view: self.whole() if view == whole else self._of(view), seen.looks)

    def whole(self) -> ImageState:
        """The state of the whole photograph.

        Raises:
            NotAtHand: It is not prepared.
        """
        return self._of(None)

    def _pause(self) -> None:
        """Keep the state that was used last for the rest of a long request."""
        if self._state is not None:
            self._memory.pause(self._photo, self._state)

    def keep(self) -> None:
        """Let the first tier measure the state that was used last."""
        if self._state is not None:
            self._memory.keep_state(self._key, self._state)

    def _of(self, view: View | None) -> ImageState:
        key = key_of(self._photo.image.key, view)
        if key == self._key and self._state is not None:
            return self._state
        state = self._memory.states.get(key)
        if state is None:
            raise NotAtHand(view)
        self.keep()
        self._key, self._state = key, state
        self._photo.turn_to(view)
        return state
