"""One worker, wherever it lives: work in, replies out, each kind of step on a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numba
import torch

from m2n2_backend.backbones.device.errors import is_broken_device
from m2n2_backend.errors import BackboneUnavailable, M2N2Error, NotReady, one_line
from m2n2_backend.rasters import PackedMask
from m2n2_backend.worker.awake import AwakeClock
from m2n2_backend.worker.figures import Figures
from m2n2_backend.worker.interface import Work
from m2n2_backend.worker.job import Job, shutting_down
from m2n2_backend.worker.messages import Done, InWork, Reply
from m2n2_backend.worker.options import WorkerOptions
from m2n2_backend.worker.replica.agenda import Agenda, Task
from m2n2_backend.worker.replica.disk_writer import DiskWriter
from m2n2_backend.worker.replica.engine import Engine
from m2n2_backend.worker.replica.photo import Photo, Step
from m2n2_backend.worker.replica.queue import JobQueue
from m2n2_backend.worker.replica.rle import brush_rle
from m2n2_backend.worker.store.features import Claims

logger = logging.getLogger(__name__)

BROKEN = 70
"""Exit status of a process whose device cannot be used any more; a new one gets a new context."""

HANG_FACTOR = 10.0
"""A step, or one prompt of many, that takes this many times as long as the slowest run of the model has hung …"""

HANG_LEAST_SECONDS = 30.0
"""… but no step has hung within this time: a machine may be busy with other things."""

SLICE_SECONDS = 0.25
"""Time after which a request with many new prompts lets others go first, between two of its prompts."""

_LOADERS = 2
_WAKE_SECONDS = 1.0  # deadlines pass without a notification
_MOST_BETWEEN_FIGURES = 3.0  # seconds; they are sent every second, by a thread that a busy machine may hold up

Report = Callable[[InWork], None]
"""Gets what is in work whenever that changes: if the process dies, it may be the cause."""


class Replica:
    """Queue, model and tiers of one device. Threads share it.

    Clicks on prepared images go before those on images in memory, these before cold ones, cold ones before
    prefetches; images are decoded, encoded and prepared step by step, and at each step the more urgent image goes
    first, so that a prefetch is passed by everything else. If two are equally urgent, the project that was served
    less lately goes first. The rest of a request with many new prompts goes after other clicks on prepared images. On
    a CPU clicks run beside the model, and those on prepared images beside a first one too, which takes a second if
    the image has 100 megapixels; on an accelerator all run between the model's runs. Nothing waits for the disk.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        capacity: int,
        threads: int | None = None,
        report: Report = lambda in_work: None,
        on_broken: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        awake: Callable[[], float] | None = None,
    ) -> None:
        """Start the threads.

        Args:
            engine: Warmed up.
            capacity: Clicks that may wait; further clicks are refused.
            threads: CPU threads of each compiled kernel; numba's own choice if None.
            report: See :data:`Report`; called before and after each step, so it must be quick.
            on_broken: Called when no later call can succeed, as the device is lost. The request that found out is
                answered after the call, if that returns.
            clock: The clock of deadlines, in seconds.
            awake: Measures the ages of steps, in seconds; read by each call of ``figures``; ``clock`` if None.
        """
        self.engine = engine
        self.broken = False
        self._kernel_threads = threads
        self._report = report
        self._on_broken = on_broken
        self._clock = clock
        self._awake = awake or clock
        self._changed = threading.Condition()
        self._queue = JobQueue(capacity, clock, engine.is_prepared)
        self._writer = DiskWriter(engine, self._changed)
        self._agenda = Agenda(engine, self._queue, self._writer, self._finish)
        self._in_work: dict[int, tuple[Task, float]] = {}  # by thread, and since when
        self._closed = False
        warm, model = frozenset({Step.PREPARED}), frozenset({Step.ENCODE})
        clicks = warm | {Step.READY}
        kinds = [frozenset({Step.LOAD})] * _LOADERS + [frozenset({Step.TABLE})]
        # Beside the model on an accelerator a click would wait for it all the same, and both would need its memory.
        kinds += [warm, clicks, model] if engine.memory.on_cpu else [clicks | model]
        self._threads = [self._start("run", partial(self._run, kind)) for kind in kinds]
        self._writing = self._start("write", self._writer.run)

    def submit(self, work: Work) -> Future[Reply]:
        """Take work on; never blocks. The future gets a reply in any case, also if the queue is full."""
        with self._changed:
            self._agenda.drop_unwanted()
            try:
                if self._closed:
                    raise shutting_down()
                job = self._agenda.add(work)
            except NotReady as error:
                refused = Future[Reply]()
                refused.set_result(Reply(error, self.figures()))
                return refused
            self._changed.notify_all()
            return job.future

    def figures(self) -> Figures:
        """Counters and gauges of this moment; never waits for work."""
        with self._changed:
            engine, now = self.engine, self._awake()
            return Figures(
                waiting=len(self._queue),
                superseded=self._queue.superseded,
                refused=self._queue.refused,
                encoded=engine.encoder.runs,
                encode_seconds=engine.encoder.seconds,
                age=max((now - since for _, since in self._in_work.values()), default=0.0),
                hang_seconds=max(HANG_LEAST_SECONDS, HANG_FACTOR * engine.encoder.slowest_seconds),
                rss=resident_bytes(),
                view=engine.view,
                tiers=engine.tiers,
            )

    def close(self, timeout: float = 5.0) -> None:
        """Answer everybody who waits, write what is on its way to disk, and end the threads."""
        with self._changed:
            self._closed = True
            self._agenda.clear()
            self._changed.notify_all()
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._writer.end(max(0.0, until - time.monotonic()))
        self._writing.join(max(0.0, until - time.monotonic()))
        self.engine.disk.close()

    def _start(self, name: str, body: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                body()
            except BaseException:
                # Work would wait for this thread for ever, and nothing would look hung.
                logger.exception("a thread of the model worker ended")
                self._break()

        thread = threading.Thread(target=run, name=f"replica-{name}", daemon=True)
        thread.start()
        return thread

    def _break(self) -> None:
        self.broken = True
        self._on_broken()

    def _run(self, steps: frozenset[Step]) -> None:
        """Body of a thread: take the most urgent of these steps, again and again."""
        if self._kernel_threads is not None:
            numba.set_num_threads(min(self._kernel_threads, numba.config.NUMBA_NUM_THREADS))  # of this thread only
        while (task := self._next(steps)) is not None:
            result: Done | Exception | None = None
            try:
                if task.step.is_click:
                    result = self._answer(task.job, task.photo)
                else:
                    self._advance(task.photo, task.step)
            except Exception as error:
                result = self._known(error)
            with self._changed:
                del self._in_work[threading.get_ident()]
                self._agenda.done(task, result)
                self._report_in_work()
                self._changed.notify_all()

    def _next(self, steps: frozenset[Step]) -> Task | None:
        """Wait for something to do; None at the end."""
        with self._changed:
            while not self._closed:
                task = self._agenda.take_most_urgent(steps)
                if task is not None:
                    self._in_work[threading.get_ident()] = task, self._awake()
                    self._report_in_work()
                    return task
                self._changed.wait(_WAKE_SECONDS)
            return None

    def _report_in_work(self) -> None:
        jobs = [(task.job, task.step.is_click) for task, _ in self._in_work.values()]
        images = frozenset(job.key for job, is_click in jobs if not is_click)
        clicked = frozenset((job.key, job.work.prompts) for job, is_click in jobs if is_click and job.work.prompts)
        self._report(InWork(images, clicked))

    def _advance(self, photo: Photo, step: Step) -> None:
        self.engine.advance(photo, step)
        if step is Step.ENCODE:
            self._writer.put(photo)

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
        mask, rle, view = segmentation.mask, None, str(segmentation.choice or "")
        if job.work.rle:
            encoding = time.perf_counter()
            rle = brush_rle(mask)
            spent["rle"] = 1000.0 * (time.perf_counter() - encoding)
        timings = {"wait": max(0.0, waited), **spent}
        return Done(PackedMask.of(mask), segmentation.score, timings, rle, view)

    def _should_pause(self, job: Job, started: float) -> bool:
        """Whether the rest of a request's prompts is not wanted any more, or can wait for somebody's click."""
        with self._changed:
            thread = threading.get_ident()
            self._in_work[thread] = self._in_work[thread][0], self._awake()  # one prompt is done, so nothing hangs
            if self._queue.is_obsolete(job):
                return True
            return self._clock() - started >= SLICE_SECONDS and self._agenda.has_short_click()

    def _known(self, error: Exception) -> Exception:
        """The error as callers get it: ours as they are, others in words."""
        if isinstance(error, M2N2Error):
            return error
        logger.error("internal error in the model worker", exc_info=error)
        if is_broken_device(error):
            self._break()
        return RuntimeError(f"{type(error).__name__} in the model worker: {error}")

    def _finish(self, job: Job, result: Done | Exception) -> None:
        job.finish(Reply(result, self.figures()))


def load_replica(
    options: WorkerOptions,
    *,
    claims: Claims | None = None,
    report: Report = lambda in_work: None,
    on_broken: Callable[[], None] = lambda: None,
) -> Replica:
    """Load the model and warm it up; see :class:`Replica` for ``report`` and ``on_broken``.

    ``claims`` is for :func:`~m2n2_backend.worker.store.features.open_store`.

    Raises:
        BackboneUnavailable: Weights, device or memory are missing, or a library raised any other error; the message
            names cause and cure.
    """
    torch.set_num_threads(options.threads)
    numba.set_num_threads(min(options.threads, numba.config.NUMBA_NUM_THREADS))
    try:
        engine = Engine(options.load(options.settings, options.device), options.settings, claims)
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
        report=report,
        on_broken=on_broken,
        awake=AwakeClock(most=_MOST_BETWEEN_FIGURES),  # a step has not hung because the process was stopped
    )


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory of a process, of this one by default; 0 if the system does not tell."""
    try:
        statm = Path(f"/proc/{pid or 'self'}/statm").read_text(encoding="ascii")
        return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
