"""One worker, wherever it lives: work in, replies out, each kind of step on a thread of its own."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numba
import numpy as np
import torch

from m2n2_backend.backbones.device.errors import is_broken_device
from m2n2_backend.errors import BackboneUnavailable, ImageNeeded, M2N2Error, NotReady, one_line
from m2n2_backend.m2n2.state import EncodedImage
from m2n2_backend.worker.awake import AwakeClock
from m2n2_backend.worker.interface import Work
from m2n2_backend.worker.messages import Done, Figures, InWork, Reply
from m2n2_backend.worker.options import WorkerOptions
from m2n2_backend.worker.replica.engine import Engine, Photo, Step
from m2n2_backend.worker.replica.queue import Job, JobQueue, deadline_passed
from m2n2_backend.worker.replica.rle import brush_rle
from m2n2_backend.worker.store.health import TRY_SECONDS

logger = logging.getLogger(__name__)

BROKEN = 70
"""Exit status of a process whose device cannot be used any more; a new one gets a new context."""

HANG_FACTOR = 10.0
"""A step that takes so many times as long as the slowest run of the model has hung …"""

HANG_LEAST_SECONDS = 30.0
"""… but none within this time: a machine may be busy with other things."""

WRITES_WAITING = 8
"""Images on their way to a slow disk; a further one is not written, and encoded again some day."""

# A click on a prepared image takes little; whoever still prepares one does not notice that it went first.
_COLDNESS = {Step.PREPARED: 0, Step.READY: 1, Step.TABLE: 1, Step.LOAD: 2, Step.ENCODE: 2}

SLICE_SECONDS = 0.25
"""A request with many new prompts lets others go first after so long, between two of its prompts."""

_LONG_AT_ONCE = 2  # images whose state is kept for the rest of a long request, beside those in the tier
_LOADERS = 2
_OPEN_PHOTOS = 2  # that clicks wait for, decoded before the model gets to them; prefetches have one beside them
_WAKE_SECONDS = 1.0  # deadlines pass without anybody telling
_MOST_BETWEEN_FIGURES = 3.0  # seconds; they are told every second, by a thread that a busy machine may hold up

Began = Callable[[InWork], None]
"""Is told the images in work whenever that set grows: if the process dies, one of them may be the cause."""


class Replica:
    """Queue, model and tiers of one device. Threads share it.

    Clicks on prepared images go before those on images in memory, these before cold ones, cold ones before
    prefetches; images are decoded, encoded and prepared step by step, and at each step the more urgent image goes
    first, so that a prefetch is passed by whatever comes. Where two are as urgent, the project goes first that was
    served less lately. What is left of a request with many new prompts goes after other clicks on prepared images. On
    a CPU clicks run beside the model, and those on prepared images beside a first one too, which takes a second where
    the image has 100 megapixels; on an accelerator all run between the model's runs. Writing to disk is in nobody's
    way.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        capacity: int,
        threads: int | None = None,
        began: Began = lambda in_work: None,
        on_broken: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        awake: Callable[[], float] | None = None,
    ) -> None:
        """Start the threads.

        Args:
            engine: Warmed up.
            capacity: Clicks that may wait; one more is told to come back.
            threads: CPU threads of each compiled kernel; numba's own choice if None.
            began: See :data:`Began`; called before each step, so it must be quick.
            on_broken: Called where no later call can succeed, as the device is lost; what found out is answered
                afterwards, if there is an afterwards.
            clock: Tells the time of deadlines, in seconds.
            awake: Measures the ages of steps, in seconds; read whenever ``figures`` are told; ``clock`` if None.
        """
        self.engine = engine
        self.broken = False
        self._kernel_threads = threads
        self._began = began
        self._on_broken = on_broken
        self._clock = clock
        self._awake = awake or clock
        self._changed = threading.Condition()
        self._queue = JobQueue(capacity, clock, engine.is_prepared)
        self._photos: dict[str, Photo] = {}
        self._in_work: dict[int, tuple[str, Step, float]] = {}  # by thread: an image, its step and since when
        self._closed = False
        self._writes: queue.Queue[tuple[str, EncodedImage] | None] = queue.Queue(WRITES_WAITING)
        self._unwritten: set[str] = set()  # images on their way to disk
        warm, model = frozenset({Step.PREPARED}), frozenset({Step.ENCODE})
        clicks = warm | {Step.READY}
        kinds = [frozenset({Step.LOAD})] * _LOADERS + [frozenset({Step.TABLE})]
        # Beside the model on an accelerator a click would wait for it all the same, and both would need its memory.
        kinds += [warm, clicks, model] if engine.can_do_both_at_once else [clicks | model]
        self._threads = [self._start(self._run, kind) for kind in kinds]
        self._writer = self._start(self._write)

    def submit(self, work: Work) -> Future[Reply]:
        """Take work on; never blocks. The future gets a reply in any case, also where the queue is full."""
        with self._changed:
            self._drop_unwanted()
            try:
                if self._closed:
                    raise NotReady("the model worker is shutting down")
                job = self._queue.put(work)
            except NotReady as error:
                refused = Future[Reply]()
                refused.set_result(Reply(error, self.figures()))
                return refused
            photo = self._photos.get(job.key)
            if photo is None:
                self._photos[job.key] = Photo(work.image)
            elif photo.image.data is None:
                photo.image = work.image  # of two requests about one image one may have brought its file
            job.is_cold |= not self.engine.is_in_memory(job.key)
            self._changed.notify_all()
            return job.future

    def figures(self) -> Figures:
        """Counters and gauges of now; never waits for work."""
        with self._changed:
            engine, now = self.engine, self._awake()
            return Figures(
                waiting=len(self._queue),
                superseded=self._queue.superseded,
                refused=self._queue.refused,
                encoded=engine.encoded,
                encode_seconds=engine.encode_seconds,
                age=max((now - since for _, _, since in self._in_work.values()), default=0.0),
                hang_seconds=max(HANG_LEAST_SECONDS, HANG_FACTOR * engine.slowest_encode),
                rss=resident_bytes(),
                tiers=engine.tiers,
            )

    def close(self, timeout: float = 5.0) -> None:
        """Answer everybody who waits, write what is on its way to disk, and end the threads."""
        with self._changed:
            self._closed = True
            for job in self._queue:
                self._queue.take(job)
                self._finish(job, NotReady("the model worker is shutting down"))
            self._photos.clear()
            self._changed.notify_all()
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        try:
            self._writes.put(None, timeout=max(0.0, until - time.monotonic()))
            self._writer.join(max(0.0, until - time.monotonic()))
        except queue.Full:
            pass
        self.engine.disk.close()

    def _start(self, body: Callable[..., None], *arguments: object) -> threading.Thread:
        def run() -> None:
            try:
                body(*arguments)
            except BaseException:
                # Work would wait for this thread for ever, and nothing would look hung.
                logger.exception("a thread of the model worker ended")
                self._break()

        thread = threading.Thread(target=run, name=f"replica-{body.__name__}", daemon=True)
        thread.start()
        return thread

    def _break(self) -> None:
        self.broken = True
        self._on_broken()

    def _run(self, steps: frozenset[Step]) -> None:
        """Body of a thread: whatever of these steps is the most urgent."""
        if self._kernel_threads is not None:
            numba.set_num_threads(min(self._kernel_threads, numba.config.NUMBA_NUM_THREADS))  # of this thread only
        while (task := self._next(steps)) is not None:
            job, photo, step = task
            result: Done | Exception | None = None
            try:
                if step.is_click:
                    result = self._answer(job, photo)
                else:
                    self._advance(photo, step)
            except Exception as error:
                result = self._known(error)
            with self._changed:
                del self._in_work[threading.get_ident()]
                photo.busy = False
                if not step.is_click:
                    if isinstance(result, Exception):
                        self._fail(photo, result)
                elif result is not None:
                    self._finish(job, result)
                else:  # others go first, or its state was evicted meanwhile
                    self._put_off(job, photo)
                self._forget(photo)
                self._changed.notify_all()

    def _next(self, steps: frozenset[Step]) -> tuple[Job, Photo, Step] | None:
        """Wait for something to do; None at the end."""
        with self._changed:
            while not self._closed:
                self._drop_unwanted()
                task = self._most_urgent(steps)
                if task is not None:
                    job, photo, step = task
                    self._queue.served(self._rivals(job, step))
                    if step.is_click:
                        self._queue.take(job)
                    photo.busy = True
                    self._in_work[threading.get_ident()] = photo.key, step, self._awake()
                    clicked = {key for key, step, _ in self._in_work.values() if step.is_click}
                    self._began(InWork(frozenset(key for key, _, _ in self._in_work.values()), frozenset(clicked)))
                    return task
                self._changed.wait(_WAKE_SECONDS)
            return None

    def _most_urgent(self, steps: frozenset[Step]) -> tuple[Job, Photo, Step] | None:
        found: list[tuple[tuple[int, ...], tuple[Job, Photo, Step]]] = []
        for job in self._queue:
            photo = self._photos[job.key]
            step = self.engine.step(photo)
            if job.work.prompts is None and self._has_all(job, photo, step):
                self._queue.take(job)
                self._finish(job, Done(None, (0, 0), 0.0, dict(photo.timings)))
                if job.work.to_disk:
                    photo.timings.clear()  # the image's next job in line has not run the model
                self._forget(photo)
            elif step in steps and not photo.busy and self._may_be_taken(job, step):
                urgency = (job.is_prefetch, self._coldness(job, step), job.is_long, job.turn, job.number)
                found.append((urgency, (job, photo, step)))
        return min(found, key=lambda each: each[0])[1] if found else None

    def _has_all(self, job: Job, photo: Photo, step: Step) -> bool:
        """Whether nothing is left to do for an image that is only to be encoded."""
        if job.work.to_disk:
            return step > Step.ENCODE and not photo.busy and photo.key not in self._unwritten
        return step.is_click

    def _may_be_taken(self, job: Job, step: Step) -> bool:
        if step is Step.LOAD:
            return self._may_open(job)
        if job.work.to_disk:  # the model waits for the disk, and the writer does the rest
            return step is Step.ENCODE and not self._writes.full()
        return True

    def _rivals(self, job: Job, step: Step) -> list[Job]:
        """What waits of the same project, and is as urgent: warm clicks cost a project no turn of its cold ones."""
        own = self._coldness(job, step)
        return [
            each
            for each in self._queue
            if each.project == job.project
            and each.is_prefetch == job.is_prefetch
            and self._coldness(each, self.engine.step(self._photos[each.key])) == own
        ]

    @staticmethod
    def _coldness(job: Job, step: Step) -> int:
        """How long others may let an image wait. One that was evicted a moment ago passes those that came cold.

        It passes what is left of long requests, too, which may have evicted it.
        """
        own = _COLDNESS[step] + (job.is_cold and step is not Step.PREPARED)
        return max(own, _COLDNESS[Step.READY] + 1) if job.is_long else own

    def _may_open(self, job: Job) -> bool:
        """Pixels are many bytes: few images are decoded ahead of the model."""
        alike = [each for each in self._queue if each.work.to_disk == job.work.to_disk and not each.is_prefetch]
        held = [
            photo.key
            for photo in self._photos.values()
            if photo.rgb is not None or (photo.busy and self.engine.step(photo) is Step.LOAD)
        ]
        return not held if job.is_prefetch else len({each.key for each in alike}.intersection(held)) < _OPEN_PHOTOS

    def _advance(self, photo: Photo, step: Step) -> None:
        self.engine.advance(photo, step)
        if step is Step.ENCODE and photo.encoded is not None:
            with self._changed:
                self._unwritten.add(photo.key)
            try:
                self._writes.put_nowait((photo.key, photo.encoded))
            except queue.Full:
                self.engine.disk.health.failed("written", f"too slow: {WRITES_WAITING} images wait", pause=False)
                self.engine.abandon(photo)
                with self._changed:
                    self._unwritten.discard(photo.key)

    def _answer(self, job: Job, photo: Photo) -> Done | None:
        prompts, started = job.work.prompts, self._clock()
        assert prompts is not None, "prefetches have no last step"
        before = dict(photo.timings)
        photo.timings.clear()
        segmentation = self.engine.answer(photo, prompts, partial(self._should_pause, job, started))
        spent = {name: before.get(name, 0.0) + photo.timings.get(name, 0.0) for name in {**before, **photo.timings}}
        photo.timings.clear()
        if segmentation is None:
            photo.timings.update(spent)
            return None
        waited = 1000.0 * (started - job.queued_at) - sum(before.values())
        mask = segmentation.mask
        rle = None
        if job.work.rle:
            encoding = time.perf_counter()
            rle = brush_rle(mask)
            spent["rle"] = 1000.0 * (time.perf_counter() - encoding)
        timings = {"wait": max(0.0, waited), **spent}
        return Done(np.packbits(mask), (mask.shape[0], mask.shape[1]), segmentation.score, timings, rle)

    def _should_pause(self, job: Job, started: float) -> bool:
        """Whether the rest of a request's prompts is not wanted any more, or can wait for somebody's click."""
        with self._changed:
            if self._queue.is_obsolete(job):
                return True
            return self._clock() - started >= SLICE_SECONDS and any(
                each.work.prompts is not None
                and not each.is_long
                and self.engine.step(self._photos[each.key]).is_click
                for each in self._queue
            )

    def _put_off(self, job: Job, photo: Photo) -> None:
        """Let the rest of a job wait."""
        if photo.state is not None:
            job.is_long = True
            if sum(each.state is not None for each in self._photos.values()) > _LONG_AT_ONCE:
                photo.state = None
        self._queue.put_back(job)

    def _known(self, error: Exception) -> Exception:
        """The error as it is told: ours as they are, others in words."""
        if isinstance(error, M2N2Error):
            return error
        logger.error("internal error in the model worker", exc_info=error)
        if is_broken_device(error):
            self._break()
        return RuntimeError(f"{type(error).__name__} in the model worker: {error}")

    def _fail(self, photo: Photo, error: Exception) -> None:
        """Answer everybody who waits for an image that cannot be had."""
        if isinstance(error, ImageNeeded) and photo.image.data is not None:
            return  # its file came while nobody knew that it was needed
        for job in self._queue:
            if job.key == photo.key:
                self._queue.take(job)
                self._finish(job, error)

    def _drop_unwanted(self) -> None:
        for job in self._queue.unwanted():
            self._finish(job, deadline_passed())
            if job.key in self._photos:
                self._forget(self._photos[job.key])

    def _finish(self, job: Job, result: Done | Exception) -> None:
        job.finish(Reply(result, self.figures()))

    def _forget(self, photo: Photo) -> None:
        """Keep nothing of an image that nobody waits for; the tiers have what is worth it."""
        if not photo.busy and not self._queue.holds(photo.key):
            self._photos.pop(photo.key, None)
            if photo.rgb is not None:
                self.engine.abandon(photo)

    def _write(self) -> None:
        while True:
            with _logging_errors("the cache could not be tried"):
                self.engine.disk.try_again()
            try:
                write = self._writes.get(timeout=TRY_SECONDS)
            except queue.Empty:
                continue
            if write is None:
                return
            with _logging_errors("an image could not be written to the cache"):
                self.engine.disk.put(*write)
            with self._changed:
                self._unwritten.discard(write[0])
                self._changed.notify_all()


