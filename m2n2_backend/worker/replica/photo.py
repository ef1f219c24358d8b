"""One photograph on its way to where it can be clicked, step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.m2n2.paper.upsample import JointBilateral
from m2n2_backend.m2n2.state import EncodedImage, ImageState
from m2n2_backend.m2n2.views.view import View
from m2n2_backend.worker.interface import SourceImage
from m2n2_backend.worker.job import Job

Timings = dict[str, float]

VIEW_MARK = "@"
"""Between a photograph's hash and a view."""


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


def key_of(image: str, view: View | None) -> str:
    """The key of a view in every tier; that of the whole photograph is its file's hash."""
    return image if view is None else f"{image}{VIEW_MARK}{view}"


@dataclass(eq=False)
class Photo:
    """What is known of one photograph, or of its view that is wanted now, between the steps.

    Attributes:
        image: The photograph, perhaps without its file.
        view: The view that the fields below are about; None is the whole photograph.
        is_missed: Whether an answer needs this view, and not only any that is prepared.
        pixels: The decoded photograph, uint8 [H, W, 3], if views of it may be wanted.
        rgb: uint8 [h, w, 3] between loading and encoding.
        encoded: The model's features.
        table: The JBU operator.
        state: What the first clicks of a long request made, while the rest waits.
        timings: Milliseconds of the parts that ran and that are in no answer yet.
        busy: Whether a thread takes a step of it now.
        turned_for: The job that needs the view.
    """

    image: SourceImage
    view: View | None = None
    is_missed: bool = False
    pixels: NDArray[np.uint8] | None = None
    rgb: NDArray[np.uint8] | None = None
    encoded: EncodedImage | None = None
    table: JointBilateral | None = None
    state: ImageState | None = None
    timings: Timings = field(default_factory=dict)
    busy: bool = False
    turned_for: Job | None = None

    @property
    def key(self) -> str:
        """Under which every tier keeps what it has of the photograph, or of the view."""
        return key_of(self.image.key, self.view)

    def turn_to(self, view: View | None, *, is_missed: bool = False) -> None:
        """Be about a view; of another one than before nothing is here yet."""
        self.is_missed = is_missed
        if view != self.view:
            self.view, self.encoded, self.table, self.state = view, None, None, None

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Add the milliseconds of the body to ``timings[name]``, unless it raises."""
        started = time.perf_counter()
        yield
        self.timings[name] = self.timings.get(name, 0.0) + 1000.0 * (time.perf_counter() - started)
