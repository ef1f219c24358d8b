"""What a server bounds and counts of the objects that it asks of the model."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from m2n2_backend.errors import ImageNeeded
from m2n2_backend.worker.figures import WorkerStats
from m2n2_backend.worker.interface import Answer, Work
from m2n2_backend.worker.shares import Places, click_limits

Count = Callable[[Work, Answer | None, Exception | None], None]
"""Counts one object: its answer, or the error that it ended with."""


class Meter:
    """Bounds the clicks in work and the image files that they hold, and counts how they end. Threads share one.

    Some places are kept for clicks on images that are prepared, and for other projects; see
    :func:`~m2n2_backend.worker.shares.click_limits`. An image counts as prepared if it is among the images that were
    answered last, as many as the workers say they hold.
    """

    def __init__(
        self, count: Count, stats: Callable[[], Sequence[WorkerStats]], *, at_once: int, most_bytes: int
    ) -> None:
        """Set up a meter with all places free.

        Args:
            count: Called with the outcome of each object.
            stats: The workers' figures; see :meth:`m2n2_backend.worker.interface.Pool.stats`.
            at_once: Most clicks that wait or are in work; further clicks get a 503. A server keeps more threads than
                that, so that waiting for the model never blocks what must be answered at once.
            most_bytes: Most bytes of image files that those clicks hold together.
        """
        self._count = count
        self._stats = stats
        self._at_once = at_once
        self._most_bytes = most_bytes
        self._places = Places("clicks wait for the model")
        self._files = Places("bytes of images wait for the model")
        self._lock = threading.Lock()
        self._warm: OrderedDict[str, None] = OrderedDict()

    @contextmanager
    def place(self, work: Work) -> Iterator[None]:
        """Hold a place while the body asks the model, and count an error that it raises.

        Raises:
            NotReady: All places that this click may take are taken.
        """
        project = work.subject.project if work.subject is not None else None
        is_cold = work.image.key not in self._warm
        places = click_limits(self._at_once, project, is_cold=is_cold)
        files = click_limits(self._most_bytes, project, is_cold=True)
        size = len(work.image.data or b"") if is_cold else 0
        try:
            with self._places.take(places), self._files.take(files, size):
                yield
        except ImageNeeded:
            with self._lock:
                self._warm.pop(work.image.key, None)
            raise  # the same object is asked for once more, with its image
        except Exception as error:
            self._count(work, None, error)
            raise

    def answered(self, work: Work, answer: Answer) -> None:
        """Count an answer, and note that its image is prepared now."""
        self._count(work, answer, None)
        tiers = (worker.figures.tiers for worker in self._stats())
        prepared = sum(own["device"].entries for own in tiers if "device" in own)
        with self._lock:
            self._warm[work.image.key] = None
            self._warm.move_to_end(work.image.key)
            while len(self._warm) > max(1, prepared):
                self._warm.popitem(last=False)
