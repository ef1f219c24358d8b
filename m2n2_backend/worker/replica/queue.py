"""What waits for one replica: which jobs may wait, and which are obsolete. Their order is the agenda's."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from m2n2_backend.errors import NotReady
from m2n2_backend.worker.interface import SourceImage, Work
from m2n2_backend.worker.job import Job
from m2n2_backend.worker.shares import MOST, part

PREFETCHES = 16
"""Images to encode only that may wait for one replica."""

PREFETCH_BYTES = 128 * 1024**2
"""Most bytes of those images' files together."""


class JobQueue:
    """Jobs in the order of their arrival. Not locked: its replica's lock protects it.

    Attributes:
        superseded: Jobs answered with a newer one's reply.
        refused: Jobs that found the queue full.
    """

    def __init__(
        self, capacity: int, clock: Callable[[], float], is_warm: Callable[[str], bool] = lambda key: True
    ) -> None:
        """Set up an empty queue.

        Args:
            capacity: Clicks that may wait; prefetches have places of their own.
            clock: The clock of deadlines, in seconds.
            is_warm: Whether an image is prepared, by its key. Clicks on others may take three quarters of the places.
        """
        self.superseded = self.refused = 0
        self._capacity = capacity
        self._clock = clock
        self._is_warm = is_warm
        self._numbers = itertools.count(1)
        self._turns = 0
        self._waiting: list[Job] = []

    def put(self, work: Work) -> Job:
        """Let work wait; it takes the place of what it makes obsolete, and its reply is theirs too.

        Raises:
            NotReady: The queue is full.
        """
        now = self._clock()
        job = Job(work, now + work.seconds, next(self._numbers), queued_at=now, turn=self._turns)
        obsolete = [waiting for waiting in self._waiting if _replaces(work, waiting.work)]
        if not obsolete:
            self._require_place(job)
        for older in obsolete:
            self._waiting.remove(older)
            self._follow(older, job)
        self._wait(job)
        return job

    def put_back(self, job: Job) -> None:
        """Let a job that was taken wait again, in its old place, or for what has made it obsolete meanwhile."""
        newer = self._newer(job)
        if newer is None:
            self._wait(job)
        else:
            self._follow(job, newer)

    def is_obsolete(self, job: Job) -> bool:
        """Whether nobody waits for a job that was taken, or only for the reply of one that waits now."""
        return not self._is_wanted(job) or self._newer(job) is not None

    def take(self, job: Job) -> None:
        """Remove a job: it is in work, or answered."""
        self._waiting.remove(job)

    def served(self, jobs: Iterable[Job]) -> None:
        """Let others go before these jobs, as something was done for their project just now.

        A project that is new has no better turn than one that was served last: ids of projects can be invented.
        """
        self._turns += 1
        for job in jobs:
            job.turn = self._turns

    def unwanted(self) -> list[Job]:
        """Remove those that nobody waits for any more: their deadline passed, or they were cancelled."""
        dropped = [job for job in self._waiting if not self._is_wanted(job)]
        for job in dropped:
            self._waiting.remove(job)
        return dropped

    def holds(self, key: str) -> bool:
        """Whether a job about this image waits."""
        return any(job.key == key for job in self._waiting)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._waiting))

    def __len__(self) -> int:
        return len(self._waiting)

    def _newer(self, job: Job) -> Job | None:
        return next((each for each in self._waiting if _replaces(each.work, job.work)), None)

    def _follow(self, older: Job, newer: Job) -> None:
        newer.followers.append(older)
        newer.number, newer.turn = min(newer.number, older.number), min(newer.turn, older.turn)
        newer.is_long |= older.is_long
        newer.is_cold |= older.is_cold
        newer.work = replace(newer.work, rle=newer.work.rle or older.work.rle)
        self.superseded += 1

    def _is_wanted(self, job: Job) -> bool:
        now = self._clock()
        return any(now < each.deadline and not each.future.done() for each in job.everybody())

    def _wait(self, job: Job) -> None:
        self._waiting.append(job)
        self._waiting.sort(key=lambda each: each.number)

    def _require_place(self, job: Job) -> None:
        if job.work.to_disk:
            return  # the command that fills the cache sends a few at a time and waits for them
        is_prefetch = job.work.is_prefetch
        alike = [each for each in self._waiting if each.work.is_prefetch == is_prefetch]
        if is_prefetch:
            full = not may_prefetch(job.work.image, alike)
        else:
            full = len(alike) >= self._capacity or (not self._is_warm(job.key) and self._is_full_of_cold(alike))
        if full:
            self.refused += 1
            raise NotReady(f"busy: {len(alike)} requests wait for the model; click again in a moment")

    def _is_full_of_cold(self, clicks: list[Job]) -> bool:
        return sum(not self._is_warm(each.key) for each in clicks) >= part(self._capacity, MOST)


def may_prefetch(image: SourceImage, waiting: Sequence[Job]) -> bool:
    """Whether one more image may wait to be encoded beside these; one alone may have any size."""
    size = sum(len(each.work.image.data or b"") for each in waiting) + len(image.data or b"")
    return len(waiting) < PREFETCHES and (not waiting or size <= PREFETCH_BYTES)


def _replaces(newer: Work, older: Work) -> bool:
    """Whether a click makes a waiting one obsolete. Both are about one image, so its bytes are there for both."""
    if newer.subject is None or older.subject is None or newer.image.key != older.image.key:
        return False
    return newer.subject.replaces(older.subject)