@contextmanager
def _logging_errors(words: str) -> Iterator[None]:
    """Nothing that a disk does ends the thread that writes to it."""
    try:
        yield
    except Exception:
        logger.exception(words)


def load_replica(
    options: WorkerOptions, *, began: Began = lambda in_work: None, on_broken: Callable[[], None] = lambda: None
) -> Replica:
    """Load the model and warm it up.

    Args:
        options: Backbone, device, limits, share of the machine.
        began: See :data:`Began`.
        on_broken: See :class:`Replica`.

    Raises:
        BackboneUnavailable: Weights, device or memory are missing, or whatever else a library raises; the message
            names cause and cure.
    """
    torch.set_num_threads(options.threads)
    numba.set_num_threads(min(options.threads, numba.config.NUMBA_NUM_THREADS))
    try:
        engine = Engine(options.load(options.settings, options.device), options.settings)
        engine.warm_up(1.0 / options.on_device, clicks=options.clicks)
    except M2N2Error as error:
        raise BackboneUnavailable(str(error)) from error
    except Exception as error:
        logger.exception("the model cannot be loaded")
        cause = f"{type(error).__name__}: {one_line(error)}"
        raise BackboneUnavailable(f"the model cannot be loaded: {cause}") from error
    return Replica(
        engine,
        capacity=options.settings.queue,
        threads=options.threads,
        began=began,
        on_broken=on_broken,
        awake=AwakeClock(most=_MOST_BETWEEN_FIGURES),  # a step has not hung because the process was stopped
    )


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory of a process, of this one by default; 0 where the system does not tell."""
    try:
        statm = Path(f"/proc/{pid or 'self'}/statm").read_text(encoding="ascii")
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
