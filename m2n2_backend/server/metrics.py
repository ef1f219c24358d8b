"""Prometheus metrics of one app."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from m2n2_backend.worker.interface import Answer, Pool, Work

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
    """The metrics of /metrics; each app has its own registry, so that several may live in one process."""

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
