"""One worker of this machine: its process is started, and started again whenever it dies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from m2n2_backend.errors import BackboneUnavailable
from m2n2_backend.worker.figures import Figures, WorkerStats
from m2n2_backend.worker.job import Job
from m2n2_backend.worker.local.handle import Child, Died, ProcessChild
from m2n2_backend.worker.local.life import Life, Owner
from m2n2_backend.worker.messages import Ready
from m2n2_backend.worker.options import WorkerOptions

logger = logging.getLogger(__name__)

RELOAD_SECONDS = 60.0
"""Pause before a model is tried again that could not be loaded."""

HOPELESS_STARTS = 3
"""Vain starts in a row after which the model counts as failed."""

BACK_OFF = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds of pause by the number of vain starts in a row before."""


class Supervisor:
    """Starts a worker process, and starts it again whenever it dies, with longer and longer pauses.

    Attributes:
        timed_out: Requests for this worker whose deadline passed before their answer; the pool counts them.
    """

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
            options: What the process is started with.
            owner: Learns of everything that happens.
            start: Starts a process.
            clock: The clock of deadlines, in seconds.
            awake: Measures silence, in seconds for which this process was running; ``clock`` if None.
            pause: Waits this many seconds before a start, and returns True if there must not be one; a wait for
                ``close`` if None.
        """
        self.timed_out = 0
        self._options = options
        self._owner = owner
        self._start = start
        self._clock = clock
        self._awake = awake or clock
        self._closing = threading.Event()
        self._pause = pause or self._closing.wait
        self._lock = threading.Lock()  # for a life and the figures before it, which change together
        self._life: Life | None = None
        self._earlier = Figures()
        self._ready: Ready | None = None  # of an earlier life
        self._failure: str | None = None
        self._trouble = ""
        self._restarts = self._vain_starts = 0
        self._thread = threading.Thread(target=self._run, name=f"worker-{options.device}", daemon=True)

    def begin(self) -> None:
        """Start the process, and watch over it from now on."""
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Id of the process that runs now."""
        life = self._life
        return None if life is None else life.pid

    @property
    def ready(self) -> Ready | None:
        """What the process said when its model was loaded, or an earlier process did; None before."""
        life = self._life
        return (life.ready if life is not None else None) or self._ready

    @property
    def alive(self) -> bool:
        """Whether there is a process that has loaded its model."""
        life = self._life
        return life is not None and life.alive

    @property
    def is_fit(self) -> bool:
        """Whether it can take work now: its process lives, and says so."""
        life = self._life
        return life is not None and life.is_fit

    @property
    def is_hopeless(self) -> bool:
        """Whether its process could not be started again and again."""
        return not self.alive and (self._failure is not None or self._vain_starts >= HOPELESS_STARTS)

    @property
    def detail(self) -> str:
        """Why it cannot take work, in words."""
        life = self._life
        words = "" if life is None else life.detail
        if life is not None and life.alive:
            return words
        return self._failure or "; ".join(filter(None, (self._trouble, words)))

    def stats(self, homeless: int) -> WorkerStats:
        """Figures of the latest message. Those of a process that died are shown until the next has loaded its model.

        Args:
            homeless: Clicks on this worker's images that wait without a worker.
        """
        with self._lock:
            life, figures = self._life, self._earlier
        silence = 0.0
        waiting = homeless + sum(job.is_waited_for for job in self.outstanding())
        if life is not None and (latest := life.figures) is not None:
            silence = life.silence.seconds
            figures = replace(latest.after(figures), age=latest.age + silence if latest.age else 0.0)
        ready = self.ready
        return WorkerStats(
            device=ready.device if ready else self._options.device,
            alive=self.is_fit,
            figures=replace(figures, waiting=waiting),
            restarts=self._restarts,
            timed_out=self.timed_out,
            silence=silence,
        )

    def hand(self, job: Job) -> bool:
        """Give it a job; False if its process died meanwhile. Never blocks."""
        life = self._life
        return life is not None and life.hand(job)

    def outstanding(self) -> list[Job]:
        """What it has been handed and has not answered."""
        life = self._life
        return [] if life is None else life.outstanding()

    def is_working_on(self, key: str) -> bool:
        """Whether it has a job about this image."""
        return any(job.key == key for job in self.outstanding())

    def close(self) -> None:
        """Let the process end; ``join`` waits for that."""
        self._closing.set()
        life = self._life
        if life is not None:
            life.ask_to_end()

    def join(self) -> None:
        """Wait until the process has ended, or was ended."""
        self._thread.join(timeout=30)

    def _run(self) -> None:
        """Body of the thread. Whatever happens to a process, or on the way to one, ends in the next start."""
        seconds = 0.0
        while not self._closing.is_set() and not self._pause(seconds):
            life = Life(self._options.device, self._owner, self, self._clock, self._awake)
            self._life = life
            try:
                life.live(lambda: self._start(self._options), self._closing)
            except Exception as error:
                seconds = self._pause_after(life, error)
            finally:
                self._bury(life)
                del life  # and its end of the pipe

    def _pause_after(self, life: Life, error: Exception) -> float:
        """Note why a life is over; seconds until the next start."""
        if life.ready is not None:
            self._failure, self._trouble = None, ""
        if isinstance(error, BackboneUnavailable):
            self._failure = str(error)
            logger.error("the model cannot be used: %s", error)
            return RELOAD_SECONDS
        # After a process that was fit to work the next one is started at once.
        self._vain_starts = 0 if life.was_useful else self._vain_starts + 1
        if not self._closing.is_set():
            self._restarts += 1
            cause = str(error) if isinstance(error, Died) else f"cannot be started: {error}"
            self._trouble = f"the model worker {cause}; starting it again"
            logger.error("%s (%d since the start)", self._trouble, self._restarts)
        return BACK_OFF[min(self._vain_starts, len(BACK_OFF) - 1)]

    def _bury(self, life: Life) -> None:
        """After a life: nobody may wait for it any more."""
        jobs = life.bury(was_asked=self._closing.is_set())
        with self._lock:
            if life.figures is not None:
                # They stay to be seen until the next life has its own.
                self._earlier = replace(life.figures.after(self._earlier), age=0.0, rss=0)
            self._ready, self._life = life.ready or self._ready, None
        try:
            self._owner.went_down(self, jobs, life.in_work)
        except Exception:
            logger.exception("work could not be handed on")
