"""What the web process may ask of the model, whether that runs in processes of this machine or in a cluster."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from m2n2_backend import __version__
from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.prompts import Prompts
from m2n2_backend.worker.figures import WorkerStats

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class SourceImage:
    """One photograph as it was read.

    Attributes:
        key: Hash of the file's bytes; equal keys mean equal pixels.
        data: The encoded file (JPEG, PNG, …), at most ``max_image_bytes``; None if only its hash is known.
        size: Width and height in pixels as a browser shows it; None if nobody has looked yet.
    """

    key: str
    data: bytes | None = field(repr=False)
    size: tuple[int, int] | None = None

    @classmethod
    def of(cls, data: bytes, size: tuple[int, int] | None = None) -> SourceImage:
        """The image in a file."""
        return cls(hashlib.sha256(data).hexdigest(), data, size)

    def without_data(self) -> SourceImage:
        """The same image, of which only the hash is known."""
        return replace(self, data=None)


@dataclass(frozen=True)
class Subject:
    """The object that an annotator is clicking on: it tells which waiting requests are about an older state of it.

    Attributes:
        project: Label Studio's id of the project.
        task: Label Studio's id of the task.
        label: The output control's label.
        prompts: Ids of the prompts that were drawn. A later request with all of these, and the same project, task and
            label, makes this one obsolete; a request without them is about another object, or another annotator's.
    """

    project: str
    task: str
    label: str | None
    prompts: frozenset[str]

    def replaces(self, other: Subject) -> bool:
        """Whether a request about this one makes a waiting request about the other obsolete."""
        mine, theirs = (self.project, self.task, self.label), (other.project, other.task, other.label)
        return mine == theirs and bool(other.prompts) and other.prompts <= self.prompts


@dataclass(frozen=True)
class Work:
    """An image to segment, or only to encode. This is what travels to a worker.

    Attributes:
        image: The photograph.
        prompts: Clicks and boxes in pixels of the natural image; None if the image is only to be encoded.
        seconds: Time until nobody waits for the answer, from the moment the work is handed over; infinite if the
            image is only to be encoded.
        subject: What the clicks are about; a newer request may then answer for one that still waits.
        rle: Whether the mask is wanted as Label Studio's brush RLE too.
        to_disk: Whether a caller waits until the image is encoded and written, and wants nothing else of it. Without
            it an image that is only to be encoded is made ready for clicks that may come, and nobody waits (a
            prefetch).
    """

    image: SourceImage
    prompts: Prompts | None
    seconds: float = math.inf
    subject: Subject | None = None
    rle: bool = False
    to_disk: bool = False

    @property
    def is_prefetch(self) -> bool:
        """Whether nobody waits for it."""
        return self.prompts is None and not self.to_disk


@dataclass(frozen=True)
class Answer:
    """A mask and how it came about.

    Attributes:
        mask: bool [H, W], the size of the natural image.
        score: In [0, 1]; see ``m2n2.segmenter.Segmentation.score``.
        model_version: Changes whenever the same clicks may give another mask.
        timings_ms: Wall time of the parts that ran, by name: ``wait`` (queue), ``load`` (disk or file), ``encode``
            (the model), ``prepare`` (matrix and table), ``segment``, ``rle``.
        rle: Label Studio's brush RLE of the mask if it was asked for.
        view: The part of a large photograph that was looked at, and why, in words; empty if there are no views.
    """

    mask: NDArray[np.bool_]
    score: float
    model_version: str
    timings_ms: Mapping[str, float]
    rle: bytes | None = None
    view: str = ""


@dataclass(frozen=True)
class Status:
    """What /health and the log say about the model.

    Attributes:
        state: ``loading`` while no worker can answer yet, or again; ``ready``; ``degraded`` if some workers can
            answer and others cannot; ``failed`` if the model cannot be loaded or started.
        model_version: What answers are labeled with; without the backbone's part until the model is loaded.
        backbone: Its name in words, with a plain remark if it is only the embedded default.
        device: The device in words.
        detail: Cause and cure if ``state`` is ``failed``; else why a worker cannot answer (it died, or has been
            silent or loading, and for how long) and how many clicks wait without a worker; or what keeps a cache
            from being used; empty if all is well.
    """

    state: Literal["loading", "ready", "degraded", "failed"]
    model_version: str
    backbone: str
    device: str
    detail: str = ""


def model_version(fingerprint: str | None) -> str:
    """What answers are labeled with; it ends with the backbone's fingerprint as soon as that is known."""
    return f"m2n2-{__version__}" + (f"-{fingerprint}" if fingerprint else "")


class Pool(Protocol):
    """The seam between web process and model: processes of this machine, or a cluster."""

    def segment(self, work: Work) -> Answer:
        """Segment one object.

        Raises:
            ImageNeeded: The image's ``data`` is None and no cache has the image: ask again with its data.
            InvalidImage: The image cannot be decoded.
            ImageTooLarge: The image has more pixels than the settings allow.
            InvalidPrompt: A prompt lies outside the image, or no prompt is foreground.
            NotReady: Too many requests wait, the deadline passed (``DeadlinePassed``), or the image brought the model
                down again and again (``ImageRefused``).
            BackboneUnavailable: Loading failed, or memory is too small; the message names the cure.
        """
        ...

    def prefetch(self, image: SourceImage) -> bool:
        """Encode an image when nothing else is to do; False if too many images wait already. Never blocks."""
        ...

    def status(self) -> Status:
        """Answer at once, whatever the model is doing."""
        ...

    def stats(self) -> list[WorkerStats]:
        """Answer at once with figures of every worker."""
        ...

    def close(self) -> None:
        """Let go of the model; later calls of ``segment`` raise ``NotReady``."""
        ...


def wait_until_loaded(pool: Pool) -> Status:
    """Wait until the model is loaded, however long its download takes, and return the pool's status then.

    Raises:
        BackboneUnavailable: The model cannot be loaded.
    """
    while (status := pool.status()).state == "loading":
        time.sleep(_POLL_SECONDS)
    if status.state == "failed":
        raise BackboneUnavailable(status.detail)
    return status
