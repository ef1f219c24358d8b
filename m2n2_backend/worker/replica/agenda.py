"""What a replica does next: the most urgent step of the images that its jobs are about."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from m2n2_backend.errors import ImageNeeded
from m2n2_backend.worker.interface import Work
from m2n2_backend.worker.job import Job, deadline_passed, shutting_down
from m2n2_backend.worker.messages import Done
from m2n2_backend.worker.replica.disk_writer import DiskWriter
from m2n2_backend.worker.replica.engine import Engine
from m2n2_backend.worker.replica.photo import Photo, Step
from m2n2_backend.worker.replica.queue import JobQueue

# A click on a prepared image takes little: those that still prepare one do not notice that it went first.
_COLDNESS = {Step.PREPARED: 0, Step.READY: 1, Step.TABLE: 1, Step.LOAD: 2, Step.ENCODE: 2}

_LONG_AT_ONCE = 2  # images whose state is kept for the rest of a long request, beside those in the tier
_OPEN_PHOTOS = 2  # that clicks wait for, decoded before the model gets to them; prefetches have one beside them


class Task(NamedTuple):
    """A step to take, the image, and the job that it is taken for."""

    job: Job
    photo: Photo
    step: Step


class Agenda:
    """Jobs, their images, and their order. Not locked: its replica's lock protects it."""

    def __init__(
        self, engine: Engine, queue: JobQueue, writer: DiskWriter, finish: Callable[[Job, Done | Exception], None]
    ) -> None:
        """Set up an agenda without an image; ``finish`` answers all who wait for a job."""
        self.queue = queue
        self.photos: dict[str, Photo] = {}
        self._engine = engine
        self._writer = writer
        self._finish = finish

    def add(self, work: Work) -> Job:
        """Take work on.

        Raises:
            NotReady: The queue is full.
        """
        job = self.queue.put(work)
        photo = self.photos.get(job.key)
        if photo is None:
            self.photos[job.key] = Photo(work.image)
        elif photo.image.data is None:
            photo.image = work.image  # of two requests about one image one may have brought its file
        job.is_cold |= not self._engine.memory.is_in_memory(job.key)
        return job

    def take_most_urgent(self, steps: frozenset[Step]) -> Task | None:
        """The most urgent of these steps, which is in work from now on; None if there is nothing to do."""
        self.drop_unwanted()
        task = self._most_urgent(steps)
        if task is not None:
            self.queue.served(self._rivals(task))
            if task.step.is_click:
                self.queue.take(task.job)
            task.photo.busy = True
        return task

    def done(self, task: Task, result: Done | Exception | None) -> None:
        """Note that a step was taken, and what came of it: a mask, an error, or None if there is more to do."""
        task.photo.busy = False
        if not task.step.is_click:
            if isinstance(result, Exception):
                self._fail(task.photo, result)
        elif result is not None:
            self._finish(task.job, result)
        else:  # others go first, or its state was evicted meanwhile
            self._put_off(task.job, task.photo)
        self._forget(task.photo)

    def drop_unwanted(self) -> None:
        """Answer the jobs that nobody waits for any more."""
        for job in self.queue.unwanted():
            self._finish(job, deadline_passed())
            if job.key in self.photos:
                self._forget(self.photos[job.key])

    def clear(self) -> None:
        """Answer all jobs that wait: the replica shuts down."""
        for job in self.queue:
            self.queue.take(job)
            self._finish(job, shutting_down())
        self.photos.clear()

    def has_short_click(self) -> bool:
        """Whether a click waits for nothing but its turn, and is not the rest of a long request."""
        return any(
            each.work.prompts is not None and not each.is_long and self._engine.step(self.photos[each.key]).is_click
            for each in self.queue
        )

    def _most_urgent(self, steps: frozenset[Step]) -> Task | None:
        found: list[tuple[tuple[int, ...], Task]] = []
        for job in self.queue:
            photo = self.photos[job.key]
            step = self._engine.step(photo)
            if job.work.prompts is None and self._has_all(job, photo, step):
                self.queue.take(job)
                self._finish(job, Done(None, 0.0, dict(photo.timings)))
                if job.work.to_disk:
                    photo.timings.clear()  # the image's next job in line has not run the model
                self._forget(photo)
            elif step in steps and not photo.busy and self._may_be_taken(job, photo, step):
                urgency = (job.work.is_prefetch, coldness(job, step), job.is_long, job.turn, job.number)
                found.append((urgency, Task(job, photo, step)))
        return min(found, key=lambda each: each[0])[1] if found else None

    def _has_all(self, job: Job, photo: Photo, step: Step) -> bool:
        """Whether nothing is left to do for an image that is only to be encoded."""
        if job.work.to_disk:
            return step > Step.ENCODE and not photo.busy and job.key not in self._writer.unwritten
        return step.is_click

    def _may_be_taken(self, job: Job, photo: Photo, step: Step) -> bool:
        turned_for = photo.turned_for
        if job.has_missed and turned_for is not job and any(each is turned_for for each in self.queue):
            return False  # if the tier has room for one view, both would turn the photograph for ever
        if step is Step.LOAD:
            return self._may_open(job)
        if job.work.to_disk:  # the model waits for the disk, and the writer does the rest
            return step is Step.ENCODE and not self._writer.is_full
        return True

    def _may_open(self, job: Job) -> bool:
        """Whether an image may be decoded now. Pixels are many bytes: few are decoded ahead of the model."""
        held = {
            key
            for key, photo in self.photos.items()
            if photo.rgb is not None
            or photo.pixels is not None
            or (photo.busy and self._engine.step(photo) is Step.LOAD)
        }
        if job.work.is_prefetch:
            return not held
        alike = {
            each.key for each in self.queue if each.work.to_disk == job.work.to_disk and not each.work.is_prefetch
        }
        return len(alike & held) < _OPEN_PHOTOS

    def _rivals(self, task: Task) -> list[Job]:
        """The jobs of the same project that are as urgent: warm clicks cost a project no turn of its cold ones."""
        job, own = task.job, coldness(task.job, task.step)
        return [
            each
            for each in self.queue
            if each.project == job.project
            and each.work.is_prefetch == job.work.is_prefetch
            and coldness(each, self._engine.step(self.photos[each.key])) == own
        ]

    def _put_off(self, job: Job, photo: Photo) -> None:
        """Let the rest of a job wait."""
        if photo.is_missed:
            photo.turned_for, job.has_missed = job, True
        if photo.state is not None:
            job.is_long = True
            if sum(each.state is not None for each in self.photos.values()) > _LONG_AT_ONCE:
                photo.state = None
        self.queue.put_back(job)

    def _fail(self, photo: Photo, error: Exception) -> None:
        """Answer every job about an image that cannot be read or encoded."""
        if isinstance(error, ImageNeeded) and photo.image.data is not None:
            return  # its file came while nobody knew that it was needed
        for job in self.queue:
            if job.key == photo.image.key:
                self.queue.take(job)
                self._finish(job, error)

    def _forget(self, photo: Photo) -> None:
        """Keep nothing of an image that nobody waits for; the tiers have what is worth it."""
        if not photo.busy and not self.queue.holds(photo.image.key):
            self.photos.pop(photo.image.key, None)
            if photo.rgb is not None:
                self._engine.abandon(photo)


def coldness(job: Job, step: Step) -> int:
    """How long others may let an image wait. One that was evicted a moment ago passes those that came cold.

    It passes what is left of long requests, too, which may have evicted it.
    """
    own = _COLDNESS[step] + (job.is_cold and step is not Step.PREPARED)
    return max(own, _COLDNESS[Step.READY] + 1) if job.is_long else own
