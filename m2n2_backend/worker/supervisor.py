"""One worker process seen from the web process: kept alive, handed one job after the other."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from m2n2_backend.errors import BackboneUnavailable, NotReady
from m2n2_backend.worker.messages import Done, LoadFailed, Ready, Reply, Work
from m2n2_backend.worker.options import WorkerOptions
from m2n2_backend.worker.pool import WorkerStats
from m2n2_backend.worker.queue import Job, JobQueue

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""Times a job is tried: an image that kills its worker may be the cause of that."""

HANG_SECONDS = 600.0
"""A job that takes longer than this has hung; the slowest honest one is an image's encoding on a weak CPU."""

RELOAD_SECONDS = 60.0
"""Pause before a model is tried again that could not be loaded."""

_BACK_OFF = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before the n-th start in a row that came to nothing
_POLL_SECONDS = 0.5


class _Died(Exception):
    """The process is gone or does not answer; the message says how."""


class Supervisor:
    """Starts a worker process and starts it again whenever it dies, with longer and longer pauses.

    A thread takes job after job from the queue. A job in work when the process dies is tried once more. Jobs that
    wait go on waiting, each until its own deadline.
    """

    def __init__(self, options: WorkerOptions, queue: JobQueue) -> None:
        self.queue = queue
        self.ready: Ready | None = None
        self.failure: str | None = None
        self.trouble = ""
        self.alive = False
        self.loaded = threading.Event()
        self._options = options
        self._restarts = 0
        self._encoded = 0
        self._encode_seconds = 0.0
        self._timed_out = 0
        self._latest: Reply | None = None
        self._in_work: Job | None = None
        self._closing = threading.Event()
        self._process: BaseProcess | None = None
        self._thread = threading.Thread(target=self._run, name=f"worker-{options.device}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None else None

    @property
    def stats(self) -> WorkerStats:
        """Figures as of the latest answer."""
        queue, latest = self.queue, self._latest
        return WorkerStats(
            device=self.ready.device if self.ready else self._options.device,
            alive=self.alive,
            waiting=len(queue),
            restarts=self._restarts,
            superseded=queue.superseded,
            timed_out=queue.timed_out + self._timed_out,
            refused=queue.refused,
            encoded=self._encoded,
            encode_seconds=self._encode_seconds,
            rss=latest.rss if latest else 0,
            tiers=latest.tiers if latest else self.ready.tiers if self.ready else {},
        )

    def is_working_on(self, key: str) -> bool:
        """Whether a job about this image waits or is in work."""
        job = self._in_work
        return (job is not None and job.image.key == key) or self.queue.holds(key)

    def gave_up(self) -> None:
        """Count a caller that did not wait for its answer any longer."""
        self._timed_out += 1

    def close(self) -> None:
        """End the process and answer everybody who waits."""
        self._closing.set()
        self.queue.close(NotReady("the model worker is shutting down"))
        process = self._process
        if process is not None and process.is_alive():
            process.terminate()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        fruitless = 0
        while not self._closing.wait(_BACK_OFF[min(fruitless, len(_BACK_OFF) - 1)]):
            before = self._latest
            try:
                self._serve(self._start())
            except _Died as death:
                if self._closing.is_set():
                    break
                # One that answered anything was fit to work: the next one is started at once.
                fruitless = 1 if self._latest is not before else fruitless + 1
                self._restarts += 1
                self.trouble = f"the model worker {death}; starting it again"
                logger.error("%s (%d since the start)", self.trouble, self._restarts)
            except BackboneUnavailable as error:
                self.failure = str(error)
                logger.error("the model cannot be loaded: %s", error)
                self.queue.fail_all(error)
                self.loaded.set()
                self._closing.wait(RELOAD_SECONDS)
            finally:
                self.alive = False
                self._end()

    def _start(self) -> Connection:
        """A process with its model loaded."""
        # A fork would share the web process's threads and locks, and an accelerator cannot be used after one.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        started = time.monotonic()
        process: BaseProcess = context.Process(target=_body, args=(theirs, self._options), daemon=True)
        self._process = process
        process.start()
        theirs.close()
        message = self._receive(ours, process)
        if isinstance(message, LoadFailed):
            raise BackboneUnavailable(message.detail)
        assert isinstance(message, Ready), "the first message says whether the model could be loaded"
        self.ready, self.failure, self.trouble, self.alive = message, None, "", True
        self.loaded.set()
        seconds = time.monotonic() - started
        logger.info("model ready after %.1f s: %s on %s", seconds, message.backbone, message.device)
        return ours

    def _serve(self, connection: Connection) -> None:
        process = self._process
        assert process is not None, "a process was started"
        while not self._closing.is_set():
            job = self.queue.get(_POLL_SECONDS)
            if job is None:
                if not process.is_alive():
                    raise _Died(_cause(process))
                continue
            self._in_work = job
            try:
                self._work(connection, process, job)
            finally:
                self._in_work = None

    def _work(self, connection: Connection, process: BaseProcess, job: Job) -> None:
        job.attempts += 1
        begun = time.monotonic()
        # Also for a process that does not even read: sending a large image to it would block for ever.
        watchdog = threading.Timer(HANG_SECONDS, self._kill_hanging, [process])
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.send(Work(job.image, job.prompts))
            reply = self._receive(connection, process)
        except (_Died, OSError) as error:
            death = error if isinstance(error, _Died) else _Died(_cause(process))
            if job.attempts < ATTEMPTS:
                self.queue.put_back(job)
            else:
                job.finish(NotReady(f"the model worker {death}, {ATTEMPTS} times with this image; see its log"))
            raise death from error
        finally:
            watchdog.cancel()
        assert isinstance(reply, Reply), "work is answered with a reply"
        self._latest = reply
        if isinstance(reply.result, Done):
            result = reply.result
            if "encode" in result.timings_ms:
                self._encoded += 1
                self._encode_seconds = result.timings_ms["encode"] / 1000.0
            waited = {"wait": 1000.0 * (begun - job.queued_at)}
            job.finish(replace(result, timings_ms={**waited, **result.timings_ms}))
        else:
            job.finish(reply.result)

    def _kill_hanging(self, process: BaseProcess) -> None:
        logger.error("the model worker did not answer for %.0f s", HANG_SECONDS)
        process.kill()

    def _receive(self, connection: Connection, process: BaseProcess) -> object:
        while True:
            if wait([connection, process.sentinel], _POLL_SECONDS):
                try:
                    # What was sent before the death is still there to be read.
                    if connection.poll() or process.is_alive():
                        return connection.recv()
                except (EOFError, OSError):
                    pass
                process.join(1.0)
                raise _Died(_cause(process))
            if self._closing.is_set():
                raise _Died("was stopped")

    def _end(self) -> None:
        process = self._process
        if process is not None and process.pid is not None:
            process.terminate()
            process.join(5.0)
            if process.is_alive():
                process.kill()
                process.join(5.0)


def _body(connection: Connection, options: WorkerOptions) -> None:
    """First function of the new process. PyTorch is imported there and nowhere before."""
    # Threads that wait for each other must not spin: on a machine with other work to do, the web process and the
    # annotator's browser among it, spinning made a click three times slower. OpenMP reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from m2n2_backend.worker.process import run

    run(connection, options)


def _cause(process: BaseProcess) -> str:
    status = process.exitcode
    if status is None:
        return "does not answer"
    if status == -9:
        return "was killed, perhaps for lack of memory"
    return f"died of signal {-status}" if status < 0 else f"ended with status {status}"
