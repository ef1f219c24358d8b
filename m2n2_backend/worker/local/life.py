"""One life of a worker process: what it is handed, what it says, and how long it has been silent."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.worker.figures import Figures
from m2n2_backend.worker.job import Job
from m2n2_backend.worker.local.handle import Child, Died
from m2n2_backend.worker.local.silence import SILENT_SECONDS, Silence
from m2n2_backend.worker.messages import InWork, LoadFailed, Ready, Reply

logger = logging.getLogger(__name__)

DEAD_SECONDS = 30.0
"""A worker that has said nothing for this long is ended and started again."""

LOADING_DEAD_SECONDS = 300.0
"""The limit while it loads its model: what it imports from a slow disk may keep its other threads from speaking."""

USEFUL_SECONDS = 60.0
"""A model that was there for this long was worth its start, even if nobody clicked."""

Clock = Callable[[], float]

_POLL_SECONDS = 0.5


class Owner(Protocol):
    """What learns of everything that happens to workers. ``worker`` is only a mark that tells them apart."""

    def check(self, worker: object, ready: Ready) -> None:
        """A worker has loaded its model.

        Raises:
            BackboneUnavailable: It is not the other workers' model.
        """
        ...

    def came_up(self) -> None:
        """A worker can be handed work from now on: its model was loaded, or it has spoken after a silence."""
        ...

    def answered(self, job: Job, reply: Reply) -> None:
        """A job is done."""
        ...

    def is_silent(self, jobs: Iterable[Job]) -> None:
        """A worker says nothing; others may do what it was handed. Called again and again until the worker speaks."""
        ...

    def went_down(self, worker: object, jobs: Sequence[Job], in_work: InWork) -> None:
        """A worker died, or could not be started, with these jobs unanswered and this in work."""
        ...


class Life:
    """One life of a worker process, from before its start to its burial. Threads share it.

    Attributes:
        ready: What it said when its model was loaded; None before.
        figures: The latest figures; None before its model is loaded.
        in_work: What was in work at its latest message about that.
        alive: Whether it has loaded its model and has not been buried.
        was_useful: Whether it has answered, or was there for ``USEFUL_SECONDS``.
        silence: How long it has said nothing.
    """

    def __init__(self, device: str, owner: Owner, worker: object, clock: Clock, awake: Clock) -> None:
        """Set up a life that has no process yet; see :class:`Owner` for the owner and its mark of the worker.

        Deadlines are on ``clock``, in seconds; ``awake`` measures silence, in seconds for which this process ran.
        """
        self.ready: Ready | None = None
        self.figures: Figures | None = None
        self.in_work = InWork()
        self.alive = self.was_useful = False
        self._device = device
        self._owner = owner
        self._worker = worker
        self._clock = clock
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._reader: threading.Thread | None = None
        self._is_over = False
        self._outbox = queue.SimpleQueue[Job | None]()
        self._ends = queue.SimpleQueue[Exception | None]()  # why this life is over; None if it was asked to end
        self._outstanding: dict[int, Job] = {}
        self.silence = Silence(device, awake)
        self._began_at = clock()
        self._up_since = 0.0

    @property
    def pid(self) -> int | None:
        """Id of the process, as long as there is one."""
        child = self._child
        return None if child is None else child.pid

    @property
    def is_fit(self) -> bool:
        """Whether it can take work now: it lives, and says so."""
        return self.alive and not self.silence.is_too_long()

    @property
    def detail(self) -> str:
        """Why it cannot take work, in words; empty after its end."""
        if self._is_over:
            return ""
        if self.alive:
            return f"the model worker on {self._device} does not answer: silent for {self.silence.seconds:.0f} s"
        loading = f"the model on {self._device} has been loading for {self._clock() - self._began_at:.0f} s"
        if (silence := self.silence.seconds) > SILENT_SECONDS:
            loading += f" and silent for {silence:.0f} s"
        return loading

    def hand(self, job: Job) -> bool:
        """Give it a job; False if it died meanwhile. Never blocks."""
        with self._lock:
            if not self.alive:
                return False
            if job.number not in self._outstanding:
                self._outstanding[job.number] = job
                self._outbox.put(job)
            return True

    def outstanding(self) -> list[Job]:
        """What it has been handed and has not answered."""
        with self._lock:
            return list(self._outstanding.values())

    def live(self, start: Callable[[], Child], closing: threading.Event) -> None:
        """Start the process, and watch over it until it ends or is asked to.

        Another thread reads what it says, as that may stop in the middle of a message.

        Raises:
            Died: It ended, or was ended for hanging.
            BackboneUnavailable: Its model cannot be loaded, or differs from the other workers' model.
            OSError: It cannot be started.
        """
        child = self._child = start()
        self._reader = threading.Thread(target=self._read, args=(child,), name="worker-reader", daemon=True)
        self._reader.start()
        while not closing.is_set():
            try:
                end = self._ends.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                self._watch(child)
            else:
                if end is not None:
                    raise end

    def ask_to_end(self) -> None:
        """Let the process end by itself; ``bury`` waits for that."""
        self._ends.put(None)
        self._outbox.put(None)

    def bury(self, *, was_asked: bool) -> list[Job]:
        """End the process, unless it lived and was asked to end and does so; the jobs that it has not answered."""
        with self._lock:
            was_alive, self.alive, self._is_over = self.alive, False, True
            child, self._child = self._child, None
        self._outbox.put(None)
        try:
            if child is not None:
                if not (was_alive and was_asked):
                    child.kill()
                child.stop()
            if child is not None and self._reader is not None:
                self._reader.join(_POLL_SECONDS)  # what it has said before counts
        except Exception:
            logger.exception("a model worker could not be ended")
        with self._lock:
            jobs, self._outstanding = list(self._outstanding.values()), {}
        return jobs

    def _read(self, child: Child) -> None:
        """Body of the thread that reads from the process, until it has nothing more to say."""
        try:
            while (message := child.receive(_POLL_SECONDS)) is not None or not self._is_over:
                if message is not None:
                    self._hear(child, message)
        except Exception as error:
            self._ends.put(error)

    def _hear(self, child: Child, message: object) -> None:
        """Take in a message.

        Raises:
            BackboneUnavailable: The model cannot be loaded, or differs from the other workers' model.
        """
        was_silent = self.silence.end()
        if isinstance(message, LoadFailed):
            raise BackboneUnavailable(message.detail)
        if isinstance(message, Ready):
            self._come_up(child, message)
        elif isinstance(message, Figures):
            self.figures = message
        elif isinstance(message, InWork):
            self.in_work = message
        elif isinstance(message, tuple):
            number, reply = message
            assert isinstance(reply, Reply), "work is answered with a reply"
            self.figures, self.was_useful = reply.figures, True
            with self._lock:
                job = self._outstanding.pop(number, None)
            if job is not None:
                self._owner.answered(job, reply)
        if was_silent and self.alive:
            self._owner.came_up()

    def _come_up(self, child: Child, ready: Ready) -> None:
        self._owner.check(self._worker, ready)
        with self._lock:
            if self._is_over:  # it was ended meanwhile
                return
            self.ready, self.figures, self._up_since = ready, ready.figures, self._clock()
            self.alive = True
        threading.Thread(target=self._send, args=(child,), name="worker-sender", daemon=True).start()
        seconds = self._up_since - self._began_at
        logger.info("model ready after %.1f s: %s on %s", seconds, ready.backbone, ready.device)
        self._owner.came_up()

    def _send(self, child: Child) -> None:
        """Body of the thread that writes to the process: one that does not read must not hold up those who ask."""
        try:
            while (job := self._outbox.get()) is not None:
                if job.future.done():
                    with self._lock:
                        self._outstanding.pop(job.number, None)
                else:
                    seconds = job.deadline - self._clock()
                    child.send((job.number, replace(job.work, seconds=seconds)))
                del job  # and its image, for as long as there is no other
            child.send(None)
        except OSError:
            pass  # it died; the other thread notices too

    def _watch(self, child: Child) -> None:
        """End the process if it hangs, and have another do the work of one that is silent.

        Raises:
            Died: It was ended.
        """
        latest = self.figures or Figures()
        silence, age = self.silence.seconds, latest.age
        if silence > (DEAD_SECONDS if self.alive else LOADING_DEAD_SECONDS) or age > latest.hang_seconds:
            child.kill()
            raise Died(f"did not answer for {max(age, silence):.0f} s and was ended")
        if self.alive and self.silence.is_too_long():
            self._owner.is_silent(self.outstanding())
        elif self.alive and self._clock() - self._up_since > USEFUL_SECONDS:
            self.was_useful = True
