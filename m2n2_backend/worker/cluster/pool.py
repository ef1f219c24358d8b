"""The pool of a cluster: replicas on Ray Serve, each image on the same one as long as that lives."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import Any

from m2n2_backend.errors import DeadlinePassed, NotReady, one_line
from m2n2_backend.settings import Settings
from m2n2_backend.worker.cluster.board import STALE_SECONDS, Report, board
from m2n2_backend.worker.cluster.connection import connect
from m2n2_backend.worker.cluster.deployment import Deployed, deployed, serving
from m2n2_backend.worker.cluster.quarantine import BoardQuarantine
from m2n2_backend.worker.figures import WorkerStats, cache_troubles
from m2n2_backend.worker.interface import Answer, SourceImage, Status, Work, model_version
from m2n2_backend.worker.messages import Done, Reply

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""How often a click is sent: once more to the successor of a replica that died."""

_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
_SILENCE_SECONDS = 15.0
_NOTHING = "nothing is deployed in the cluster yet: m2n2-backend cluster up"


class RayPool:
    """A :class:`~m2n2_backend.worker.interface.Pool` of replicas in a cluster. Threads share it.

    Any number of web processes may have one: all see the same ring of replicas, and so send an image to the same one.
    What they must know together is on the board. A pool keeps the latest look at the cluster, at most a few seconds
    old, and counts the deadlines that passed here.
    """

    def __init__(self, settings: Settings) -> None:
        """Join the cluster and look which generation serves.

        Raises:
            SettingsError: Ray is not installed.
            ClusterUnavailable: No cluster can be joined.
        """
        self._settings = settings
        self._ray = connect(settings.ray_address)
        self._generation: Deployed | None = None
        self._newest: Deployed | None = None
        self._handle: Any = None
        self._trouble = _NOTHING
        self._reports: list[tuple[Report, float]] = []
        self._seen_at = time.monotonic()
        self._timed_out = 0
        self._quarantine = BoardQuarantine()
        self._closed = threading.Event()
        self._look()
        self._watcher = threading.Thread(target=self._watch, name="cluster", daemon=True)
        self._watcher.start()

    def segment(self, work: Work) -> Answer:
        """See :meth:`m2n2_backend.worker.interface.Pool.segment`."""
        image, deadline, cause = work.image, time.monotonic() + work.seconds, ""
        refusal = self._quarantine.refusal(image.key, work.prompts)
        for _ in range(ATTEMPTS):
            if refusal is not None:
                raise refusal
            seconds = deadline - time.monotonic()
            response = self._send(replace(work, seconds=seconds))
            try:
                reply, fingerprint = response.result(timeout_s=max(0.0, seconds))
                # An error may be reported before anything was tried, so only a mask clears the image.
                if isinstance(reply.result, Done) and (cause or image.key in self._quarantine.suspects):
                    self._quarantine.survived(image.key, work.prompts)
                return _answer(reply, fingerprint)
            except TimeoutError:
                response.cancel()
                self._timed_out += 1
                raise DeadlinePassed("the model was busy until the deadline; click again") from None
            except (self._ray.exceptions.RayError, self._ray.serve.exceptions.RayServeException) as error:
                cause = type(error).__name__
                logger.warning("a replica did not answer: %s", one_line(error))
                refusal = self._quarantine.died(image.key, work.prompts, error)
        raise NotReady(f"the model worker died, {ATTEMPTS} times with this image ({cause}); see the cluster's log")

    def prefetch(self, image: SourceImage) -> bool:
        """See :meth:`m2n2_backend.worker.interface.Pool.prefetch`."""
        if image.key in self._quarantine.suspects:
            return False
        try:
            self._send(Work(image, None))
        except NotReady:
            return False
        return True

    def status(self) -> Status:
        """See :meth:`m2n2_backend.worker.interface.Pool.status`."""
        living = self._living()
        silence = time.monotonic() - self._seen_at
        generation, trouble = self._generation, self._trouble
        if silence > _SILENCE_SECONDS:
            trouble = f"the cluster has not answered for {silence:.0f} s"
        version = model_version(living[0].fingerprint if living else None)
        if generation is None or not living:
            state = "failed" if trouble else "loading"
            detail = trouble or loading_of(self._newest, time.time())
            return Status(state, version, self._settings.backbone, self._settings.device, detail)  # type: ignore[arg-type]
        wanted = sum(generation.replicas.values())
        devices = sorted({report.device for report in living})
        device = f"{len(living)} x {', '.join(devices)}"
        if len(living) < wanted:
            trouble = trouble or f"{len(living)} of {wanted} replicas answer"
        detail = "; ".join(filter(None, (trouble, cache_troubles(self.stats()))))
        return Status("degraded" if trouble else "ready", version, living[0].backbone, device, detail)

    def stats(self) -> list[WorkerStats]:
        """See :meth:`m2n2_backend.worker.interface.Pool.stats`."""
        since = time.monotonic() - self._seen_at
        own = [(report, age + since) for report, age in self._reports if self._is_serving(report)]
        return [
            WorkerStats(
                device=report.device,
                alive=age < STALE_SECONDS,
                figures=report.figures,
                timed_out=self._timed_out if number == 0 else 0,
                silence=age,
                name=report.replica,
                node=report.node,
            )
            for number, (report, age) in enumerate(sorted(own, key=lambda each: each[0].replica))
        ]

    def close(self) -> None:
        """See :meth:`m2n2_backend.worker.interface.Pool.close`."""
        self._closed.set()
        self._handle = None
        self._watcher.join(_ANSWER_SECONDS)

    def _send(self, work: Work) -> Any:
        """Begin work at the replica that has the image.

        Raises:
            NotReady: No replica can answer.
        """
        handle = self._handle
        if handle is None:
            raise NotReady(
                "shutting down" if self._closed.is_set() else self._trouble or "the model is still loading"
            )
        return handle.options(session_id=work.image.key).submit.remote(work)

    def _is_serving(self, report: Report) -> bool:
        return self._generation is not None and report.application == self._generation.name

    def _living(self) -> list[Report]:
        since = time.monotonic() - self._seen_at
        return [report for report, age in self._reports if self._is_serving(report) and age + since < STALE_SECONDS]

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        """Ask the cluster which generation serves, and how its replicas are."""
        try:
            generations = deployed(self._ray)
            before = self._generation.name if self._generation else None
            now = serving(generations, before)
            if now is not None and (self._handle is None or now.name != before):
                logger.info("%s serves", now.name)
                self._handle = self._ray.serve.get_app_handle(now.name)
            self._generation, self._newest = now, next(iter(generations), None)
            causes = [cause for each in generations if (cause := cause_of(each))]
            self._trouble = causes[0] if causes else _NOTHING if not generations else ""
            where = self._quarantine.board or board()
            asked = [where.read.remote(), where.suspects.remote()]
            self._reports, self._quarantine.suspects = self._ray.get(asked, timeout=_ANSWER_SECONDS)
            self._quarantine.board = where
            self._seen_at = time.monotonic()
        except Exception as error:  # whatever Ray raises while its head is away: the next look may succeed
            self._quarantine.board = None
            self._trouble = f"the cluster does not answer: {type(error).__name__}"
            logger.warning("the cluster does not answer: %s", one_line(error))


def _answer(reply: Reply, fingerprint: str) -> Answer:
    done = reply.result
    if not isinstance(done, Done):
        raise done
    return Answer(done.unpacked(), done.score, model_version(fingerprint), done.timings_ms, done.rle, done.view)


def loading_of(generation: Deployed | None, now: float) -> str:
    """How long a generation has been loading at ``now`` (seconds since the epoch), in words; empty without one."""
    if generation is None:
        return ""
    return f"{sum(generation.replicas.values())} replicas, loading for {max(0.0, now - generation.deployed_at):.0f} s"


def cause_of(generation: Deployed) -> str:
    """Why a generation has failed, in one line; empty where it has not."""
    if generation.state not in ("DEPLOY_FAILED", "UNHEALTHY"):
        return ""
    lines = [line.strip() for line in generation.message.splitlines() if line.strip()]
    named = [line.rpartition("BackboneUnavailable: ")[2] for line in lines if "BackboneUnavailable: " in line]
    return (named or lines or ["its replicas cannot be started"])[-1]
