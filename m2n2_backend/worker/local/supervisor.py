"""One worker process seen from the web process: kept alive, watched, and handed work without waiting for it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.worker.interface import WorkerStats
from m2n2_backend.worker.local.handle import Child, Died, ProcessChild
from m2n2_backend.worker.local.request import Owner, Request
from m2n2_backend.worker.messages import Figures, InWork, LoadFailed, Ready, Reply
from m2n2_backend.worker.options import WorkerOptions

logger = logging.getLogger(__name__)

RELOAD_SECONDS = 60.0
"""Pause before a model is tried again that could not be loaded."""

SILENT_SECONDS = 5.0
"""A worker that has not said anything for so long cannot take work: it tells its figures every second."""

DEAD_SECONDS = 30.0
"""One that has not for so long is ended and started again."""

LOADING_DEAD_SECONDS = 300.0
"""As long for one that loads its model: what it imports from a slow disk may keep its other threads from speaking."""

USEFUL_SECONDS = 60.0
"""A model that was there for so long was worth its start, also where nobody clicked."""

HOPELESS_STARTS = 3
"""After so many starts in a row that came to nothing, the model counts as failed."""

BACK_OFF = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before the n-th start in a row that came to nothing."""

_POLL_SECONDS = 0.5


class Supervisor:
    """Starts a worker process, and starts it again whenever it dies, with longer and longer pauses."""

    def __init__(
        self,
        options: WorkerOptions,
        owner: Owner,
        *,
        start: Callable[[WorkerOptions], Child] = ProcessChild,
        clock: Callable[[], float] = time.monotonic,
        awake: Callable[[], float] | None = None,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        """Set up the thread that does it.

        Args:
            options: Of the process.
            owner: Told what happens.
            start: Starts a process.
            clock: Tells the time of deadlines, in seconds.
            awake: Measures silence, in seconds for which this process was running; ``clock`` if None.
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
        self._awake = awake or clock
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._pause = pause or self._closing.wait
        self._child: Child | None = None
        self._reader: threading.Thread | None = None
        self._outbox = queue.SimpleQueue[Request | None]()
        self._ends = queue.SimpleQueue[Exception | None]()  # why this life is over; None where it is to be
        self._outstanding: dict[int, Request] = {}
        self._in_work = InWork(frozenset())
        self._heard_at = self._awake()
        self._silent = False
        self._loading_since: float | None = None
        self._up_since = 0.0
        self._latest, self._earlier = Figures(), Figures()  # of this life, and sums of those before
        self._restarts = self._fruitless = 0
        self._was_useful = False
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
        return self.alive and not self._is_silent()

    @property
    def is_hopeless(self) -> bool:
        """Whether it could not be started again and again."""
        return not self.alive and (self.failure is not None or self._fruitless >= HOPELESS_STARTS)

    @property
    def detail(self) -> str:
        """Why it cannot take work, in words."""
        if self.alive:
            return f"the model worker on {self._options.device} does not answer: silent for {self._silence():.0f} s"
        if self.failure:
            return self.failure
        since, loading = self._loading_since, ""
        if since is not None:
            loading = f"the model on {self._options.device} has been loading for {self._clock() - since:.0f} s"
            if (silence := self._silence()) > SILENT_SECONDS:
                loading += f" and silent for {silence:.0f} s"
        return "; ".join(filter(None, [self.trouble, loading]))

    @property
    def stats(self) -> WorkerStats:
        """Figures as of the latest message."""
        latest, earlier, silence = self._latest, self._earlier, self._silence()
        with self._lock:
            waiting = sum(request.is_waited_for for request in self._outstanding.values())
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

    def outstanding(self) -> list[Request]:
        """What it has been handed and has not answered."""
        with self._lock:
            return list(self._outstanding.values())

    def close(self) -> None:
        """Let the process end; ``join`` waits for that."""
        self._closing.set()
        self._ends.put(None)
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
                # One that was fit to work: the next one is started at once.
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
        """One life of a process. Another thread reads what it says, as that may stop in the middle of a message.

        Raises:
            Died: It ended, or was ended for hanging.
            BackboneUnavailable: Its model cannot be loaded, or is another than the other workers'.
            OSError: It cannot be started.
        """
        with self._lock:
            self._heard_at, self._silent = self._awake(), False
        self._loading_since = self._clock()
        child = self._child = self._start(self._options)
        ends = self._ends = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(child, ends), name="worker-reader", daemon=True)
        self._reader.start()
        while not self._closing.is_set():
            try:
                end = ends.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                self._watch(child)
            else:
                if end is not None:
                    raise end

    def _read(self, child: Child, ends: queue.SimpleQueue[Exception | None]) -> None:
        """Body of the thread that hears one process, until it has nothing more to say."""
        try:
            while (message := child.receive(_POLL_SECONDS)) is not None or self._child is child:
                if message is not None:
                    self._hear(child, message)
        except Exception as error:
            ends.put(error)

    def _come_up(self, child: Child, ready: Ready) -> None:
        self._owner.check(self, ready)
        with self._lock:
            if self._child is not child:  # it was ended meanwhile
                return
            outbox = self._outbox = queue.SimpleQueue()
            seconds = self._clock() - (self._loading_since or 0.0)
            self.ready, self.failure, self.trouble, self._loading_since = ready, None, "", None
            self._latest, self._in_work, self._up_since = ready.figures, InWork(frozenset()), self._clock()
            self.alive = True
        threading.Thread(target=self._send, args=(child, outbox), name="worker-sender", daemon=True).start()
        logger.info("model ready after %.1f s: %s on %s", seconds, ready.backbone, ready.device)
        self._owner.came_up(self)

    def _send(self, child: Child, outbox: queue.SimpleQueue[Request | None]) -> None:
        """Body of the thread that writes to one process: one that does not read must not hold up whoever asks."""
        try:
            while (request := outbox.get()) is not None:
                if request.future.done():
                    with self._lock:
                        self._outstanding.pop(request.number, None)
                else:
                    seconds = request.deadline - self._clock()
                    child.send((request.number, replace(request.work, seconds=seconds)))
                del request  # and its image, for as long as there is no other
            child.send(None)
        except OSError:
            pass  # it died; the other thread notices too

    def _hear(self, child: Child, message: object) -> None:
        """Take in a message.

        Raises:
            BackboneUnavailable: The model cannot be loaded, or is another than the other workers'.
        """
        with self._lock:
            self._heard_at = self._awake()
            was_silent, self._silent = self._silent, False
        if isinstance(message, LoadFailed):
            raise BackboneUnavailable(message.detail)
        if isinstance(message, Ready):
            self._come_up(child, message)
        elif isinstance(message, Figures):
            self._latest = message
        elif isinstance(message, InWork):
            self._in_work = message
        elif isinstance(message, tuple):
            number, reply = message
            assert isinstance(reply, Reply), "work is answered with a reply"
            self._latest, self._was_useful, self._fruitless = reply.figures, True, 0
            with self._lock:
                request = self._outstanding.pop(number, None)
            if request is not None:
                self._owner.answered(request, reply)
        if was_silent and self.alive:
            self._owner.came_up(self)

    def _watch(self, child: Child) -> None:
        """End a process that hangs, and have another do the work of one that is silent.

        Raises:
            Died: It was ended.
        """
        silence, age = self._silence(), self._latest.age
        if silence > (DEAD_SECONDS if self.alive else LOADING_DEAD_SECONDS) or age > self._latest.hang_seconds:
            child.kill()
            raise Died(f"did not answer for {max(age, silence):.0f} s and was ended")
        if self.alive and self._is_silent():
            self._owner.is_silent(self, self.outstanding())
        elif self.alive and self._clock() - self._up_since > USEFUL_SECONDS:
            self._was_useful, self._fruitless = True, 0

    def _silence(self) -> float:
        """Seconds since it was heard of."""
        return max(0.0, self._awake() - self._heard_at)

    def _is_silent(self) -> bool:
        """Whether it has said nothing for too long.

        Time enters this state, here alone; the next message leaves it, and hands on what has waited meanwhile.
        """
        with self._lock:
            silence = self._silence()
            fell_silent = not self._silent and silence > SILENT_SECONDS
            self._silent = self._silent or fell_silent
        if fell_silent:
            logger.warning("the model worker on %s has been silent for %.0f s", self._options.device, silence)
        return self._silent

    def _bury(self) -> None:
        """After a life: nobody may wait for it any more."""
        with self._lock:
            was_alive, self.alive = self.alive, False
            child, self._child, self._loading_since = self._child, None, None
        self._outbox.put(None)
        try:
            if child is not None:
                if not (was_alive and self._closing.is_set()):
                    child.kill()
                child.stop()
            if child is not None and self._reader is not None:
                self._reader.join(_POLL_SECONDS)  # what it has said before counts
        except Exception:
            logger.exception("a model worker could not be ended")
        with self._lock:
            requests, self._outstanding = list(self._outstanding.values()), {}
        latest, earlier = self._latest, self._earlier
        self._earlier = Figures(
            superseded=earlier.superseded + latest.superseded,
            refused=earlier.refused + latest.refused,
            encoded=earlier.encoded + latest.encoded,
        )
        # The other figures stay to be seen until the next life.
        self._latest = replace(latest, superseded=0, refused=0, encoded=0, age=0.0)
        try:
            self._owner.went_down(self, requests, self._in_work)
        except Exception:
            logger.exception("work could not be handed on")
