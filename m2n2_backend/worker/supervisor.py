"""One worker process seen from the web process: kept alive, watched, and handed work without waiting for it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Protocol

from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.worker.child import Child, Died, ProcessChild
from m2n2_backend.worker.messages import Figures, InWork, LoadFailed, Ready, Reply, Work
from m2n2_backend.worker.options import WorkerOptions
from m2n2_backend.worker.pool import WorkerStats

logger = logging.getLogger(__name__)

RELOAD_SECONDS = 60.0
"""Pause before a model is tried again that could not be loaded."""

SILENT_SECONDS = 5.0
"""A worker that has not said anything for so long cannot take work: it tells its figures every second."""

DEAD_SECONDS = 30.0
"""One that has not for so long is ended and started again."""

HOPELESS_STARTS = 3
"""After so many starts in a row that came to nothing, the model counts as failed."""

BACK_OFF = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before the n-th start in a row that came to nothing."""

_POLL_SECONDS = 0.5


@dataclass(eq=False)
class Request:
    """Work that the pool has taken on.

    Attributes:
        work: What is to be done; its seconds are set when it is sent.
        deadline: On the pool's clock.
        future: Gets the reply.
        number: Of the pool's requests.
    """

    work: Work
    deadline: float
    number: int
    future: Future[Reply] = field(default_factory=Future)

    @property
    def key(self) -> str:
        """Of the image."""
        return self.work.image.key

    @property
    def is_prefetch(self) -> bool:
        """Whether nobody waits for it."""
        return self.work.is_prefetch


class Owner(Protocol):
    """What a supervisor tells its pool."""

    def check(self, worker: Supervisor, ready: Ready) -> None:
        """Its model is loaded.

        Raises:
            BackboneUnavailable: It is not the other workers' model.
        """
        ...

    def came_up(self, worker: Supervisor) -> None:
        """It can be handed work from now on."""
        ...

    def answered(self, request: Request, reply: Reply) -> None:
        """A request is done."""
        ...

    def is_silent(self, worker: Supervisor, requests: Iterable[Request]) -> None:
        """It does not say anything; others may do what it was asked for. Told again and again until it speaks."""
        ...

    def went_down(self, worker: Supervisor, requests: Iterable[Request], suspects: frozenset[str]) -> None:
        """It died with these requests unanswered and these images in work."""
        ...


