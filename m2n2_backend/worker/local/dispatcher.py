"""Which worker does what: each image has its place on one of them, and what a dying worker leaves undone moves on."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence

from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.worker.figures import WorkerStats
from m2n2_backend.worker.job import Job, shutting_down
from m2n2_backend.worker.local.supervisor import Supervisor
from m2n2_backend.worker.messages import Done, InWork, Ready, Reply
from m2n2_backend.worker.quarantine import Quarantine


class Dispatcher:
    """Hands jobs to workers, and is their :class:`~m2n2_backend.worker.local.life.Owner`. Threads share it.

    It keeps what it has handed to each worker until that answers. What a dying worker leaves undone goes to another
    one that lives, or waits, each job until its own deadline, for one that does. Jobs wait without a worker while no
    worker is fit; ``_hand_on`` alone brings them to one, whatever made it fit.

    Attributes:
        workers: All workers; empty until the devices are known.
        quarantine: Images that bring their worker down.
        failure: Why there are no workers, if the search for devices failed.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.workers: list[Supervisor] = []
        self.quarantine = Quarantine(clock)
        self.failure = ""
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._homeless: list[Job] = []
        self._fingerprints: dict[object, str] = {}  # of the workers that live

    @property
    def is_closed(self) -> bool:
        """Whether no worker may be started any more."""
        return self._closed.is_set()

    def wait_for_close(self, seconds: float) -> None:
        """Wait, but no longer than until ``close``."""
        self._closed.wait(seconds)

    def begin(self, make: Callable[[], Sequence[Supervisor]]) -> None:
        """Make the workers and start them all, unless it is closed already."""
        with self._lock:
            if self._closed.is_set():
                return
            for worker in make():
                self.workers.append(worker)
            for worker in self.workers:
                worker.begin()

    def close(self) -> None:
        """Answer everybody who waits, and let all workers end."""
        with self._lock:
            self._closed.set()
            workers, homeless = list(self.workers), self._homeless
            self._homeless = []
        for job in (*homeless, *(each for worker in workers for each in worker.outstanding())):
            job.finish(Reply(shutting_down()))
        for worker in workers:
            worker.close()
        for worker in workers:
            worker.join()

    def dispatch(self, job: Job) -> None:
        """Give a job to the worker of its image, or let it wait until there is one."""
        while (worker := self.worker_for(job.key)) is not None:
            if worker.hand(job):
                return
        with self._lock:
            if not self._closed.is_set():
                self._homeless.append(job)
                self._homeless = [each for each in self._homeless if not each.future.done()]
        if self._closed.is_set():
            job.finish(Reply(shutting_down()))
        elif any(worker.is_fit for worker in self.workers):
            self._hand_on()  # one became fit since
        self.give_up_where_hopeless()

    def worker_for(self, key: str) -> Supervisor | None:
        """The fit worker of an image by rendezvous hashing: few images move when a worker dies."""
        fit = [worker for worker in self.workers if worker.is_fit]
        return self._place_of(key, fit) if fit else None

    def without_worker(self) -> list[Job]:
        """Jobs that wait without a worker and whose callers still wait."""
        return [job for job in list(self._homeless) if job.is_waited_for]

    def stats(self) -> list[WorkerStats]:
        """Figures of all workers. A click that waits without a worker counts for the one with its image's place."""
        workers = list(self.workers)
        homes = [self._place_of(job.key, workers) for job in self.without_worker()] if workers else []
        return [worker.stats(homes.count(worker)) for worker in workers]

    def hopeless_cause(self) -> str:
        """Why no worker can be expected to become fit, in words; empty if one is fit or can be."""
        workers = self.workers
        if any(worker.is_fit for worker in workers) or not all(worker.is_hopeless for worker in workers):
            return ""
        return "; ".join(filter(None, (worker.detail for worker in workers))) or self.failure

    def give_up_where_hopeless(self) -> None:
        """Answer everybody who waits for a model that cannot be loaded or started."""
        cause = self.hopeless_cause()
        if not cause:
            return
        with self._lock:
            homeless, self._homeless = self._homeless, []
        for job in homeless:
            job.finish(Reply(BackboneUnavailable(cause)))

    def check(self, worker: object, ready: Ready) -> None:
        """See :class:`~m2n2_backend.worker.local.life.Owner`."""
        with self._lock:
            others = {found for other, found in self._fingerprints.items() if other is not worker}
            if others - {ready.fingerprint}:
                raise BackboneUnavailable(
                    f"{ready.device} loaded {ready.fingerprint} where the other workers have {others.pop()}: "
                    "restart the backend, or set M2N2_MODEL and M2N2_GRID"
                )
            self._fingerprints[worker] = ready.fingerprint

    def came_up(self) -> None:
        """See :class:`~m2n2_backend.worker.local.life.Owner`."""
        self._hand_on()

    def answered(self, job: Job, reply: Reply) -> None:
        """See :class:`~m2n2_backend.worker.local.life.Owner`."""
        if isinstance(reply.result, Done):  # an error may come before anything was tried, or instead of it
            self.quarantine.survived(job.key, job.work.prompts)
        job.finish(reply)

    def is_silent(self, jobs: Iterable[Job]) -> None:
        """See :class:`~m2n2_backend.worker.local.life.Owner`."""
        for job in jobs:
            other = self.worker_for(job.key)
            if other is not None and job.is_waited_for:
                other.hand(job)  # the first of the two answers counts

    def went_down(self, worker: object, jobs: Sequence[Job], in_work: InWork) -> None:
        """See :class:`~m2n2_backend.worker.local.life.Owner`."""
        with self._lock:
            self._fingerprints.pop(worker, None)
        for key in in_work.images:
            self.quarantine.died(key)
        for key, prompts in in_work.clicked:
            self.quarantine.died(key, prompts)
        for job in jobs:
            refusal = self.quarantine.refusal(job.key, job.work.prompts)
            if not job.is_waited_for:  # a prefetch, moreover, may be the cause
                job.future.cancel()
            elif refusal is not None:
                job.finish(Reply(refusal))
            else:
                self.dispatch(job)
        self.give_up_where_hopeless()

    def _hand_on(self) -> None:
        """Give what waits without a worker to those that are fit."""
        with self._lock:
            homeless, self._homeless = self._homeless, []
        for job in homeless:
            if job.is_waited_for:
                self.dispatch(job)

    def _place_of(self, key: str, among: Sequence[Supervisor]) -> Supervisor:
        indexes = (index for index, worker in enumerate(self.workers) if worker in among)
        return self.workers[max(indexes, key=lambda index: hashlib.sha256(f"{index} {key}".encode()).digest())]
