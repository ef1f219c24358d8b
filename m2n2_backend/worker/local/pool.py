"""The pool of this machine: one process per device, each image always on the same one while that lives."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from m2n2_backend.errors import BackboneUnavailable, DeadlinePassed, NotReady
from m2n2_backend.settings import Settings
from m2n2_backend.worker.awake import AwakeClock
from m2n2_backend.worker.interface import (
    Answer,
    SourceImage,
    Status,
    Work,
    WorkerStats,
    cache_troubles,
    model_version,
)
from m2n2_backend.worker.local.devices import find_devices
from m2n2_backend.worker.local.request import Request
from m2n2_backend.worker.local.supervisor import BACK_OFF, RELOAD_SECONDS, Supervisor
from m2n2_backend.worker.messages import Done, Figures, InWork, Ready, Reply
from m2n2_backend.worker.options import WorkerOptions, load
from m2n2_backend.worker.quarantine import Poison
from m2n2_backend.worker.replica.queue import PREFETCH_BYTES, PREFETCHES

if TYPE_CHECKING:
    from m2n2_backend.m2n2.paper.attention import Backbone

logger = logging.getLogger(__name__)


def supervise(options: WorkerOptions, owner: ProcessPool) -> Supervisor:
    """The supervisor of one worker, which is not blamed for what this process slept through."""
    return Supervisor(options, owner, awake=AwakeClock())


class ProcessPool:
    """A :class:`~m2n2_backend.worker.interface.Pool` of processes. Threads share it; this process loads nothing.

    The pool keeps what it has asked of each worker until that answers. What a dying worker leaves undone goes to
    another one that lives, or waits, each request until its own deadline, for one that does. Requests wait without a
    worker while none is fit; ``_hand_on`` alone brings them to one, whatever made it fit.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clicks: bool = True,
        load: Callable[[Settings, str], Backbone] = load,
        find: Callable[[str], Sequence[str]] = find_devices,
        supervise: Callable[[WorkerOptions, ProcessPool], Supervisor] = supervise,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Find the devices and start all workers, in the background.

        Args:
            settings: Of the service.
            clicks: Whether there will be any; else images can be encoded, and nothing else is made ready.
            load: Settings and device → backbone; a function that can be pickled.
            find: The setting's device → all devices of this kind.
            supervise: Makes the supervisor of one worker.
            clock: Of deadlines, in seconds.
        """
        self._settings = settings
        self._clicks = clicks
        self._load = load
        self._find = find
        self._supervise = supervise
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._numbers = itertools.count()
        self._workers: list[Supervisor] = []
        self._homeless: list[Request] = []
        self._fingerprints: dict[Supervisor, str] = {}  # of those that live
        self._poison = Poison(clock)
        self._failure = ""  # to find the devices
        self._looking_since = clock()
        if settings.device == "cpu":
            self._start_workers(["cpu"])
        else:
            threading.Thread(target=self._look_for_devices, name="worker-starter", daemon=True).start()

    def segment(self, work: Work) -> Answer:
        """See :meth:`m2n2_backend.worker.interface.Pool.segment`."""
        deadline = self._clock() + work.seconds
        request = Request(work, deadline, next(self._numbers))
        if (refusal := self._poison.refusal(work.image.key, work.prompts)) is not None:
            raise refusal
        self._dispatch(request)
        try:
            result = request.future.result(max(0.0, deadline - self._clock())).result
        except FutureTimeout:
            request.future.cancel()
            self._gave_up(request)
            raise self._too_late() from None
        if isinstance(result, DeadlinePassed):
            self._gave_up(request)
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                # Or the error would hold itself, and with it the image, until the next collection.
                del result, request
        assert isinstance(result, Done), "clicks are answered with a mask"
        return Answer(result.unpacked(), result.score, self._version(), result.timings_ms, result.rle)

    def prefetch(self, image: SourceImage) -> bool:
        """See :meth:`m2n2_backend.worker.interface.Pool.prefetch`."""
        worker = self._worker_for(image.key)
        if worker is None or self._poison.is_suspect(image.key):
            return False
        if worker.is_working_on(image.key):
            return True
        others = worker.prefetching()
        size = sum(len(each.work.image.data or b"") for each in others) + len(image.data or b"")
        if len(others) >= PREFETCHES or (others and size > PREFETCH_BYTES):
            return False
        return worker.hand(Request(Work(image, None), math.inf, next(self._numbers)))

    def encode(self, image: SourceImage) -> Future[Reply]:
        """Encode an image and write its features to disk, for those who fill the cache; never blocks.

        Returns:
            ``Done`` when they are written, ``timings_ms`` of which has ``encode`` where they were not there already.
        """
        request = Request(Work(image, None, to_disk=True), math.inf, next(self._numbers))
        if (refusal := self._poison.refusal(image.key)) is not None:
            _finish(request, refusal)
        else:
            self._dispatch(request)
        return request.future

    @property
    def fingerprint(self) -> str | None:
        """The backbone's; None until a worker has loaded it."""
        return next((worker.ready.fingerprint for worker in self._workers if worker.ready is not None), None)

    def status(self) -> Status:
        """See :meth:`m2n2_backend.worker.interface.Pool.status`."""
        workers = self._workers
        fit = [worker for worker in workers if worker.is_fit]
        unfit = [worker for worker in workers if worker not in fit]
        ready = next((worker.ready for worker in (*fit, *workers) if worker.ready is not None), None)
        backbone = self._settings.backbone if ready is None else ready.backbone
        device = self._settings.device if ready is None else ready.device
        if len(fit) > 1:
            device = f"{len(fit)} x {device}"
        detail = "; ".join(filter(None, (worker.detail for worker in unfit)))
        if fit:
            detail = "; ".join(filter(None, (detail, cache_troubles(self.stats()))))
            return Status("degraded" if unfit else "ready", self._version(), backbone, device, detail)
        if not workers:
            detail = self._failure or f"looking for devices for {self._clock() - self._looking_since:.0f} s"
        if self._failure or (workers and all(worker.is_hopeless for worker in workers)):
            return Status("failed", self._version(), backbone, device, detail)
        if waiting := sum(request.is_waited_for for request in list(self._homeless)):
            detail += f"; clicks that wait: {waiting}"
        return Status("loading", self._version(), backbone, device, detail)

    def stats(self) -> list[WorkerStats]:
        """See :meth:`m2n2_backend.worker.interface.Pool.stats`."""
        workers = self._workers
        counted = [worker.stats for worker in workers]
        for request in list(self._homeless):
            if workers and request.is_waited_for:
                home = workers.index(self._place_of(request.key, workers))
                counted[home] = replace(counted[home], waiting=counted[home].waiting + 1)
        return counted

    def close(self) -> None:
        """See :meth:`m2n2_backend.worker.interface.Pool.close`."""
        with self._lock:
            self._closed.set()
            workers, homeless = list(self._workers), self._homeless
            self._homeless = []
        for request in (*homeless, *(each for worker in workers for each in worker.outstanding())):
            _finish(request, _shutting_down())
        for worker in workers:
            worker.close()
        for worker in workers:
            worker.join()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def check(self, worker: Supervisor, ready: Ready) -> None:
        """See :class:`~m2n2_backend.worker.local.request.Owner`."""
        with self._lock:
            others = {found for other, found in self._fingerprints.items() if other is not worker}
            if others - {ready.fingerprint}:
                raise BackboneUnavailable(
                    f"{ready.device} loaded {ready.fingerprint} where the other workers have {others.pop()}: "
                    "restart the backend, or set M2N2_MODEL and M2N2_GRID"
                )
            self._fingerprints[worker] = ready.fingerprint

    def came_up(self, worker: Supervisor) -> None:
        """See :class:`~m2n2_backend.worker.local.request.Owner`."""
        self._hand_on()

    def answered(self, request: Request, reply: Reply) -> None:
        """See :class:`~m2n2_backend.worker.local.request.Owner`."""
        if isinstance(reply.result, Done):  # an error was told before anything was tried, or instead of it
            self._poison.survived(request.key, request.work.prompts)
        _finish(request, reply)

    def is_silent(self, worker: Supervisor, requests: Iterable[Request]) -> None:
        """See :class:`~m2n2_backend.worker.local.request.Owner`."""
        for request in requests:
            other = self._worker_for(request.key)
            if other is not None and request.is_waited_for:
                other.hand(request)  # whoever answers first has answered

    def went_down(self, worker: Supervisor, requests: Sequence[Request], in_work: InWork) -> None:
        """See :class:`~m2n2_backend.worker.local.request.Owner`."""
        with self._lock:
            self._fingerprints.pop(worker, None)
        for key in in_work.keys & {request.key for request in requests}:
            asked = {one.work.prompts for one in requests if one.key == key} if key in in_work.clicked else set()
            self._poison.died(key, [prompts for prompts in asked if prompts is not None])
        for request in requests:
            refusal = self._poison.refusal(request.key, request.work.prompts)
            if not request.is_waited_for:  # a prefetch, moreover, may be the cause
                request.future.cancel()
            elif refusal is not None:
                _finish(request, refusal)
            else:
                self._dispatch(request)
        self._give_up_where_hopeless()

    def _dispatch(self, request: Request) -> None:
        """Give a request to the worker of its image, or let it wait until there is one."""
        while (worker := self._worker_for(request.key)) is not None:
            if worker.hand(request):
                return
        with self._lock:
            if not self._closed.is_set():
                self._homeless.append(request)
                self._homeless = [each for each in self._homeless if not each.future.done()]
        if self._closed.is_set():
            _finish(request, _shutting_down())
        elif any(worker.is_fit for worker in self._workers):
            self._hand_on()  # one became fit since
        self._give_up_where_hopeless()

    def _hand_on(self) -> None:
        """Give what waits without a worker to those that are fit."""
        with self._lock:
            homeless, self._homeless = self._homeless, []
        for request in homeless:
            if request.is_waited_for:
                self._dispatch(request)

    def _give_up_where_hopeless(self) -> None:
        """Answer those who wait for a model that cannot be had."""
        status = self.status()
        if status.state != "failed":
            return
        with self._lock:
            homeless, self._homeless = self._homeless, []
        for request in homeless:
            _finish(request, BackboneUnavailable(status.detail))

    def _worker_for(self, key: str) -> Supervisor | None:
        """Rendezvous hashing over the workers that live: each image has its place, and few move when one dies."""
        fit = [worker for worker in self._workers if worker.is_fit]
        return self._place_of(key, fit) if fit else None

    def _place_of(self, key: str, among: Sequence[Supervisor]) -> Supervisor:
        indexes = (index for index, worker in enumerate(self._workers) if worker in among)
        return self._workers[max(indexes, key=lambda index: hashlib.sha256(f"{index} {key}".encode()).digest())]

    def _too_late(self) -> DeadlinePassed:
        """What a caller is told whose deadline passed."""
        workers = self._workers
        if any(worker.is_fit for worker in workers):
            return DeadlinePassed("the model was busy until the deadline; click again")
        if any(worker.alive for worker in workers):
            return DeadlinePassed(f"{self.status().detail}; click again in a moment")
        return DeadlinePassed("the model is still loading; click again in a moment")

    def _gave_up(self, request: Request) -> None:
        """Count a caller whose deadline passed, once, whoever noticed it first."""
        workers = self._workers
        worker = self._worker_for(request.key) or (workers[0] if workers else None)
        if worker is not None:
            worker.timed_out += 1

    def _start_workers(self, devices: Sequence[str]) -> None:
        count = self._settings.workers or len(devices)
        with self._lock:
            if self._closed.is_set():
                return
            for index in range(count):
                on_device = len(range(index % len(devices), count, len(devices)))
                options = WorkerOptions.of(
                    self._settings,
                    devices[index % len(devices)],
                    workers=count,
                    on_device=on_device,
                    load=self._load,
                    clicks=self._clicks,
                )
                self._workers.append(self._supervise(options, self))
            for worker in self._workers:
                worker.begin()

    def _look_for_devices(self) -> None:
        """Body of a thread: until the devices are found, and whatever comes between."""
        attempts = 0
        while not self._closed.is_set():
            try:
                devices = self._find(self._settings.device)
            except Exception as error:
                attempts += 1
                self._failure = str(error) or type(error).__name__
                logger.error("no device for the model: %s", self._failure)
                self._give_up_where_hopeless()
                is_final = isinstance(error, BackboneUnavailable)
                self._closed.wait(RELOAD_SECONDS if is_final else BACK_OFF[min(attempts, len(BACK_OFF) - 1)])
            else:
                self._failure = ""
                self._start_workers(devices)
                return

    def _version(self) -> str:
        return model_version(self.fingerprint)


def _finish(request: Request, result: Reply | Exception) -> None:
    reply = result if isinstance(result, Reply) else Reply(result, Figures())
    with suppress(InvalidStateError):  # its caller gave up, or another worker was faster
        request.future.set_result(reply)


def _shutting_down() -> NotReady:
    return NotReady("the model worker is shutting down")
