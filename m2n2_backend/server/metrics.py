"""Prometheus metrics of one app."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from operator import attrgetter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from m2n2_backend.errors import ImageNeeded
from m2n2_backend.worker.figures import WorkerStats
from m2n2_backend.worker.interface import Answer, Pool, SourceImage, Status, Work
from m2n2_backend.worker.shares import Places, click_limits

_WORKER_FIGURES = (
    (GaugeMetricFamily, "alive", "1 where the worker can take work", "alive"),
    (GaugeMetricFamily, "waiting", "Clicks not answered yet", "figures.waiting"),
    (GaugeMetricFamily, "age", "Seconds the step in work has been running", "figures.age"),
    (GaugeMetricFamily, "silence", "Seconds since its latest message", "silence"),
    (GaugeMetricFamily, "rss", "Resident memory in bytes", "figures.rss"),
    (CounterMetricFamily, "restarts", "Starts after a death", "restarts"),
    (CounterMetricFamily, "superseded", "Answered with newer masks", "figures.superseded"),
    (CounterMetricFamily, "timed_out", "Deadlines that passed", "timed_out"),
    (CounterMetricFamily, "refused", "Found the queue full", "figures.refused"),
    (CounterMetricFamily, "encoded", "Times the model ran", "figures.encoded"),
)
"""Kind, name after ``m2n2_worker_``, help, and the attribute of WorkerStats."""

_TIER_FIGURES = (
    (GaugeMetricFamily, "bytes", "Held by a cache tier"),
    (GaugeMetricFamily, "limit", "Most bytes of a cache tier"),
    (GaugeMetricFamily, "entries", "Images in a cache tier"),
    (CounterMetricFamily, "hits", "Found in a cache tier"),
    (CounterMetricFamily, "misses", "Not found in a cache tier"),
    (CounterMetricFamily, "evictions", "Evicted from a cache tier"),
    (CounterMetricFamily, "failures", "Could not be written, read or reached"),
    (CounterMetricFamily, "damaged", "Files that could not be used"),
    (GaugeMetricFamily, "paused", "1 where it is left alone for a while"),
    (GaugeMetricFamily, "troubled", "1 where it cannot be used now"),
)
"""Kind, name after ``m2n2_cache_`` and of the attribute of Tier, help."""

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 30, 100)


class Metrics:
    """What /metrics tells; each app has its own registry, so that several may live in one process."""

    def __init__(self, pool: Pool) -> None:
        """Set up all metrics.

        Args:
            pool: Asked for its state and its workers' figures at every scrape.
        """
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "m2n2_http_requests", "Requests by route and status", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "m2n2_http_request_seconds", "Time to answer, by route", ["route"], buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._segments = Counter(
            "m2n2_segments", "Objects asked of the model by kind of prompt and outcome", ["kind", "outcome"],
            registry=self._registry,
        )  # fmt: skip
        self._parts = Histogram(
            "m2n2_model_seconds",
            "Parts of an answer: wait (queue), load (disk or file), encode (model), prepare (matrix and table), "
            "segment (clicks to mask), rle",
            ["part"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        ready = Gauge("m2n2_model_ready", "1 where the model can answer, else 0", registry=self._registry)
        ready.set_function(lambda: float(pool.status().state in ("ready", "degraded")))
        self._registry.register(_WorkerCollector(pool))

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request.

        Args:
            route: The route's rule, never the path as it was sent: anyone can invent paths.
            status: HTTP status.
            seconds: Time it took.
        """
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def segmented(self, work: Work, answer: Answer | None, error: Exception | None) -> None:
        """Count one object: its answer, or the error it ended with."""
        kind = "box" if work.prompts is not None and work.prompts.boxes else "clicks"
        self._segments.labels(kind, "ok" if error is None else type(error).__name__).inc()
        for part, milliseconds in (answer.timings_ms if answer else {}).items():
            self._parts.labels(part).observe(milliseconds / 1000.0)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class MeteredPool:
    """A :class:`~m2n2_backend.worker.interface.Pool` that counts its answers and bounds its clicks.

    Some places are kept for clicks on images that are prepared, and for other projects; see
    :func:`~m2n2_backend.worker.shares.click_limits`. An image counts as prepared if it is among the images that were
    answered last, as many as the workers say they hold.
    """

    def __init__(self, pool: Pool, metrics: Metrics, at_once: int, *, most_bytes: int) -> None:
        """Stand before a pool.

        Args:
            pool: The model.
            metrics: What is counted in.
            at_once: Most clicks that wait or are in work; one more is told to come back. A server keeps more threads
                than that, so that waiting for the model never blocks what must be answered at once.
            most_bytes: Most bytes of image files that those clicks hold together.
        """
        self._pool = pool
        self._metrics = metrics
        self._at_once = at_once
        self._most_bytes = most_bytes
        self._places = Places("clicks wait for the model")
        self._files = Places("bytes of images wait for the model")
        self._lock = threading.Lock()
        self._warm: OrderedDict[str, None] = OrderedDict()

    def segment(self, work: Work) -> Answer:
        """See :meth:`m2n2_backend.worker.interface.Pool.segment`."""
        try:
            project = work.subject.project if work.subject is not None else None
            is_cold = work.image.key not in self._warm
            places = click_limits(self._at_once, project, is_cold=is_cold)
            files = click_limits(self._most_bytes, project, is_cold=True)
            size = len(work.image.data or b"") if is_cold else 0
            with self._places.take(places), self._files.take(files, size):
                answer = self._pool.segment(work)
        except ImageNeeded:
            with self._lock:
                self._warm.pop(work.image.key, None)
            raise  # the same object is asked for once more, with its image
        except Exception as error:
            self._metrics.segmented(work, None, error)
            raise
        self._metrics.segmented(work, answer, None)
        self._note_warm(work.image.key)
        return answer

    def prefetch(self, image: SourceImage) -> bool:
        """See :meth:`m2n2_backend.worker.interface.Pool.prefetch`."""
        return self._pool.prefetch(image)

    def status(self) -> Status:
        """See :meth:`m2n2_backend.worker.interface.Pool.status`."""
        return self._pool.status()

    def stats(self) -> list[WorkerStats]:
        """See :meth:`m2n2_backend.worker.interface.Pool.stats`."""
        return self._pool.stats()

    def close(self) -> None:
        """See :meth:`m2n2_backend.worker.interface.Pool.close`."""
        self._pool.close()

    def _note_warm(self, key: str) -> None:
        prepared = sum(
            worker.figures.tiers["device"].entries
            for worker in self._pool.stats()
            if "device" in worker.figures.tiers
        )
        with self._lock:
            self._warm[key] = None
            self._warm.move_to_end(key)
            while len(self._warm) > max(1, prepared):
                self._warm.popitem(last=False)


class _WorkerCollector(Collector):
    """Figures that the workers count themselves, read at every scrape."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus-client."""
        workers = [(worker.name or str(index), worker) for index, worker in enumerate(self._pool.stats())]
        for kind, name, words, figure in _WORKER_FIGURES:
            family = kind(f"m2n2_worker_{name}", words, labels=["worker"])
            for label, worker in workers:
                family.add_metric([label], float(attrgetter(figure)(worker)))
            yield family
        for kind, name, words in _TIER_FIGURES:
            family = kind(f"m2n2_cache_{name}", words, labels=["worker", "tier"])
            for label, worker in workers:
                for tier, figures in worker.figures.tiers.items():
                    family.add_metric([label, tier], float(getattr(figures, name)))
            yield family
