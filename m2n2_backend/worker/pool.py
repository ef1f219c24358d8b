"""What the web process may ask of the model, whoever answers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from m2n2_backend.prompts import Prompts


@dataclass(frozen=True)
class SourceImage:
    """One photograph as it was read.

    Attributes:
        key: Hash of ``data``; equal keys mean equal pixels.
        data: The encoded file (JPEG, PNG, …), at most ``max_image_bytes``.
    """

    key: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Answer:
    """A mask and how it came about.

    Attributes:
        mask: bool [H, W], the size of the natural image.
        score: In [0, 1]; see ``m2n2.segmenter.Segmentation.score``.
        model_version: Changes whenever the same clicks may give another mask.
        timings_ms: Wall time of the parts that ran, by name.
    """

    mask: NDArray[np.bool_]
    score: float
    model_version: str
    timings_ms: Mapping[str, float]


@dataclass(frozen=True)
class Status:
    """What /health and the log say about the model.

    Attributes:
        state: ``loading`` until the first request can be answered, ``ready``, or ``failed``.
        model_version: Known before the model is loaded.
        backbone: Its name in words, with a plain remark where it is only the embedded default.
        device: The device in words.
        detail: Cause and cure where ``state`` is ``failed``, else empty.
    """

    state: Literal["loading", "ready", "failed"]
    model_version: str
    backbone: str
    device: str
    detail: str = ""


class Pool(Protocol):
    """The seam between web process and model."""

    def segment(self, image: SourceImage, prompts: Prompts, *, deadline: float) -> Answer:
        """Segment one object.

        Args:
            image: The photograph.
            prompts: Clicks and boxes in pixels of the natural image.
            deadline: ``time.monotonic()`` after which nobody waits for the answer.

        Raises:
            InvalidImage: ``image`` cannot be decoded.
            ImageTooLarge: ``image`` has more pixels than the settings allow.
            InvalidPrompt: A prompt lies outside the image or none is foreground.
            NotReady: The model is not loaded yet, or the deadline passed.
            BackboneUnavailable: Loading failed; the message names the cure.
        """
        ...

    def status(self) -> Status:
        """Answer at once, whatever the model is doing."""
        ...

    def close(self) -> None:
        """Let go of the model; later calls of ``segment`` raise ``NotReady``."""
        ...
