"""What waits for one worker: clicks before prefetching, obsolete clicks not at all."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from m2n2_backend.errors import NotReady
from m2n2_backend.prompts import Prompts
from m2n2_backend.worker.pool import SourceImage, Subject


class Priority(IntEnum):
    """The order of work; equal ones in the order of their arrival."""

    CLICK = 0
    PREFETCH = 1


@dataclass(eq=False)
class Job:
    """One piece of work and whoever waits for it.

    Attributes:
        image: The photograph.
        prompts: None to only encode the photograph.
        deadline: ``time.monotonic()`` after which nobody waits; infinite for prefetching.
        subject: See :class:`Subject`.
        attempts: Times it was handed to the worker.
        followers: Obsolete jobs that get the same answer.
    """

    image: SourceImage
    prompts: Prompts | None
    deadline: float
    subject: Subject | None = None
    future: Future[Any] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.monotonic)
    attempts: int = 0
    followers: list[Job] = field(default_factory=list)

    @property
    def priority(self) -> Priority:
        """By what is asked for."""
        return Priority.PREFETCH if self.prompts is None else Priority.CLICK

    def finish(self, result: object) -> None:
        """Answer everybody who waits: with a result, or by raising it where it is an exception."""
        for job in (self, *self.followers):
            try:
                if isinstance(result, BaseException):
                    job.future.set_exception(result)
                else:
                    job.future.set_result(result)
            except InvalidStateError:  # answered before: timed out, or the pool was closed
                pass
            if job is not self:
                for follower in job.followers:
                    follower.finish(result)


class JobQueue:
    """A bounded queue; threads share it.

    Attributes:
        superseded: Jobs answered with a newer one's answer.
        refused: Jobs that found the queue full.
        timed_out: Jobs dropped because their deadline had passed.
    """

    def __init__(self, capacity: int) -> None:
        self.superseded = self.refused = self.timed_out = 0
        self._capacity = capacity
        self._numbers = itertools.count()
        self._waiting: list[tuple[Priority, int, Job]] = []  # a heap
        self._changed = threading.Condition()
        self._closed: BaseException | None = None

    def put(self, job: Job) -> None:
        """Let a job wait; it takes the place of those it makes obsolete, and brings their waiters its answer.

        Raises:
            NotReady: As many clicks as the queue takes are waiting, or it was closed.
        """
        with self._changed:
            if self._closed is not None:
                raise self._closed
            place = next(self._numbers)
            if job.subject is not None:
                place = self._supersede(job, job.subject, place)
            if sum(entry[0] == job.priority for entry in self._waiting) >= self._capacity:
                self.refused += 1
                raise NotReady(f"busy: {self._capacity} requests wait for the model; click again in a moment")
            heapq.heappush(self._waiting, (job.priority, place, job))
            self._changed.notify()

    def put_back(self, job: Job) -> None:
        """Let a job that was begun wait again, before all others."""
        with self._changed:
            if self._closed is not None:
                job.finish(self._closed)
                return
            heapq.heappush(self._waiting, (job.priority, -1, job))
            self._changed.notify()

    def get(self, timeout: float) -> Job | None:
        """The next job, or None after ``timeout`` seconds; those nobody waits for any more are dropped."""
        until = time.monotonic() + timeout
        with self._changed:
            while True:
                while self._waiting:
                    job = heapq.heappop(self._waiting)[2]
                    if self._wanted(job):
                        return job
                left = until - time.monotonic()
                if left <= 0 or self._closed is not None:
                    return None
                self._changed.wait(left)

    def holds(self, key: str) -> bool:
        """Whether a job about this image waits."""
        with self._changed:
            return any(entry[2].image.key == key for entry in self._waiting)

    def fail_all(self, error: BaseException) -> None:
        """Answer everybody who waits now with an error; later jobs may wait again."""
        with self._changed:
            waiting, self._waiting = self._waiting, []
        for _, _, job in waiting:
            job.finish(error)

    def close(self, error: BaseException) -> None:
        """Answer everybody who waits, and whoever comes later, with an error."""
        with self._changed:
            self._closed = error
            self._changed.notify_all()
        self.fail_all(error)

    def __len__(self) -> int:
        return len(self._waiting)

    def _supersede(self, job: Job, subject: Subject, place: int) -> int:
        obsolete = [
            entry for entry in self._waiting if entry[2].subject is not None and subject.replaces(entry[2].subject)
        ]
        for entry in obsolete:
            self._waiting.remove(entry)
            job.followers.append(entry[2])
            place = min(place, entry[1])
            self.superseded += 1
        if obsolete:
            heapq.heapify(self._waiting)
        return place

    def _wanted(self, job: Job) -> bool:
        """Whether somebody still waits for it: itself or a follower."""
        everybody = (job, *job.followers)
        if any(time.monotonic() < each.deadline and not each.future.done() for each in everybody):
            return True
        self.timed_out += len(everybody)
        job.finish(NotReady("the model was busy with other images until the deadline; click again"))
        return False