class Supervisor:
    """Starts a worker process, and starts it again whenever it dies, with longer and longer pauses."""

    def __init__(
        self,
        options: WorkerOptions,
        owner: Owner,
        *,
        start: Callable[[WorkerOptions], Child] = ProcessChild,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        """Start the thread that does it.

        Args:
            options: Of the process.
            owner: Told what happens.
            start: Starts a process.
            clock: Of silence and hanging, in seconds.
            pause: Waits so many seconds before a start; True where there is to be none. A wait for ``close`` if None.
        """
        self.ready: Ready | None = None
        self.failure: str | None = None
        self.trouble = ""
        self.alive = False
        self.timed_out = 0
        self._options = options
        self._owner = owner
        self._start = start
        self._clock = clock
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._pause = pause or self._closing.wait
        self._child: Child | None = None
        self._outbox = queue.SimpleQueue[Request | None]()
        self._outstanding: dict[int, Request] = {}
        self._suspects = frozenset[str]()
        self._heard_at = clock()
        self._latest, self._earlier = Figures(), Figures()  # of this life, and sums of those before
        self._restarts = self._fruitless = 0
        self._was_useful = self._was_silent = False
        self._thread = threading.Thread(target=self._run, name=f"worker-{options.device}", daemon=True)

    def begin(self) -> None:
        """Start the process, and watch over it from now on."""
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._child.pid if self._child is not None else None

    @property
    def is_fit(self) -> bool:
        """Whether it can take work now: it lives, and says so."""
        return self.alive and self._silence() < SILENT_SECONDS

    @property
    def is_hopeless(self) -> bool:
        """Whether it could not be started again and again."""
        return self.failure is not None or self._fruitless >= HOPELESS_STARTS

    @property
    def stats(self) -> WorkerStats:
        """Figures as of the latest message."""
        latest, earlier, silence = self._latest, self._earlier, self._silence()
        with self._lock:
            waiting = sum(not request.is_prefetch for request in self._outstanding.values())
        return WorkerStats(
            device=self.ready.device if self.ready else self._options.device,
            alive=self.is_fit,
            waiting=waiting,
            restarts=self._restarts,
            superseded=earlier.superseded + latest.superseded,
            timed_out=self.timed_out,
            refused=earlier.refused + latest.refused,
            encoded=earlier.encoded + latest.encoded,
            encode_seconds=latest.encode_seconds,
            rss=latest.rss if self.alive else 0,
            tiers=latest.tiers,
            age=latest.age + silence if latest.age else 0.0,
            silence=silence if self.alive else 0.0,
        )

    def hand(self, request: Request) -> bool:
        """Give it a request; False where it died meanwhile. Never blocks."""
        with self._lock:
            if not self.alive:
                return False
            if request.number not in self._outstanding:
                self._outstanding[request.number] = request
                self._outbox.put(request)
            return True

    def prefetching(self) -> list[Request]:
        """Prefetches it has not answered."""
        with self._lock:
            return [request for request in self._outstanding.values() if request.is_prefetch]

    def is_working_on(self, key: str) -> bool:
        """Whether it has a request about this image."""
        with self._lock:
            return any(request.key == key for request in self._outstanding.values())

    def close(self) -> None:
        """Let the process end; ``join`` waits for that."""
        self._closing.set()
        self._outbox.put(None)

    def join(self) -> None:
        """Wait until the process has ended, or was ended."""
        self._thread.join(timeout=30)

    def _run(self) -> None:
        """Body of the thread. Whatever happens to a process, or on the way to one, ends in the next start."""
        seconds = 0.0
        while not self._closing.is_set() and not self._pause(seconds):
            self._was_useful = False
            try:
                self._live()
            except BackboneUnavailable as error:
                self.failure = str(error)
                logger.error("the model cannot be used: %s", error)
                seconds = RELOAD_SECONDS
            except Exception as error:
                # One that answered anything was fit to work: the next one is started at once.
                self._fruitless = 0 if self._was_useful else self._fruitless + 1
                seconds = BACK_OFF[min(self._fruitless, len(BACK_OFF) - 1)]
                if not self._closing.is_set():
                    self._restarts += 1
                    cause = str(error) if isinstance(error, Died) else f"cannot be started: {error}"
                    self.trouble = f"the model worker {cause}; starting it again"
                    logger.error("%s (%d since the start)", self.trouble, self._restarts)
            finally:
                self._bury()

    def _live(self) -> None:
        """One life of a process.

        Raises:
            Died: It ended, or was ended for hanging.
            BackboneUnavailable: Its model cannot be loaded, or is another than the other workers'.
            OSError: It cannot be started.
        """
        started = self._clock()
        child = self._child = self._start(self._options)
        ready = self._await_model(child)
        if ready is None:
            return
        self._owner.check(self, ready)
        self.ready, self.failure, self.trouble = ready, None, ""
        self._latest = ready.figures
        with self._lock:
            self._outbox = queue.SimpleQueue()
            self._heard_at, self._was_silent, self._suspects = self._clock(), False, frozenset()
            self.alive = True
        threading.Thread(target=self._send, args=(child, self._outbox), name="worker-sender", daemon=True).start()
        logger.info("model ready after %.1f s: %s on %s", self._clock() - started, ready.backbone, ready.device)
        self._owner.came_up(self)
        while not self._closing.is_set():
            message = child.receive(_POLL_SECONDS)
            if message is not None:
                self._hear(message)
            self._watch(child)

    def _await_model(self, child: Child) -> Ready | None:
        while not self._closing.is_set():
            message = child.receive(_POLL_SECONDS)
            if isinstance(message, LoadFailed):
                raise BackboneUnavailable(message.detail)
            if isinstance(message, Ready):
                return message
        return None

    def _send(self, child: Child, outbox: queue.SimpleQueue[Request | None]) -> None:
        """Body of the thread that writes to one process: one that does not read must not hold up whoever asks."""
        try:
            while (request := outbox.get()) is not None:
                if not request.future.done():
                    seconds = request.deadline - self._clock()
                    child.send((request.number, replace(request.work, seconds=seconds)))
            child.send(None)
        except OSError:
            pass  # it died; the other thread notices too

    def _hear(self, message: object) -> None:
        self._heard_at, self._was_silent = self._clock(), False
        if isinstance(message, Figures):
            self._latest = message
        elif isinstance(message, InWork):
            self._suspects = message.keys
        elif isinstance(message, tuple):
            number, reply = message
            assert isinstance(reply, Reply), "work is answered with a reply"
            self._latest, self._was_useful, self._fruitless = reply.figures, True, 0
            with self._lock:
                request = self._outstanding.pop(number, None)
            if request is not None:
                self._owner.answered(request, reply)

    def _watch(self, child: Child) -> None:
        """End a process that hangs, and have another do the work of one that is silent.

        Raises:
            Died: It was ended.
        """
        silence, age = self._silence(), self._latest.age
        if age > self._latest.hang_seconds or silence > DEAD_SECONDS:
            child.kill()
            raise Died(f"did not answer for {max(age, silence):.0f} s and was ended")
        if silence > SILENT_SECONDS:
            if not self._was_silent:
                logger.warning("the model worker on %s has been silent for %.0f s", self._options.device, silence)
            self._was_silent = True
            with self._lock:
                requests = list(self._outstanding.values())
            self._owner.is_silent(self, requests)

    def _silence(self) -> float:
        return max(0.0, self._clock() - self._heard_at) if self.alive else 0.0

    def _bury(self) -> None:
        """After a life: nobody may wait for it any more."""
        with self._lock:
            was_alive, self.alive = self.alive, False
            requests, self._outstanding = list(self._outstanding.values()), {}
        self._outbox.put(None)
        child, self._child = self._child, None
        try:
            if child is not None:
                if not (was_alive and self._closing.is_set()):
                    child.kill()
                child.stop()
        except Exception:
            logger.exception("a model worker could not be ended")
        latest, earlier = self._latest, self._earlier
        self._earlier = Figures(
            superseded=earlier.superseded + latest.superseded,
            refused=earlier.refused + latest.refused,
            encoded=earlier.encoded + latest.encoded,
        )
        # The other figures stay to be seen until the next life.
        self._latest = replace(latest, superseded=0, refused=0, encoded=0, age=0.0)
        suspects = self._suspects & {request.key for request in requests}
        try:
            self._owner.went_down(self, requests, suspects)
        except Exception:
            logger.exception("work could not be handed on")
