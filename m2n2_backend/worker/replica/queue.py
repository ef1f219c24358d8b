"""What waits for one replica: who may, and what is obsolete. Who goes first is the replica's to say."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace

from m2n2_backend.errors import DeadlinePassed, NotReady
from m2n2_backend.worker.interface import Work
from m2n2_backend.worker.messages import Reply
from m2n2_backend.worker.shares import MOST, part

PREFETCHES = 16
"""Images to encode only that may wait for one replica."""

PREFETCH_BYTES = 128 * 1024**2
"""Of the files of those images."""


@dataclass(eq=False)
class Job:
    """One piece of work and whoever waits for it.

    Attributes:
        work: What is to be done.
        deadline: On the queue's clock.
        queued_at: On the queue's clock.
        future: Gets the reply.
        followers: Obsolete jobs that get the same reply.
        number: Grows with the arrival; a job that replaces another has that one's.
        is_long: Whether it was put off with prompts left to answer.
        is_cold: Whether its image was not in memory when it came.
        turn: Grows with what was done before it came, or for its project since: the least goes first.
    """

    work: Work
    deadline: float
    queued_at: float
    future: Future[Reply] = field(default_factory=Future)
    followers: list[Job] = field(default_factory=list)
    number: int = 0
    is_long: bool = False
    is_cold: bool = False
    turn: int = 0

    @property
    def project(self) -> str | None:
        """Label Studio's id of the project, None where that is not known."""
        return None if self.work.subject is None else self.work.subject.project

    @property
    def key(self) -> str:
        """Of the image."""
        return self.work.image.key

    @property
    def is_prefetch(self) -> bool:
        """Whether nobody waits for it."""
        return self.work.is_prefetch

    def everybody(self) -> Iterator[Job]:
        """This job and all that get its reply."""
        yield self
        for follower in self.followers:
            yield from follower.everybody()

    def finish(self, reply: Reply) -> None:
        """Answer everybody who waits."""
        for job in self.everybody():
            with suppress(InvalidStateError):  # whoever waited has given up
                job.future.set_result(reply)


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
            clock: Of deadlines, in seconds.
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
            NotReady: As many as may are waiting.
        """
        now = self._clock()
        job = Job(work, now + work.seconds, now, number=next(self._numbers), turn=self._turns)
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

    def _require_place(self, job: Job) -> None:
        if job.work.to_disk:
            return  # the command that fills the cache sends a few at a time and waits for them
        alike = [each for each in self._waiting if each.is_prefetch == job.is_prefetch]
        if not job.is_prefetch:
            full = len(alike) >= self._capacity or (not self._is_warm(job.key) and self._is_full_of_cold(alike))
        else:
            size = sum(len(each.work.image.data or b"") for each in (*alike, job))
            full = len(alike) >= PREFETCHES or (bool(alike) and size > PREFETCH_BYTES)
        if full:
            self.refused += 1
            raise NotReady(f"busy: {len(alike)} requests wait for the model; click again in a moment")

    def _is_full_of_cold(self, clicks: list[Job]) -> bool:
        return sum(not self._is_warm(each.key) for each in clicks) >= part(self._capacity, MOST)


def deadline_passed() -> DeadlinePassed:
    """The answer to those whose turn did not come in time."""
    return DeadlinePassed("the model was busy until the deadline; click again")


def _replaces(newer: Work, older: Work) -> bool:
    """Whether a click makes a waiting one obsolete. Of one image only: so its bytes are there for both."""
    if newer.subject is None or older.subject is None or newer.image.key != older.image.key:
        return False
    return newer.subject.replaces(older.subject)
