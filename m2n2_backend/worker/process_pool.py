"""The pool of this machine: one process per device, each image always on the same one."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeout

from m2n2_backend import __version__
from m2n2_backend.errors import BackboneUnavailable, NotReady
from m2n2_backend.prompts import Prompts
from m2n2_backend.settings import Settings
from m2n2_backend.worker.messages import Done
from m2n2_backend.worker.options import WorkerOptions
from m2n2_backend.worker.pool import Answer, SourceImage, Status, Subject, WorkerStats
from m2n2_backend.worker.queue import Job, JobQueue
from m2n2_backend.worker.supervisor import Supervisor

_POLL_SECONDS = 0.2


class ProcessPool:
    """A :class:`~m2n2_backend.worker.pool.Pool` of processes. Threads share it; nothing is loaded in this process."""

    def __init__(self, settings: Settings) -> None:
        """Start the first worker, which tells how many devices there are, and in its wake the others."""
        self._settings = settings
        self._closed = False
        self._lock = threading.Lock()
        share = 1.0 if settings.workers is None else 1.0 / settings.workers
        self._workers = [self._worker(settings.device, share)]
        threading.Thread(target=self._start_others, args=(share,), name="worker-starter", daemon=True).start()

    def segment(
        self, image: SourceImage, prompts: Prompts, *, deadline: float, subject: Subject | None = None
    ) -> Answer:
        """See :meth:`m2n2_backend.worker.pool.Pool.segment`."""
        worker = self._worker_for(image.key)
        self._await_model(worker, deadline)
        job = Job(image, prompts, deadline, subject)
        worker.queue.put(job)
        try:
            done = job.future.result(max(0.0, deadline - time.monotonic()))
        except FutureTimeout:
            job.future.cancel()
            worker.gave_up()
            raise NotReady("the model was busy until the deadline; click again") from None
        assert isinstance(done, Done), "clicks are answered with a mask"
        return Answer(done.unpacked(), done.score, self._version(worker), done.timings_ms)

    def prefetch(self, image: SourceImage) -> bool:
        """See :meth:`m2n2_backend.worker.pool.Pool.prefetch`."""
        worker = self._worker_for(image.key)
        if worker.is_working_on(image.key):
            return True
        try:
            worker.queue.put(Job(image, None, float("inf")))
        except (NotReady, BackboneUnavailable):
            return False
        return True

    def status(self) -> Status:
        """See :meth:`m2n2_backend.worker.pool.Pool.status`."""
        workers = self._workers
        ready = next((worker for worker in workers if worker.ready is not None), None)
        failed = [worker.failure for worker in workers if worker.failure is not None]
        if ready is None or ready.ready is None:
            state = "failed" if failed else "loading"
            version = self._version(workers[0])
            return Status(state, version, self._settings.backbone, self._settings.device, "; ".join(failed))  # type: ignore[arg-type]
        names = [worker.ready.device for worker in workers if worker.ready is not None]
        device = names[0] if len(names) == 1 else f"{len(names)} x {names[0]}"
        trouble = [
            worker.failure or worker.trouble or "a worker is loading" for worker in workers if not worker.alive
        ]
        if all(worker.failure for worker in workers):
            return Status("failed", self._version(ready), ready.ready.backbone, device, "; ".join(trouble))
        state = "degraded" if trouble else "ready"
        return Status(state, self._version(ready), ready.ready.backbone, device, "; ".join(trouble))  # type: ignore[arg-type]

    def stats(self) -> list[WorkerStats]:
        """See :meth:`m2n2_backend.worker.pool.Pool.stats`."""
        return [worker.stats for worker in self._workers]

    def close(self) -> None:
        """See :meth:`m2n2_backend.worker.pool.Pool.close`."""
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        for worker in workers:
            worker.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def _worker(self, device: str, share: float) -> Supervisor:
        return Supervisor(WorkerOptions(self._settings, device, share), JobQueue(self._settings.queue))

    def _start_others(self, share: float) -> None:
        first = self._workers[0]
        while first.ready is None:  # it may fail to load, and succeed a minute later
            if self._closed:
                return
            time.sleep(_POLL_SECONDS)
        devices = first.ready.devices
        count = self._settings.workers or len(devices)
        with self._lock:
            if not self._closed:
                others = [self._worker(devices[index % len(devices)], share) for index in range(1, count)]
                self._workers = [first, *others]

    def _worker_for(self, key: str) -> Supervisor:
        """Rendezvous hashing over the workers that live: each image has its place, and few move when one dies."""
        workers = self._workers
        living = [worker for worker in workers if worker.alive] or workers
        return max(living, key=lambda worker: hashlib.sha256(f"{workers.index(worker)} {key}".encode()).digest())

    def _await_model(self, worker: Supervisor, deadline: float) -> None:
        worker.loaded.wait(max(0.0, deadline - time.monotonic()))
        if worker.failure is not None:
            raise BackboneUnavailable(worker.failure)
        if worker.ready is None:
            raise NotReady("shutting down" if self._closed else "the model is still loading; click again in a moment")

    def _version(self, worker: Supervisor) -> str:
        version = f"m2n2-{__version__}"
        return version if worker.ready is None else f"{version}-{worker.ready.fingerprint}"
