"""The pool of this machine: one process per device, each image always on the same one while that lives."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Literal

from m2n2_backend.errors import BackboneUnavailable, DeadlinePassed
from m2n2_backend.settings import Settings
from m2n2_backend.worker.awake import AwakeClock
from m2n2_backend.worker.figures import WorkerStats, cache_troubles
from m2n2_backend.worker.interface import Answer, SourceImage, Status, Work, model_version
from m2n2_backend.worker.job import Job, deadline_passed
from m2n2_backend.worker.local.devices import find_devices
from m2n2_backend.worker.local.dispatcher import Dispatcher
from m2n2_backend.worker.local.life import Owner
from m2n2_backend.worker.local.supervisor import BACK_OFF, RELOAD_SECONDS, Supervisor
from m2n2_backend.worker.messages import Done, Reply
from m2n2_backend.worker.options import WorkerOptions, load
from m2n2_backend.worker.replica.queue import may_prefetch

if TYPE_CHECKING:
    from m2n2_backend.m2n2.paper.attention import Backbone

logger = logging.getLogger(__name__)


def supervise(options: WorkerOptions, owner: Owner) -> Supervisor:
    """The supervisor of one worker, which is not blamed for what this process slept through."""
    return Supervisor(options, owner, awake=AwakeClock())


class ProcessPool:
    """A :class:`~m2n2_backend.worker.interface.Pool` of processes. Threads share it; this process loads nothing."""

    def __init__(
        self,
        settings: Settings,
        *,
        clicks: bool = True,
        load: Callable[[Settings, str], Backbone] = load,
        find: Callable[[str], Sequence[str]] = find_devices,
        supervise: Callable[[WorkerOptions, Owner], Supervisor] = supervise,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Find the devices and start all workers, in the background.

        Args:
            settings: The settings of the service.
            clicks: Whether there will be any; else images can be encoded, and nothing else is made ready.
            load: Settings and device → backbone; a function that can be pickled.
            find: The setting's device → all devices of this kind.
            supervise: Makes the supervisor of one worker.
            clock: The clock of deadlines, in seconds.
        """
        self._settings = settings
        self._clicks = clicks
        self._load = load
        self._find = find
        self._supervise = supervise
        self._clock = clock
        self._numbers = itertools.count()
        self._dispatcher = Dispatcher(clock)
        self._looking_since = clock()
        if settings.device == "cpu":
            self._start_workers(["cpu"])
        else:
            threading.Thread(target=self._look_for_devices, name="worker-starter", daemon=True).start()

    def segment(self, work: Work) -> Answer:
        """See :meth:`m2n2_backend.worker.interface.Pool.segment`."""
        job = self._job(work)
        if (refusal := self._dispatcher.quarantine.refusal(job.key, work.prompts)) is not None:
            raise refusal
        self._dispatcher.dispatch(job)
        try:
            result = job.future.result(max(0.0, job.deadline - self._clock())).result
        except FutureTimeout:
            job.future.cancel()
            self._gave_up(job)
            raise self._too_late() from None
        if isinstance(result, DeadlinePassed):
            self._gave_up(job)
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                # Or the error would hold itself, and with it the image, until the next collection.
                del result, job
        assert isinstance(result, Done), "clicks are answered with a mask"
        return Answer(result.unpacked(), result.score, self._version(), result.timings_ms, result.rle, result.view)

    def prefetch(self, image: SourceImage) -> bool:
        """See :meth:`m2n2_backend.worker.interface.Pool.prefetch`."""
        worker = self._dispatcher.worker_for(image.key)
        if worker is None or self._dispatcher.quarantine.is_suspect(image.key):
            return False
        if worker.is_working_on(image.key):
            return True
        if not may_prefetch(image, [job for job in worker.outstanding() if job.work.is_prefetch]):
            return False
        return worker.hand(self._job(Work(image, None)))

    def encode(self, image: SourceImage) -> Future[Reply]:
        """Encode an image and write its features to disk, for those who fill the cache; never blocks.

        Returns:
            ``Done`` when they are written; its ``timings_ms`` has ``encode`` if they were not there already.
        """
        job = self._job(Work(image, None, to_disk=True))
        if (refusal := self._dispatcher.quarantine.refusal(image.key)) is not None:
            job.finish(Reply(refusal))
        else:
            self._dispatcher.dispatch(job)
        return job.future

    @property
    def fingerprint(self) -> str | None:
        """The backbone's; None until a worker has loaded it."""
        return next((ready.fingerprint for worker in self._dispatcher.workers if (ready := worker.ready)), None)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [pid for worker in self._dispatcher.workers if (pid := worker.pid) is not None]

    def status(self) -> Status:
        """See :meth:`m2n2_backend.worker.interface.Pool.status`."""
        workers = self._dispatcher.workers
        fit = [worker for worker in workers if worker.is_fit]
        unfit = [worker for worker in workers if worker not in fit]
        ready = next((ready for worker in (*fit, *workers) if (ready := worker.ready)), None)
        backbone = self._settings.backbone if ready is None else ready.backbone
        device = self._settings.device if ready is None else ready.device
        if len(fit) > 1:
            device = f"{len(fit)} x {device}"
        if fit:
            details = [*(worker.detail for worker in unfit), cache_troubles(self.stats())]
            state: Literal["loading", "ready", "degraded", "failed"] = "degraded" if unfit else "ready"
            return Status(state, self._version(), backbone, device, "; ".join(filter(None, details)))
        if cause := self._dispatcher.hopeless_cause():
            return Status("failed", self._version(), backbone, device, cause)
        if workers:
            detail = "; ".join(filter(None, (worker.detail for worker in unfit)))
        else:
            detail = f"looking for devices for {self._clock() - self._looking_since:.0f} s"
        if waiting := len(self._dispatcher.without_worker()):
            detail += f"; clicks that wait: {waiting}"
        return Status("loading", self._version(), backbone, device, detail)

    def stats(self) -> list[WorkerStats]:
        """See :meth:`m2n2_backend.worker.interface.Pool.stats`."""
        return self._dispatcher.stats()

    def close(self) -> None:
        """See :meth:`m2n2_backend.worker.interface.Pool.close`."""
        self._dispatcher.close()

    def _job(self, work: Work) -> Job:
        return Job(work, self._clock() + work.seconds, next(self._numbers))

    def _too_late(self) -> DeadlinePassed:
        """The answer to a caller whose deadline passed."""
        workers = self._dispatcher.workers
        if any(worker.is_fit for worker in workers):
            return deadline_passed()
        if any(worker.alive for worker in workers):
            return DeadlinePassed(f"{self.status().detail}; click again in a moment")
        return DeadlinePassed("the model is still loading; click again in a moment")

    def _gave_up(self, job: Job) -> None:
        """Count a caller whose deadline passed, once, whether it or its worker noticed that first."""
        workers = self._dispatcher.workers
        worker = self._dispatcher.worker_for(job.key) or (workers[0] if workers else None)
        if worker is not None:
            worker.timed_out += 1

    def _start_workers(self, devices: Sequence[str]) -> None:
        count = self._settings.workers or len(devices)
        options = [
            WorkerOptions.of(
                self._settings,
                devices[index % len(devices)],
                workers=count,
                on_device=len(range(index % len(devices), count, len(devices))),
                load=self._load,
                clicks=self._clicks,
            )
            for index in range(count)
        ]
        self._dispatcher.begin(lambda: [self._supervise(each, self._dispatcher) for each in options])

    def _look_for_devices(self) -> None:
        """Body of a thread that looks again and again until the devices are found."""
        attempts = 0
        while not self._dispatcher.is_closed:
            try:
                devices = self._find(self._settings.device)
            except Exception as error:
                attempts += 1
                self._dispatcher.failure = str(error) or type(error).__name__
                logger.error("no device for the model: %s", self._dispatcher.failure)
                self._dispatcher.give_up_where_hopeless()
                is_final = isinstance(error, BackboneUnavailable)
                seconds = RELOAD_SECONDS if is_final else BACK_OFF[min(attempts, len(BACK_OFF) - 1)]
                self._dispatcher.wait_for_close(seconds)
            else:
                self._dispatcher.failure = ""
                self._start_workers(devices)
                return

    def _version(self) -> str:
        return model_version(self.fingerprint)
