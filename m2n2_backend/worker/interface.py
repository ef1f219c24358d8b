"""What the web process may ask of the model, whoever answers it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from m2n2_backend import __version__
from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.prompts import Prompts

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class SourceImage:
    """One photograph as it was read.

    Attributes:
        key: Hash of the file's bytes; equal keys mean equal pixels.
        data: The encoded file (JPEG, PNG, …), at most ``max_image_bytes``; None where it is only known from before.
        size: Width and height in pixels as a browser shows it; None where nobody has looked yet.
    """

    key: str
    data: bytes | None = field(repr=False)
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Subject:
    """The object somebody is clicking on, so that waiting requests about an older state of it can be told.

    Attributes:
        project: Label Studio's id of the project.
        task: Label Studio's id of the task.
        label: The output control's label.
        prompts: Ids of the prompts that were drawn. A later request with all of these, and the same project, task and
            label, makes this one obsolete; one without them is about another object, or another annotator's.
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
    """An image to segment, or to encode only.

    Attributes:
        image: The photograph.
        prompts: Clicks and boxes in pixels of the natural image; None where the image is only to be encoded.
        seconds: Time until nobody waits for the answer, from the moment the work is handed over; infinite where the
            image is only to be encoded.
        subject: What the clicks are about; a newer request may then answer for one that still waits.
        rle: Whether the mask is wanted as Label Studio's brush RLE too.
        to_disk: Whether a caller waits until the image is encoded and written, and wants no more of it. Without it an
            image that is only to be encoded is made ready for clicks that may come, and nobody waits (a prefetch).
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
        rle: Label Studio's brush RLE of the mask where it was asked for, else None.
    """

    mask: NDArray[np.bool_]
    score: float
    model_version: str
    timings_ms: Mapping[str, float]
    rle: bytes | None = None


@dataclass(frozen=True)
class Status:
    """What /health and the log say about the model.

    Attributes:
        state: ``loading`` while no worker can answer yet, or again; ``ready``; ``degraded`` where some can and others
            cannot; ``failed`` where the model cannot be loaded or started.
        model_version: Known before the model is loaded.
        backbone: Its name in words, with a plain remark where it is only the embedded default.
        device: The device in words.
        detail: Cause and cure where ``state`` is ``failed``; else why a worker cannot answer (it died, or has been
            silent or loading for so many seconds) and how many clicks wait without one; or what keeps a cache from
            being used; empty where nothing is amiss.
    """

    state: Literal["loading", "ready", "degraded", "failed"]
    model_version: str
    backbone: str
    device: str
    detail: str = ""


@dataclass(frozen=True)
class Trouble:
    """Why a cache cannot be used now.

    Attributes:
        what: Cache, failure and cause, such as "the cache in /data cannot be written (No space left on device)".
        cost: What this means.
        since: ``time.time()`` of the first failure.
    """

    what: str
    cost: str
    since: float

    def __str__(self) -> str:
        """The whole sentence, with the time of day, or the date of an earlier day."""
        since, today = time.localtime(self.since), time.localtime()
        form = "%H:%M" if since[:3] == today[:3] else "%Y-%m-%d %H:%M"
        return f"{self.what} since {time.strftime(form, since)}: {self.cost}"


@dataclass(frozen=True)
class Tier:
    """One cache tier of one worker.

    Attributes:
        bytes: Held now.
        limit: Most bytes.
        entries: Images held.
        hits: Since the worker started.
        misses: Since the worker started.
        evictions: Since the worker started.
        failures: Times since the worker started that it could not be written, read or reached.
        damaged: Files since the worker started that were there and could not be used.
        paused: Whether it is left alone for a while after a failure.
        trouble: What keeps it from being used now.
    """

    bytes: int
    limit: int
    entries: int
    hits: int
    misses: int
    evictions: int
    failures: int = 0
    damaged: int = 0
    paused: bool = False
    trouble: Trouble | None = None

    @property
    def troubled(self) -> bool:
        """Whether something keeps it from being used now."""
        return self.trouble is not None


@dataclass(frozen=True)
class WorkerStats:
    """One worker as of its latest message.

    Attributes:
        device: In words.
        alive: Whether it can take work now.
        waiting: Clicks it has been handed and not answered, and those about its images that wait until a worker can
            take them; without those whose callers have given up.
        restarts: Times it was started again after it died.
        superseded: Requests answered with a newer request's mask.
        timed_out: Requests whose deadline passed before their answer.
        refused: Requests that found the queue full.
        encoded: Times the model ran.
        encode_seconds: Of the latest time; 0 before.
        rss: Resident memory in bytes; 0 where the system does not tell.
        tiers: ``device``, ``memory`` and ``disk``.
        age: Seconds for which the longest of the steps in work has been running; 0 where there is none.
        silence: Seconds since it was heard of: the age of these figures.
        name: Of a replica in a cluster, else empty.
        node: Address of its machine, else empty.
    """

    device: str
    alive: bool
    waiting: int
    restarts: int
    superseded: int
    timed_out: int
    refused: int
    encoded: int
    encode_seconds: float
    rss: int
    tiers: Mapping[str, Tier]
    age: float = 0.0
    silence: float = 0.0
    name: str = ""
    node: str = ""


def cache_troubles(workers: Iterable[WorkerStats]) -> str:
    """What keeps caches of living workers from being used, each cause once however many workers share the cache.

    Where workers on other machines do not have it, the machines that do are named.
    """
    living = [worker for worker in workers if worker.alive]
    found: dict[tuple[str, str], tuple[float, set[str]]] = {}
    for worker in living:
        for tier in worker.tiers.values():
            if (own := tier.trouble) is not None:
                since, nodes = found.get((own.what, own.cost), (own.since, set[str]()))
                found[own.what, own.cost] = min(since, own.since), nodes | {worker.node}
    everywhere = {worker.node for worker in living}
    return "; ".join(
        str(Trouble(what if nodes == everywhere else f"on {', '.join(sorted(nodes))} {what}", cost, since))
        for (what, cost), (since, nodes) in found.items()
    )


def model_version(fingerprint: str | None) -> str:
    """What answers are labeled with; without the fingerprint of a backbone until one is loaded."""
    return f"m2n2-{__version__}" + (f"-{fingerprint}" if fingerprint else "")


class Pool(Protocol):
    """The seam between web process and model: one process here, or a cluster."""

    def segment(self, work: Work) -> Answer:
        """Segment one object.

        Raises:
            ImageNeeded: The image's ``data`` is None and no cache has the image: ask again with its data.
            InvalidImage: The image cannot be decoded.
            ImageTooLarge: The image has more pixels than the settings allow.
            InvalidPrompt: A prompt lies outside the image or none is foreground.
            NotReady: Too many requests wait, the deadline passed (``DeadlinePassed``), or the image brought the model
                down again and again (``ImageRefused``).
            BackboneUnavailable: Loading failed, or memory is too small; the message names the cure.
        """
        ...

    def prefetch(self, image: SourceImage) -> bool:
        """Encode an image when nothing else is to do; False where too much waits already. Never blocks."""
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
    """Wait for the model, however long it is loaded or downloaded; what the pool says of it then.

    Raises:
        BackboneUnavailable: It cannot be loaded.
    """
    while (status := pool.status()).state == "loading":
        time.sleep(_POLL_SECONDS)
    if status.state == "failed":
        raise BackboneUnavailable(status.detail)
    return status
